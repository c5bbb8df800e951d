"""Which inputs are processed again, and why; what is known of earlier runs in folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.inputs.content import new_md5
from tasks.run.kept_outputs import made_in_folders, take_over, unreadable_runs
from tasks.run.program import Done, Program
from tasks.run.records import Output, Record
from tasks.run.results import Results
from tasks.run.skip_done import Why, what_to_run

PROGRAM = Program(script="s1", arguments="a1")


def done(content: str = "c1", program: Program = PROGRAM, text: str = "x") -> Done:
    output = Output(path="out", blob="outputs/a.txt/out", size=len(text), md5=new_md5(b"x" * len(text)).digest())
    return Done(content=content, program=program, record=Record(outputs=(output,)))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (None, Why.NEW),
        (done(content="c0"), Why.CONTENT),
        (done(program=Program(script="s0", arguments="a1")), Why.SCRIPT),
        (done(program=Program(script="s1", arguments="a0")), Why.ARGUMENTS),
        (done(content="c0", program=Program(script="s0", arguments="a0")), Why.CONTENT),  # the first that holds
        (done(program=Program(script="s0", arguments="a0")), Why.SCRIPT),
        (done(), None),
    ],
)
def test_each_change_is_a_reason_to_process_an_input(made: Done | None, why: Why | None) -> None:
    decided = what_to_run({"a.txt": "c1"}, PROGRAM, {"a.txt": made} if made else {}, set())
    assert decided.why == ({"a.txt": why} if why else {})
    assert decided.done == ({} if why else {"a.txt": made})


def test_outputs_that_are_gone_are_made_again() -> None:
    made = {"a.txt": done(), "b.txt": done()}
    decided = what_to_run({"a.txt": "c1", "b.txt": "c1"}, PROGRAM, made, {"b.txt"})
    assert (dict(decided.done), dict(decided.why)) == ({"a.txt": made["a.txt"]}, {"b.txt": Why.GONE})


def test_outputs_of_inputs_that_are_no_more_are_left_alone() -> None:
    decided = what_to_run({"a.txt": "c1"}, PROGRAM, {"a.txt": done(), "old.txt": done()}, {"old.txt"})
    assert (list(decided.done), dict(decided.why)) == (["a.txt"], {})


def test_the_numbers_and_reasons_are_one_line() -> None:
    made = {"a": done(), "b": done(content="c0"), "c": done(content="c0"), "d": done()}
    decided = what_to_run(dict.fromkeys("abcde", "c1"), PROGRAM, made, {"d"})
    assert str(decided) == (
        "1 skipped as done, 4 to process: 1 because it has no outputs yet; 2 because its content has changed; "
        "1 because its outputs are gone or have changed"
    )
    assert str(what_to_run({"a": "c1"}, PROGRAM, made, set())) == "1 skipped as done, 0 to process"


def run_of(output: Path, number: int, made: dict[str, Done]) -> Results:
    """The results of an earlier run, the older the smaller its number."""
    results = results_of(output, f"{number:012}")
    results.folder.mkdir(parents=True)
    results.remember(made)
    for name, each in made.items():
        for out, path in results.paths(name, each.record):
            path.parent.mkdir(parents=True)
            path.write_text("x" * out.size)
    os.utime(results.folder, (number, number))
    return results


def results_of(output: Path, id: str) -> Results:
    return Results(folder=output / f"run-script-{id}", program=PROGRAM)


def test_the_newest_outputs_of_an_input_are_found(tmp_path: Path) -> None:
    run_of(tmp_path, 1, {"a.txt": done(text="old"), "b.txt": done()})
    newer = run_of(tmp_path, 2, {"a.txt": done(text="newer")})
    made, gone, where = made_in_folders(results_of(tmp_path, "new"), {"a.txt": "c1", "b.txt": "c1", "c.txt": "c1"})
    assert made == {"a.txt": done(text="newer"), "b.txt": done()}
    assert (gone, where["a.txt"].folder) == (set(), newer.folder)


def test_outputs_of_this_program_are_found_behind_newer_ones_of_another(tmp_path: Path) -> None:
    run_of(tmp_path, 1, {"a.txt": done(text="x"), "b.txt": done(content="c0")})
    other = Program(script="s2", arguments="a1")
    run_of(tmp_path, 2, {"a.txt": done(program=other), "b.txt": done(program=other)})
    made, gone, _ = made_in_folders(results_of(tmp_path, "new"), {"a.txt": "c1", "b.txt": "c1"})
    assert (made, gone) == ({"a.txt": done(text="x"), "b.txt": done(program=other)}, set())


def test_outputs_that_were_deleted_are_found_in_an_older_run_or_gone(tmp_path: Path) -> None:
    older = run_of(tmp_path, 1, {"a.txt": done()})
    newer = run_of(tmp_path, 2, {"a.txt": done(), "b.txt": done()})
    for name in ("a.txt", "b.txt"):
        (newer.folder_of(name) / "out").unlink()
    made, gone, where = made_in_folders(results_of(tmp_path, "new"), {"a.txt": "c1", "b.txt": "c1"})
    assert (set(made), gone, where["a.txt"].folder) == ({"a.txt", "b.txt"}, {"b.txt"}, older.folder)


def test_results_of_other_workloads_and_damaged_notes_count_for_nothing(tmp_path: Path) -> None:
    results = run_of(tmp_path, 1, {"a.txt": done()})
    (results.folder / ".done.json").write_text("{")
    run_of(tmp_path, 2, {"a.txt": done()}).folder.rename(tmp_path / "top-words-000000000002")
    assert made_in_folders(results_of(tmp_path, "new"), {"a.txt": "c1"}) == ({}, set(), {})
    assert unreadable_runs(results_of(tmp_path, "new")) == [results.folder]


def test_outputs_of_earlier_runs_become_part_of_the_new_results(tmp_path: Path) -> None:
    nothing = replace(done(), record=Record(outputs=()))
    earlier = run_of(tmp_path, 1, {"a.txt": done(text="xyz"), "none.txt": nothing})
    results = results_of(tmp_path, "new")
    results.folder.mkdir()
    made, _, where = made_in_folders(results, {"a.txt": "c1", "none.txt": "c1"})
    take_over(results, made, where)
    assert (results.folder_of("a.txt") / "out").read_text() == "xxx"
    assert list(results.folder_of("none.txt").iterdir()) == []
    assert results.done() == earlier.done() == made
    take_over(results, *made_in_folders(results, {"a.txt": "c1", "none.txt": "c1"})[::2])  # a retry of the run
    assert (results.folder_of("a.txt") / "out").read_text() == "xxx"
