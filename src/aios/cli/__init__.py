"""The `aios` command: one file per command, loaded when it is asked for."""

from aios.cli.group import main

__all__ = ["main"]
