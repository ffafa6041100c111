"""Leases: named resources that one process at a time holds across its calls."""
