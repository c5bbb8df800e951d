"""Scripts that run on the nodes: each is one file and imports nothing but the standard library."""
