"""AIOS, an operating system for LLM agents: the kernel between agents and everything they spend, touch and remember."""

__version__ = "0.1.0"
