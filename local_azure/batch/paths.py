"""Paths that come from a client, kept inside the directory that they are for."""

from __future__ import annotations

import os
from pathlib import Path


class PathEscapes(ValueError):
    """The path leads out of its directory, or is none."""


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
