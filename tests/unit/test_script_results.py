"""What a run of a user's own script ends with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from tasks.run.outcomes import Cause, TaskOutcome
from tasks.run.records import Output, Record
from tasks.run.results import Outputs
from tasks.script_results import ScriptResults, outcomes_table, warn_without_match
from tasks.tables.joins import Join, JoinFormat

OUTCOMES = [
    TaskOutcome(id="t0", file="a\udce9.txt", state="completed", succeeded=True, earlier=True),
    TaskOutcome(id="t1", file="b.txt", state="completed", exit_code=3, node="n", retries=1, cause=Cause.EXIT_CODE),
    TaskOutcome(id="t2", file="c.txt", state="active", cause=Cause.NOT_STARTED),
]
MADE = tuple(Output(path=path, blob=path, size=5, md5=b"") for path in "xy")


def outputs(why: Mapping[str, str] | None = None) -> Outputs[None]:
    record = Record(outputs=MADE, exit_code=0, node="m", seconds=1.5)
    return Outputs(read={}, records={"a\udce9.txt": record}, outcomes=OUTCOMES, folder=Path("r"), why=why)


def test_each_input_has_a_row_with_what_is_known_of_it() -> None:
    table = outcomes_table(outputs())
    assert table.fillna(-1).values.tolist() == [
        ["a\\udce9.txt", True, 0, 1.5, "m", 0, 2, 10, ""],
        ["b.txt", False, 3, -1, "n", 1, 0, 0, "exited non-zero"],
        ["c.txt", False, -1, -1, "", 0, 0, 0, "never started"],
    ]


@pytest.mark.parametrize("why", [{"b.txt": "it has no outputs yet"}, {}], ids=["some", "none"])
def test_with_only_new_inputs_each_row_says_why_it_was_processed(why: Mapping[str, str]) -> None:
    assert outcomes_table(outputs(why))["processed_because"].tolist() == ["", why.get("b.txt", ""), ""]
    assert "processed_because" not in outcomes_table(outputs())


def test_the_table_or_else_the_outcomes_are_printed() -> None:
    table = pd.DataFrame({"file": [f"{number}.txt" for number in range(21)], "n": range(21)})
    results = ScriptResults(
        outcomes=outcomes_table(outputs()), table=table, folder=Path("r"), missing=("b.txt", "c.txt")
    )
    text = str(results)
    assert text.splitlines()[:2] == ["  file  n", " 0.txt  0"]
    assert text.endswith("\n... and 1 more rows\n\n1 of 3 files have succeeded\n\nWithout output: b.txt, c.txt")


def test_a_join_that_finds_nothing_names_what_there_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.script_results.get_run_logger", lambda: logging.getLogger("run"))
    nothing = Outputs(read={"a": None, "b": None}, records=outputs().records, outcomes=OUTCOMES, folder=Path("r"))
    with caplog.at_level("WARNING"):
        warn_without_match(Join(format=JoinFormat.CSV, pattern="z.csv"), nothing)
    assert caplog.messages == ["Table table: no output of 2 of 2 files matches 'z.csv'; outputs are called x, y"]
