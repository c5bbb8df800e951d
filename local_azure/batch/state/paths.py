"""Paths that come from a client, kept inside the directory that they are for."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path


class PathEscapes(ValueError):
    """The path leads out of its directory, or is none."""


def as_text(path: str) -> str:
    r"""A path as text that can be stored and sent: a byte that is no part of a UTF-8 character is written as \xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, for this user only."""
    if not directory.is_dir():
        make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def remove_tree(directory: Path) -> None:
    """Remove the directory with all that is in it, as far as it can be removed; `rm` takes any depth."""
    with contextlib.suppress(RecursionError):  # a task may nest directories more deeply than Python calls functions
        shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        subprocess.run(["rm", "-rf", "--", directory], stderr=subprocess.DEVNULL, check=False)


def resolve_inside(directory: Path, relative: str) -> Path:
    """The path `relative` below `directory`, neither of which needs to exist.

    Checked are absolute paths, `..` (even where it would come back), NUL, and every symbolic link on the way,
    the last component's included; so the answer has no link in it. Not checked is what others do to the
    directory between this call and the use of the answer: open it with O_NOFOLLOW where that matters.
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
