"""Lanes: resources with a width, and the policies that decide who is next."""
