"""What the kernel asks of the world: Protocols that drivers and doors keep, without their products' names."""
