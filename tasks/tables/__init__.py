"""Tables of outputs: read, joined, written."""
