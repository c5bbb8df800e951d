"""Which outputs of a run are joined into one table, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tasks.errors import InputError


class JoinFormat(str, Enum):
    """How the outputs to join are read."""

    CSV = "csv"  # UTF-8, separated by commas, with a header
    JSON = "json"  # an object (one row) or an array of objects
    JSONL = "jsonl"  # an object per line
    PARQUET = "parquet"


@dataclass(frozen=True, kw_only=True)
class Join:
    """The outputs to join: those of each input file that match the pattern, a glob below its folder of outputs."""

    format: JoinFormat
    pattern: str

    def __post_init__(self) -> None:
        """Raises InputError for a format that does not exist, and for a pattern that can match no output."""
        if self.format not in set(JoinFormat):
            formats = ", ".join(each.value for each in JoinFormat)
            raise InputError(f"join format {self.format!r}: does not exist; use one of {formats}")
        object.__setattr__(self, "format", JoinFormat(self.format))
        if problem := _problem(self.pattern):
            raise InputError(f"join pattern {self.pattern!r}: {problem}")

    def matches(self, folder: Path) -> list[Path]:
        """The files below the folder that match, in the order of their names."""
        parts = _parts(self.pattern)
        # Path.glob finds only folders for a final ** before Python 3.13.
        pattern = "/".join([*parts, "*"] if parts[-1] == "**" else parts)
        return sorted({path for path in folder.glob(pattern) if path.is_file()}, key=Path.as_posix)


def _parts(pattern: str) -> list[str]:
    return [part for part in pattern.split("/") if part not in ("", ".")]


def _problem(pattern: str) -> str:
    parts = _parts(pattern)
    if pattern.startswith("/"):
        return "begins with /; outputs are matched below OUTPUT_DIR, so name them relative to it, as in tables/*.csv"
    if not parts or pattern.endswith("/"):
        return "names no file; use a name or a glob, such as *.csv"
    if ".." in parts:
        return "leads out of OUTPUT_DIR with ..; name files below it, as in tables/*.csv"
    if "\0" in pattern:
        return "holds a NUL character, which no file name can; remove it"
    if any("**" in part and part != "**" for part in parts):
        return "** stands for folders, between slashes; use **/*.csv for the files in all folders"
    return ""
