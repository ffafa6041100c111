"""The ledger: what was spent, what is reserved, and the limits of both."""
