"""The table of all outputs of a run."""

from __future__ import annotations

from tasks.run.manifest import COLUMNS, manifest
from tasks.run.outcomes import TaskOutcome


def test_of_a_run_without_outputs_the_manifest_names_each_file() -> None:
    outcomes = [TaskOutcome(id="t", file=file, state="completed", exit_code=3) for file in ("a.txt", "b.txt")]
    table = manifest(outcomes, {})
    assert list(table.columns) == list(COLUMNS)
    assert table[["file", "output", "exit_code", "script"]].values.tolist() == [
        ["a.txt", "", 3, ""],
        ["b.txt", "", 3, ""],
    ]
    assert table["size"].isna().all()
