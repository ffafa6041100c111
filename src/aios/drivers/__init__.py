"""What the kernel asks of the world, done by one product per file."""
