"""What a run finds of an earlier try of its own in its folder of results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks.errors import InputError
from tasks.inputs.files import InputFile, find_inputs
from tasks.run.program import Done
from tasks.run.records import Output, Record
from tasks.run.results import Results, content_of

NOTE = ".done.json"
OUTPUT = "an output"


def done(file: InputFile) -> Done:
    """The one output of the file, as it is noted."""
    stem = Path(file.name).stem
    output = Output(path=f"{stem}_OUTPUT.txt", blob=f"{stem}_OUTPUT.txt", size=len(OUTPUT), md5=b"")
    return Done(content=content_of(file), record=Record(outputs=(output,)))


def write_output(results: Results, file: InputFile) -> Path:
    ((_, path),) = results.paths(file.name, done(file).record)
    path.parent.mkdir(parents=True)
    path.write_text(OUTPUT)
    return path


@pytest.fixture(autouse=True)
def no_run() -> Iterator[None]:
    with disable_run_logger():
        yield


@pytest.fixture
def files(tmp_path: Path) -> list[InputFile]:
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).write_text(f"the text of {name}")
    return list(find_inputs([str(tmp_path / "texts")]).files)


@pytest.fixture
def results(tmp_path: Path, files: list[InputFile]) -> Results:
    """Of a try that has processed both files."""
    results = Results.of(str(tmp_path), "top-words-0123456789ab", files)
    results.folder.mkdir()
    for file in files:
        write_output(results, file)
    results.remember({file.name: done(file) for file in files})
    return results


def source(file: InputFile) -> Path:
    assert isinstance(file.source, str)
    return Path(file.source)


def to_process(results: Results, files: list[InputFile]) -> list[str]:
    outcomes, left = results.sort(files)
    assert sorted([outcome.file for outcome in outcomes] + [file.name for file in left]) == ["a.txt", "b.txt"]
    assert all(outcome.earlier and outcome.succeeded and outcome.node is None for outcome in outcomes)
    return [file.name for file in left]


def test_in_a_folder_that_is_not_there_nothing_is_done(tmp_path: Path, files: list[InputFile]) -> None:
    outcomes, left = Results.of(str(tmp_path), "top-words-ffffffffffff", files).sort(files)
    assert (outcomes, left) == ([], files)


def test_what_an_earlier_try_has_processed_is_done(results: Results, files: list[InputFile]) -> None:
    outcomes, left = results.sort(files)
    assert left == []
    assert [(outcome.id, outcome.file) for outcome in outcomes] == [("topNtask0", "a.txt"), ("topNtask1", "b.txt")]


def test_a_file_that_has_changed_is_processed_again_also_where_it_is_as_long(
    results: Results, files: list[InputFile]
) -> None:
    source(files[1]).write_text("the text of B.txt")
    assert to_process(results, files) == ["b.txt"]


def test_what_only_new_inputs_has_decided_is_not_found_out_again(results: Results, files: list[InputFile]) -> None:
    source(files[0]).unlink()  # which reading it would notice
    assert to_process(replace(results, why={"b.txt": "its content has changed"}), files) == ["b.txt"]
    assert to_process(replace(results, why={}), files) == []
    (results.folder / "a.txt" / "a_OUTPUT.txt").unlink()
    assert to_process(replace(results, why={}), files) == ["a.txt"]


def test_a_file_whose_output_is_gone_is_processed_again(results: Results, files: list[InputFile]) -> None:
    (results.folder / "a.txt" / "a_OUTPUT.txt").unlink()
    assert to_process(results, files) == ["a.txt"]


def test_a_file_whose_output_is_shorter_than_noted_is_processed_again(results: Results, files: list[InputFile]) -> None:
    (results.folder / "b.txt" / "b_OUTPUT.txt").write_text(OUTPUT[1:])
    assert to_process(results, files) == ["b.txt"]


def test_an_output_that_nobody_has_noted_is_not_trusted(results: Results, files: list[InputFile]) -> None:
    (results.folder / NOTE).unlink()
    assert to_process(results, files) == ["a.txt", "b.txt"]


def test_a_file_that_can_no_longer_be_read_is_left_to_the_step_that_says_so(
    results: Results, files: list[InputFile]
) -> None:
    source(files[0]).unlink()
    assert to_process(results, files) == ["a.txt"]


def test_the_outcomes_of_later_tries_are_remembered_beside_the_earlier_ones(
    results: Results, files: list[InputFile]
) -> None:
    source(files[1]).write_text("another text")
    results.remember({"b.txt": done(files[1])})
    assert to_process(results, files) == []
    assert set(json.loads((results.folder / NOTE).read_text())) == {"a.txt", "b.txt"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a.txt"', "\x00"])
def test_a_note_that_cannot_be_read_counts_for_nothing(results: Results, files: list[InputFile], text: str) -> None:
    (results.folder / NOTE).write_text(text)
    assert to_process(results, files) == ["a.txt", "b.txt"]
    results.remember({"a.txt": done(files[0])})
    assert to_process(results, files) == ["b.txt"]


def test_notes_in_one_line_are_read_as_well(results: Results, files: list[InputFile]) -> None:
    note = results.folder / NOTE
    assert len(note.read_text().splitlines()) == 4
    note.write_text(json.dumps(json.loads(note.read_text())))
    assert to_process(results, files) == []


def test_notes_that_break_off_count_for_nothing(results: Results, files: list[InputFile]) -> None:
    note = results.folder / NOTE
    note.write_text("".join(note.read_text().splitlines(keepends=True)[:2]))
    assert (to_process(results, files), results.notes_unreadable()) == (["a.txt", "b.txt"], True)


def test_notes_are_parsed_once_while_they_are_as_they_were(results: Results, files: list[InputFile]) -> None:
    other = replace(results, folder=results.folder / "other")
    assert (results.done() is results.done(), set(results.done()), other.done()) == (True, {"a.txt", "b.txt"}, {})
    (results.folder / NOTE).write_text("{\n}\n")
    assert results.done() == {}


def test_a_note_in_other_bytes_than_utf_8_counts_for_nothing(results: Results, files: list[InputFile]) -> None:
    (results.folder / NOTE).write_bytes(b'{"a.txt": "\xff"}')
    assert to_process(results, files) == ["a.txt", "b.txt"]


def test_a_name_that_needs_escapes_is_remembered(tmp_path: Path, results: Results) -> None:
    name = 'ü "quoted".txt'
    (tmp_path / name).write_text("text")
    (file,) = find_inputs([str(tmp_path / name)]).files
    write_output(results, file)
    results.remember({name: done(file)})
    assert results.sort([file])[1] == []


def test_remembering_leaves_nothing_else_behind(results: Results) -> None:
    assert sorted(path.name for path in results.folder.iterdir()) == [NOTE, "a.txt", "b.txt"]


def test_an_output_folder_in_a_home_that_nobody_has_is_named() -> None:
    with pytest.raises(InputError, match=r"^output folder '~nobody-at-all/results': .*; name another$"):
        Results.of("~nobody-at-all/results", "top-words-0123456789ab", [])
