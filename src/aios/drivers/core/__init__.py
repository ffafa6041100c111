"""Cores: things that generate."""
