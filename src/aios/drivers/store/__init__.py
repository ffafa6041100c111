"""Drivers of what lasts."""
