"""Gives freed memory back to the system, where the C library is glibc."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of mallopt(3)
_LARGE = 1 << 20  # bytes


def return_large_blocks() -> None:
    """Let each block of 1 MiB or more go back to the system when it is freed.

    Without this glibc raises that limit to the size of the largest block that was freed, such as the table of a dict of
    very many files, and then keeps tens of megabytes of free blocks. Elsewhere it does nothing.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
