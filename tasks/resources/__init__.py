"""The container, pool and job of a run: create, adopt, tag, keep, delete, and list leftovers."""
