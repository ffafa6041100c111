"""Boards: shared places of versioned values."""
