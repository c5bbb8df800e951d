"""The table of all outputs of a run: whose they are, what they are, and what made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def manifest(outcomes: Iterable[TaskOutcome], done: Mapping[str, Done]) -> pd.DataFrame:
    """A row for each output, and one for each input without outputs or that failed, in the order of the inputs."""
    rows: list[dict[str, object]] = []
    for outcome in outcomes:
        made = done.get(outcome.file) if outcome.succeeded else None
        file = as_unicode(outcome.file)
        rows += _rows(file, made) if made else [{"file": file, "exit_code": outcome.exit_code}]
    return _table(rows)


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
            Output(path=str(row["output"]), blob=str(row["blob"]), size=int(row["size"]), md5=str(row["md5"]))
            for row in rows.to_dict("records")
            if row["output"]
        ]
        record = Record(outputs=tuple(outputs), node=str(first["node"]), seconds=float(first["seconds"]))
        program = Program(script=str(first["script"]), arguments=str(first["arguments"]))
        found[str(file)] = Done(content=str(first["input"]), program=program, record=record)
    return found


def _rows(file: str, made: Done) -> list[dict[str, object]]:
    record = made.record
    shared = {
        "file": file,
        "exit_code": record.exit_code,
        "node": record.node,
        "seconds": record.seconds,
        "input": made.content,
        "script": made.program.script,
        "arguments": made.program.arguments,
    }
    each = [
        {"output": as_unicode(out.path), "size": out.size, "md5": out.md5, "blob": out.blob} for out in record.outputs
    ]
    return [{**shared, **output} for output in each or [{}]]


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    texts = [name for name, kind in COLUMNS.items() if kind == "str"]
    frame[texts] = frame[texts].fillna("")
    return frame.astype({name: kind for name, kind in COLUMNS.items() if kind != "str"})
