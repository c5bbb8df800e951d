"""The table of all outputs: what it says, and that a later run reads the same from it."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from tasks.errors.text import as_unicode
from tasks.run.manifest import COLUMNS, made_in, manifest, with_others
from tasks.run.outcomes import Cause, TaskOutcome
from tasks.run.program import Done, Program
from tasks.run.records import Output, Record
from tasks.tables.write import write_table
from tests.support.awkward_names import AWKWARD_NAMES

PROGRAM = Program(script="5c", arguments="a6")


def done(*outputs: str, content: str = "c0") -> Done:
    made = tuple(
        Output(path=path, blob=f"kept/{number}", size=number, md5=number.to_bytes(16, "big"))
        for number, path in enumerate(outputs)
    )
    return Done(content=content, program=PROGRAM, record=Record(outputs=made, node="node-1", seconds=1.25))


def succeeded(*files: str) -> list[TaskOutcome]:
    return [TaskOutcome(id="t", file=file, state="completed", exit_code=0, succeeded=True) for file in files]


def failed(file: str, exit_code: int | None) -> TaskOutcome:
    return TaskOutcome(id="t", file=file, state="completed", exit_code=exit_code, cause=Cause.EXIT_CODE)


def written(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The manifest as a later run reads it."""
    write_table(table, folder / "manifest")
    return pd.read_parquet(folder / "manifest.parquet")


def test_each_output_is_a_row_and_so_is_each_input_without_outputs(tmp_path: Path) -> None:
    outcomes = [*succeeded("b.txt"), failed("bad.txt", 3), failed("lost.txt", None), *succeeded("a.txt")]
    table = manifest(outcomes, {"a.txt": done(), "b.txt": done("x", "d/y"), "bad.txt": done("of an earlier attempt")})
    assert list(table) == list(COLUMNS)
    made = ["c0", "5c", "a6"]
    zero, one = "0" * 32, "0" * 31 + "1"
    assert table.fillna(-1).values.tolist() == [
        ["b.txt", "x", 0, zero, 0, "node-1", 1.25, "kept/0", *made],
        ["b.txt", "d/y", 1, one, 0, "node-1", 1.25, "kept/1", *made],
        ["bad.txt", "", -1, "", 3, "", -1, "", "", "", ""],
        ["lost.txt", "", -1, "", -1, "", -1, "", "", "", ""],
        ["a.txt", "", -1, "", 0, "node-1", 1.25, "", *made],
    ]
    written(table, tmp_path)
    rows = list(csv.reader((tmp_path / "manifest.csv").open(newline="")))
    assert rows[2] == ["b.txt", "d/y", "1", one, "0", "node-1", "1.25", "kept/1", *made]
    assert rows[3] == ["bad.txt", "", "", "", "3", *[""] * 6]


@pytest.mark.parametrize("names", [["a.txt"], list(AWKWARD_NAMES)], ids=["one", "awkward"])
def test_a_later_run_reads_what_was_made(names: list[str], tmp_path: Path) -> None:
    made = {name: done(*AWKWARD_NAMES[: number % 4], content=f"c{number}") for number, name in enumerate(names)}
    table = written(manifest([*succeeded(*names), failed("bad.txt", 1)], made), tmp_path)
    read = made_in(table)
    assert list(read) == [as_unicode(name) for name in names]
    assert read == {as_unicode(name): each for name, each in made.items()}


def test_a_manifest_without_any_output_says_that_nothing_was_made(tmp_path: Path) -> None:
    assert made_in(written(manifest([failed("bad.txt", 1)], {}), tmp_path)) == {}
    assert made_in(written(manifest([], {}), tmp_path)) == {}


def test_rows_of_other_inputs_are_kept(tmp_path: Path) -> None:
    old = written(manifest(succeeded("a", "b", "c"), dict.fromkeys("abc", done("x", "y"))), tmp_path)
    new = manifest([*succeeded("b"), failed("c", 2)], {"b": done("z", content="c1")})
    table = with_others(new, old)
    assert table[["file", "output"]].values.tolist() == [["b", "z"], ["c", ""], ["a", "x"], ["a", "y"]]
    assert made_in(written(table, tmp_path)) == {"a": done("x", "y"), "b": done("z", content="c1")}
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS


def test_with_none_of_others_the_new_rows_are_all() -> None:
    new = manifest(succeeded("a"), {"a": done("x")})
    assert with_others(new, new).equals(new)
