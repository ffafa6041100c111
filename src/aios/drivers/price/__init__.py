"""What models cost: the table that comes with AIOS, and what the operator says of it."""
