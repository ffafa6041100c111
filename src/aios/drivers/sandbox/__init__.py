"""Drivers of the port `Sandbox`."""
