"""How long a script took per file, read from the manifests of earlier runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.run.manifest import manifest
from tasks.run.outcomes import TaskOutcome
from tasks.run.program import Done, Program
from tasks.run.records import Output, Record
from tasks.run.results import Results
from tasks.run.speed import Speed, known_speed
from tasks.tables.write import write_table

PROGRAM = Program(script="5c", arguments="a6")


def earlier_run(folder: Path, name: str, seconds: Mapping[str, float], time: int, program: Program = PROGRAM) -> None:
    outputs = tuple(Output(path=path, blob="", size=1, md5=b"") for path in ("x", "y"))
    outcomes = [TaskOutcome(id="t", file=file, state="completed", exit_code=0, succeeded=True) for file in seconds]
    done = {
        file: Done(content="c", program=program, record=Record(outputs=outputs, seconds=each))
        for file, each in seconds.items()
    }
    (folder / name).mkdir()
    write_table(manifest(outcomes, done), folder / name / "manifest")
    os.utime(folder / name / "manifest.parquet", (time, time))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(folder=tmp_path / "top-words-now", program=PROGRAM)


def test_the_newest_run_of_the_same_program_counts(tmp_path: Path, results: Results) -> None:
    earlier_run(tmp_path, "top-words-1", {"a": 9}, 1)
    earlier_run(tmp_path, "top-words-2", {"a": 2, "b": 4}, 2)
    earlier_run(tmp_path, "top-words-3", {"a": 7}, 3, Program(script="5c", arguments="others"))
    earlier_run(tmp_path, "other-4", {"a": 8}, 4)
    assert known_speed(results, ["a", "b"]) == Speed(seconds=3, files=2, run="top-words-2", same_files=True)


def test_of_the_same_files_only_those_to_process_count(tmp_path: Path, results: Results) -> None:
    earlier_run(tmp_path, "top-words-1", {"a": 1, "b": 99}, 1)
    assert known_speed(results, ["a", "new"]) == Speed(seconds=1, files=1, run="top-words-1", same_files=True)


def test_other_files_are_named_as_such(tmp_path: Path, results: Results) -> None:
    earlier_run(tmp_path, "top-words-1", {"a": 1, "b": 3}, 1)
    assert known_speed(results, ["new", "newer", "a"]) == Speed(seconds=2, files=2, run="top-words-1", same_files=False)


def test_with_nothing_to_process_nothing_is_read(tmp_path: Path, results: Results) -> None:
    earlier_run(tmp_path, "top-words-1", {"a": 1}, 1)
    assert known_speed(results, []) is None


def test_without_a_readable_run_nothing_is_known(tmp_path: Path, results: Results) -> None:
    assert known_speed(results, ["a"]) is None
    (tmp_path / "top-words-1").mkdir()
    (tmp_path / "top-words-1" / "manifest.parquet").write_text("no table")
    assert known_speed(results, ["a"]) is None
