"""The table of all outputs of a run: whose they are, what they are, and what made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd

from tasks.errors.text import as_unicode
from tasks.run.outcomes import TaskOutcome
from tasks.run.program import Done, Program
from tasks.run.records import Output, Record

COLUMNS = {
    "file": "str",  # the input's name, what is not UTF-8 in it as escapes
    "output": "str",  # the path below the input's folder; empty where the script left none
    "size": "Int64",  # bytes
    "md5": "str",
    "exit_code": "Int64",
    "node": "str",
    "seconds": "Float64",  # that the script ran
    "blob": "str",  # in the container that has the outputs
    "input": "str",  # what identifies the input's content: its MD5, or the ETag of a blob without one
    "script": "str",  # digests of what made the outputs
    "arguments": "str",
}
_FILES = 5000  # in a part


def manifest(outcomes: Iterable[TaskOutcome], done: Mapping[str, Done]) -> pd.DataFrame:
    """A row for each output, and one for each input without outputs or that failed, in the order of the inputs."""
    columns: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for outcome in outcomes:
        made = done.get(outcome.file) if outcome.succeeded else None
        for row in _rows(as_unicode(outcome.file), outcome, made):
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return pd.DataFrame({name: pd.Series(columns.pop(name), dtype=kind) for name, kind in COLUMNS.items()})


def manifest_parts(outcomes: Sequence[TaskOutcome], done: Mapping[str, Done]) -> Iterator[pd.DataFrame]:
    """The same in parts, at least one, of which each takes little memory."""
    for at in range(0, max(1, len(outcomes)), _FILES):
        yield manifest(outcomes[at : at + _FILES], done)


def with_others(new: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """The new manifest, and the rows of the old one for inputs that the new one does not have."""
    others = old[~old["file"].isin(new["file"])]
    return pd.concat([new, others], ignore_index=True) if len(others) else new


def made_in(table: pd.DataFrame) -> dict[str, Done]:
    """What the manifest says of each input whose outputs are there, by its name."""
    found: dict[str, Done] = {}
    for file, rows in table[table["input"] != ""].groupby("file", sort=False):
        first = rows.iloc[0]
        outputs = [
            Output(path=str(row["output"]), blob=str(row["blob"]), size=int(row["size"]), md5=bytes.fromhex(row["md5"]))
            for row in rows.to_dict("records")
            if row["output"]
        ]
        record = Record(outputs=tuple(outputs), node=str(first["node"]), seconds=float(first["seconds"]))
        program = Program(script=str(first["script"]), arguments=str(first["arguments"]))
        found[str(file)] = Done(content=str(first["input"]), program=program, record=record)
    return found


def _rows(file: str, outcome: TaskOutcome, made: Done | None) -> list[tuple[object, ...]]:
    """With the values in the order of the columns."""
    if made is None:
        return [(file, "", None, "", outcome.exit_code, "", None, "", "", "", "")]
    record, program = made.record, made.program
    ran = (record.exit_code, record.node, record.seconds)
    of = (made.content, program.script, program.arguments)
    each: list[tuple[object, ...]] = [
        (as_unicode(out.path), out.size, out.md5.hex(), *ran, out.blob, *of) for out in record.outputs
    ]
    return [(file, *values) for values in each or [("", None, "", *ran, "", *of)]]
