"""Errors of this machine's file system, as a run reports them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import ResultsError


@contextmanager
def at(path: Path) -> Iterator[None]:
    """Turn an error of this machine's file system into a ResultsError that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ResultsError(f"{path}: {reason}") from None
