"""The content of an input file: how it is read, its MD5 and its size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tasks.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Content:
    """What was in a file when it was read."""

    md5: bytes  # which Blob Storage keeps too
    size: int

    @classmethod
    def of(cls, path: Path) -> Content:
        """Raises InputError where the file cannot be read."""
        digest, size = new_md5(), 0
        with open_input(path) as file:
            while block := read_input(path, file, 1 << 20):
                digest.update(block)
                size += len(block)
        return cls(md5=digest.digest(), size=size)


def new_md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)


def open_input(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from None


def read_input(path: Path, file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"input {str(path)!r} can no longer be read ({error.strerror})")
