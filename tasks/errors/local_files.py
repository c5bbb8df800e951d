"""Paths on this machine, and errors of its file system as a run reports them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tasks.errors import InputError, ResultsError


def expanded(what: str, path: str | os.PathLike[str]) -> Path:
    """The path with the home directory that `~` stands for. Raises InputError, which begins with `what`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{what} {os.fspath(path)!r}: there is no such home directory; name another") from None


@contextmanager
def at(path: Path) -> Iterator[None]:
    """Turn an error of this machine's file system into a ResultsError that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ResultsError(f"{path}: {reason}") from None


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of the one at the path once it has been written completely. Raises ResultsError."""
    partial = path.with_name(f".{path.name.removeprefix('.')}.part")
    try:
        with at(path):
            with partial.open("wb") as file:
                yield file
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def refuse_unwritable(results: Path, *, make: bool) -> None:
    """Raise InputError where a folder for results could not be made and written."""
    try:
        if make:
            results.mkdir(parents=True, exist_ok=True)
        nearest = next(folder for folder in (results, *results.absolute().parents) if os.path.lexists(folder))
        if not nearest.is_dir():
            raise NotADirectoryError(20, "Not a directory")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise InputError(
            f"output folder {str(results.parent)!r}: cannot be written ({error.strerror}); name another"
        ) from None
