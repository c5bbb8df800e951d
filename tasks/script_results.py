"""What a run of a user's own script ends with: what became of each input file, and the joined outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.errors.text import as_unicode, cut, listed, visible
from tasks.join import save_table
from tasks.run.results import Outputs
from tasks.tables.concatenation import concatenate
from tasks.tables.joins import Join
from tasks.tables.write import value_text

OUTCOMES = "outcomes"
TABLE = "table"
_MOST_PRINTED, _WIDEST = 20, 40  # rows and characters of a column, on the terminal


@dataclass(frozen=True, kw_only=True, eq=False)
class ScriptResults:
    """The results of one run.

    outcomes: a row per input file, in the order of the inputs, with the columns file, succeeded, exit_code, seconds (of
    the script), node, retries, outputs (how many files it left), bytes (of these), and reason (why it failed);
    with skip_done also processed_because.

    table: the joined outputs, if joined.

    folder: where outputs and tables are; the outputs of a file in the folder of its name.
    """

    outcomes: pd.DataFrame
    table: pd.DataFrame | None
    folder: Path
    missing: tuple[str, ...] = ()
    flow_run_id: str = ""

    def __str__(self) -> str:
        shown = self.table if self.table is not None else self.outcomes
        done = int(self.outcomes["succeeded"].sum())
        parts = [_head(shown), "", f"{done:,} of {len(self.outcomes):,} files have succeeded"]
        if self.missing:
            parts += ["", f"Without output: {listed(self.missing)}"]
        return visible("\n".join(parts))


def collect(outputs: Outputs[pa.Table | None], *, join: Join | None = None) -> ScriptResults:
    """Join the outputs, if so, and leave both tables in the results folder."""
    outcomes = outcomes_table(outputs)
    save_table(outcomes, outputs, OUTCOMES)
    table = None
    if join:
        outputs = replace(outputs, read=dict(outputs.read))  # they are read once
        read = {file: rows for file, rows in outputs.read.items() if rows is not None}
        warn_without_match(join, outputs)
        table = save_table(concatenate(join, read), outputs, TABLE)
    return ScriptResults(
        outcomes=outcomes,
        table=table,
        folder=outputs.folder,
        missing=outputs.missing,
        flow_run_id=str(flow_run.id),
    )


def warn_without_match(join: Join, outputs: Outputs[Any]) -> None:
    """Where the outputs of some files have nothing to join, say so and what they are called."""
    without = sum(rows is None for rows in outputs.read.values())
    if not without:
        return
    names = sorted({output.path for record in outputs.records.values() for output in record.outputs})
    get_run_logger().warning(
        "Table %s: no output of %d of %d files matches %r; outputs are called %s",
        TABLE,
        without,
        len(outputs.read),
        join.pattern,
        listed(names) or "nothing, for there are none",
    )


def outcomes_table(outputs: Outputs[Any]) -> pd.DataFrame:
    """The table `outcomes` of ScriptResults."""
    # Not as rows, which would take several times the memory of the table.
    outcomes = outputs.outcomes
    records = [outputs.records.get(outcome.file) for outcome in outcomes]
    both = list(zip(outcomes, records, strict=True))
    left = [record.outputs if record else () for record in records]
    columns: dict[str, list[Any]] = {
        "file": [as_unicode(outcome.file) for outcome in outcomes],
        "succeeded": [outcome.succeeded for outcome in outcomes],
        "exit_code": [record.exit_code if record else outcome.exit_code for outcome, record in both],
        "seconds": [record.seconds if record else outcome.seconds for outcome, record in both],
        "node": [record.node if record else outcome.node or "" for outcome, record in both],
        "retries": [outcome.retries for outcome in outcomes],
        "outputs": [len(each) for each in left],
        "bytes": [sum(output.size for output in each) for each in left],
        "reason": ["" if outcome.succeeded else outcome.reason for outcome in outcomes],
    }
    if outputs.why is not None:
        columns["processed_because"] = [outputs.why.get(outcome.file, "") for outcome in outcomes]
    types = {"exit_code": "Int64", "seconds": "Float64", "outputs": "int64", "bytes": "int64"}
    return pd.DataFrame(columns).astype(types)


def _head(frame: pd.DataFrame) -> str:
    head = frame.head(_MOST_PRINTED)
    texts = {str(name): [cut(value_text(value), _WIDEST) for value in head[name]] for name in head}
    text = pd.DataFrame(texts).to_string(index=False)
    more = len(frame) - _MOST_PRINTED
    return f"{text}\n... and {more:,} more rows" if more > 0 else text
