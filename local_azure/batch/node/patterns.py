"""The file patterns of output files: `*`, `**`, `?` and `[...]`, without leaving the task's directory."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_azure.batch.state.paths import PathEscapes, confine

VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@dataclass(frozen=True, kw_only=True)
class Match:
    path: Path  #: the path of the file, without symbolic links
    name: str  #: its path relative to the directory before the first wildcard; without wildcard, its file name


def is_wild(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def expand_variables(pattern: str, environment: Mapping[str, str]) -> str:
    """Replace $NAME and ${NAME} from the task's environment; unknown names are kept."""
    return VARIABLE.sub(lambda found: environment.get(found[1] or found[2], found[0]), pattern)


def matches(pattern: str, working_directory: Path) -> list[Match]:
    """The files of the task's directory that match `pattern`, relative to the working directory or absolute.

    Hidden files need a pattern that starts with a dot. Files outside of the task's directory, also by a symbolic link,
    are skipped; naming one without a wildcard raises PathEscapes.
    """
    task_directory = Path(os.path.realpath(working_directory)).parent
    fixed, wild = _split(pattern)
    base = confine(task_directory, Path(os.path.normpath(Path(os.path.realpath(working_directory), *fixed))))
    if not wild:
        return [Match(path=base, name=fixed[-1])] if os.path.isfile(base) else []
    return [
        Match(path=path, name=os.path.relpath(found, base))
        for found in sorted(_walk(base, wild))
        if (path := _confined_file(task_directory, found)) is not None
    ]


def _split(pattern: str) -> tuple[list[str], list[str]]:
    """The parts before the first wildcard, and the rest."""
    if not pattern or "\0" in pattern:
        raise PathEscapes(f"{pattern!r} is not a file pattern.")
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    first = next((index for index, part in enumerate(parts) if is_wild(part)), len(parts))
    fixed, wild = parts[:first], parts[first:]
    if ".." in wild:
        raise PathEscapes(f"The file pattern {pattern!r} has '..' after a wildcard.")
    if wild and wild[-1] == "**":
        wild.append("*")
    if pattern.startswith("/"):
        fixed.insert(0, "/")
    return fixed, wild


def _walk(base: Path, parts: list[str]) -> Iterator[Path]:
    """The files that match the parts, each once; every directory is read once, whatever the number of `**`."""
    pending = [(base, _positions(parts, {0}))]
    while pending:
        directory, positions = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError:  # not a directory, or not readable
            continue
        for entry in entries:
            fitting = [position for position in positions if _fits(entry.name, parts[position])]
            # The last part is of a file's name, and never `**`; those before it are of directories.
            if len(parts) - 1 in fitting and entry.is_file():
                yield Path(entry.path)
            inner = {position + (parts[position] != "**") for position in fitting if position < len(parts) - 1}
            # Links to directories are not followed: they may lead outside, or form a cycle.
            if inner and entry.is_dir(follow_symlinks=False):
                pending.append((Path(entry.path), _positions(parts, inner)))


def _positions(parts: list[str], positions: set[int]) -> set[int]:
    """The parts that a name may fit next: `**` also stands for no directory at all."""
    reached = set(positions)
    for position in range(min(positions), len(parts) - 1):
        if position in reached and parts[position] == "**":
            reached.add(position + 1)
    return reached


def _fits(name: str, part: str) -> bool:
    if name.startswith(".") and not part.startswith("."):
        return False
    return part == "**" or fnmatch.fnmatchcase(name, part)


def _confined_file(task_directory: Path, path: Path) -> Path | None:
    try:
        return confine(task_directory, path)
    except PathEscapes:
        return None
