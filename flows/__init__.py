"""The flows: one file each."""

import os

# Before pyarrow is imported, whose own allocator keeps what is freed: as much again as the tables of a large run.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
