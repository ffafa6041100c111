"""What the benchmarks share: the upstream, the client, floors, a real kernel, and the form of a result."""
