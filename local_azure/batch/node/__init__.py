"""A node: running commands, staging files."""
