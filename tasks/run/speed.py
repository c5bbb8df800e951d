"""How long a script took per file in an earlier run, from the manifest that the run left on this machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.errors.text import as_unicode
from tasks.run.output_address import MANIFEST
from tasks.run.program import NO_PROGRAM
from tasks.run.results import Results

_MOST_RUNS = 5  # of the newest are looked at: each is read


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The mean seconds that the same script with the same arguments took for a file, on the nodes of then.

    same_files: most of the files to process are, by their names, among those.
    """

    seconds: float
    files: int
    run: str  # the folder of its results
    same_files: bool


def known_speed(results: Results, names: Collection[str]) -> Speed | None:
    """The speed of the newest earlier run of the program in the same output folder; None where none is known.

    names: of the files to process.
    """
    if results.program == NO_PROGRAM or not names:
        return None
    prefix = results.folder.name.rpartition("-")[0]
    found = [path for path in results.folder.parent.glob(f"{prefix}-*/{MANIFEST}.parquet") if _time(path)]
    for path in sorted(found, key=_time, reverse=True)[:_MOST_RUNS]:
        seconds = _seconds(path, results)
        if seconds:
            known = [seconds[name] for name in map(as_unicode, names) if name in seconds]
            same = 2 * len(known) >= len(names)
            of = known if same else list(seconds.values())
            return Speed(seconds=sum(of) / len(of), files=len(of), run=path.parent.name, same_files=same)
    return None


def _seconds(manifest: Path, results: Results) -> dict[str, float]:
    """Of each file that the program has processed, by its name; empty where the manifest cannot be read."""
    try:
        table = pq.read_table(manifest, columns=["file", "seconds", "exit_code", "script", "arguments"])
        program = results.program
        same = pc.and_(
            pc.equal(table["script"], program.script),
            pc.and_(pc.equal(table["arguments"], program.arguments), pc.equal(table["exit_code"], 0)),
        )
        of = table.filter(same)
        pairs = zip(of["file"].to_pylist(), of["seconds"].to_pylist(), strict=True)
        return {name: float(seconds) for name, seconds in pairs if seconds is not None}
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return {}


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
