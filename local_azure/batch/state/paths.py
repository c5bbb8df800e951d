"""Paths: private files, and paths given by clients, which are confined to their directory."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from pathlib import Path


class PathEscapes(ValueError):
    """The path leads out of its directory, or is invalid."""


def as_text(path: str) -> str:
    r"""A path as text that can be stored and sent: bytes that are not valid UTF-8 are written as \xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def make_private(directory: Path) -> None:
    """Create a directory and its missing parents, for this user only."""
    if not directory.is_dir():
        make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner only from the start."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def remove_tree(directory: Path) -> None:
    """Remove the directory tree as far as possible; `rm` handles any depth."""
    with contextlib.suppress(RecursionError):  # a task may nest directories more deeply than Python's recursion limit
        shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        subprocess.run(["rm", "-rf", "--", directory], stderr=subprocess.DEVNULL, check=False)


def resolve_inside(directory: Path, relative: str) -> Path:
    """The path `relative` below `directory`, neither of which needs to exist.

    Refused are absolute paths, any `..`, NUL, and symbolic links that lead outside; the result has no links. Changes
    between this call and the use of the result are not covered: open it with O_NOFOLLOW where that matters.
    Raises PathEscapes.
    """
    if not relative or "\0" in relative:
        raise PathEscapes(f"{relative!r} is not a path.")
    if relative.startswith("/"):
        raise PathEscapes(f"The path {relative!r} is absolute; give one relative to its directory.")
    if ".." in relative.split("/"):
        raise PathEscapes(f"The path {relative!r} contains '..'.")
    return confine(directory, directory / relative)


def confine(directory: Path, path: Path) -> Path:
    """`path` without symbolic links; raises PathEscapes if that is not below `directory`."""
    root, resolved = os.path.realpath(directory), os.path.realpath(path)
    if os.path.commonpath([root, resolved]) != root:
        raise PathEscapes(f"The path {path.name!r} leads out of its directory by a symbolic link.")
    return Path(resolved)
