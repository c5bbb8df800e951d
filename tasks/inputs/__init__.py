"""Which files and blobs a run works on, and their names."""
