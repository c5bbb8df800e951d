"""The notes in a folder of results: the files whose outputs are there, the content of each, and its record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors.local_files import at
from tasks.run.program import Done

_Stamp = tuple[str, int, int, int]


@dataclass(kw_only=True)
class Notes:
    """Reads and writes the notes; those that were read last are not parsed again while their file is as it was."""

    _stamp: _Stamp | None = None
    _known: Mapping[str, Done] | None = None

    def read(self, path: Path) -> Mapping[str, Done] | None:
        """The noted files by name; None where there are notes that cannot be read."""
        try:
            stamp = _stamp_of(path)
            if stamp != self._stamp:
                with path.open(encoding="utf-8", errors="surrogatepass") as file:
                    self._known = {name: Done.of(values) for name, values in _entries(file)}
                self._stamp = stamp
            return self._known
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, AttributeError, TypeError):
            return None

    def write(self, path: Path, done: Mapping[str, Done]) -> None:
        """Raises ResultsError, and leaves what was there, where it cannot be written."""
        partial = path.with_name(f"{path.name}.part")
        try:
            with at(partial):
                with partial.open("w", encoding="utf-8", errors="surrogatepass") as file:
                    file.writelines(_lines(done))
                stamp = _stamp_of(partial, named=path)
                partial.replace(path)
            self._stamp, self._known = stamp, done
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _stamp_of(path: Path, named: Path | None = None) -> _Stamp:
    found = path.stat()
    return str(named or path), found.st_ino, found.st_mtime_ns, found.st_size


def _lines(done: Mapping[str, Done]) -> Iterator[str]:
    """JSON with a file in each line, so that no more of it need be in memory at once."""
    separator = "{\n"
    for name, each in done.items():
        yield f"{separator}{json.dumps(name)}: {json.dumps(each.as_values())}"
        separator = ",\n"
    yield "\n}\n" if done else "{\n}\n"


def _entries(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Raises ValueError, AttributeError or TypeError where `_lines`, or an earlier release, has not written that."""
    lines = iter(lines)
    first = next(lines, "")
    if first != "{\n":
        yield from json.loads("".join([first, *lines])).items()
        return
    last = ""
    for last in lines:
        if last != "}\n":
            yield from json.loads(f"{{{last.rstrip().removesuffix(',')}}}").items()
    if last != "}\n":
        raise ValueError("its end is missing")
