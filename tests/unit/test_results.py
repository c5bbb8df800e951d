"""What a run finds of an earlier try of its own in its folder of results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks.errors import InputError
from tasks.run.content import Content
from tasks.run.inputs import InputFile, find_inputs
from tasks.run.results import Results

COUNTED = ".done.json"


@pytest.fixture(autouse=True)
def no_run() -> Iterator[None]:
    with disable_run_logger():
        yield


@pytest.fixture
def files(tmp_path: Path) -> list[InputFile]:
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).write_text(f"the text of {name}")
    return find_inputs([str(tmp_path / "texts")])


@pytest.fixture
def results(tmp_path: Path, files: list[InputFile]) -> Results:
    """Of a try that has counted both files."""
    results = Results.of(str(tmp_path), "top-words-0123456789ab")
    results.folder.mkdir()
    for file in files:
        results.path(file.output_name).write_text("an output")
    results.remember({file.name: Content.of(file.path).md5.hex() for file in files})
    return results


def to_count(results: Results, files: list[InputFile]) -> list[str]:
    done, left = results.sort(files)
    assert sorted([outcome.file for outcome in done] + [file.name for file in left]) == ["a.txt", "b.txt"]
    assert all(outcome.earlier and outcome.succeeded and outcome.node is None for outcome in done)
    return [file.name for file in left]


def test_in_a_folder_that_is_not_there_nothing_has_been_counted(tmp_path: Path, files: list[InputFile]) -> None:
    done, left = Results.of(str(tmp_path), "top-words-ffffffffffff").sort(files)
    assert (done, left) == ([], files)


def test_what_an_earlier_try_has_counted_is_done(results: Results, files: list[InputFile]) -> None:
    done, left = results.sort(files)
    assert left == []
    assert [(outcome.id, outcome.file, outcome.output_name) for outcome in done] == [
        ("topNtask0", "a.txt", "a_OUTPUT.txt"),
        ("topNtask1", "b.txt", "b_OUTPUT.txt"),
    ]


def test_a_file_that_has_changed_is_counted_again_also_where_it_is_as_long(
    results: Results, files: list[InputFile]
) -> None:
    files[1].path.write_text("the text of B.txt")
    assert to_count(results, files) == ["b.txt"]


def test_a_file_whose_output_is_gone_is_counted_again(results: Results, files: list[InputFile]) -> None:
    results.path("a_OUTPUT.txt").unlink()
    assert to_count(results, files) == ["a.txt"]


def test_an_output_that_nobody_has_noted_is_not_trusted(results: Results, files: list[InputFile]) -> None:
    results.path(COUNTED).unlink()
    assert to_count(results, files) == ["a.txt", "b.txt"]


def test_a_file_that_can_no_longer_be_read_is_left_to_the_step_that_says_so(
    results: Results, files: list[InputFile]
) -> None:
    files[0].path.unlink()
    assert to_count(results, files) == ["a.txt"]


def test_the_outcomes_of_later_tries_are_remembered_beside_the_earlier_ones(
    results: Results, files: list[InputFile]
) -> None:
    files[1].path.write_text("another text")
    results.remember({"b.txt": Content.of(files[1].path).md5.hex()})
    assert to_count(results, files) == []
    assert set(json.loads(results.path(COUNTED).read_text())) == {"a.txt", "b.txt"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a.txt"', "\x00"])
def test_a_note_that_cannot_be_read_counts_for_nothing(results: Results, files: list[InputFile], text: str) -> None:
    results.path(COUNTED).write_text(text)
    assert to_count(results, files) == ["a.txt", "b.txt"]
    results.remember({"a.txt": Content.of(files[0].path).md5.hex()})
    assert to_count(results, files) == ["b.txt"]


def test_a_note_in_other_bytes_than_utf_8_counts_for_nothing(results: Results, files: list[InputFile]) -> None:
    results.path(COUNTED).write_bytes(b'{"a.txt": "\xff"}')
    assert to_count(results, files) == ["a.txt", "b.txt"]


def test_a_name_that_needs_escapes_is_remembered(tmp_path: Path, results: Results) -> None:
    name = 'ü "quoted".txt'
    (tmp_path / name).write_text("text")
    (file,) = find_inputs([str(tmp_path / name)])
    results.path(file.output_name).write_text("an output")
    results.remember({name: Content.of(file.path).md5.hex()})
    assert results.sort([file])[1] == []


def test_remembering_leaves_nothing_else_behind(results: Results) -> None:
    assert sorted(path.name for path in results.folder.iterdir()) == [COUNTED, "a_OUTPUT.txt", "b_OUTPUT.txt"]


def test_an_output_folder_in_a_home_that_nobody_has_is_named() -> None:
    with pytest.raises(InputError, match=r"^output folder '~nobody-at-all/results': .*; name another$"):
        Results.of("~nobody-at-all/results", "top-words-0123456789ab")
