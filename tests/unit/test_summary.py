"""The summary: rows per file, bounds over all files, and the reading of the node script's output."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RunError
from tasks.summary import (
    BY_FILE,
    OVERALL,
    Summary,
    parse_output,
)
from tasks.tables.word_lists import FileOutput, WordLists
from tasks.tables.write import write_table

RULE = "-" * 30
COLUMNS = ["file", "rank", "word", "count", "task", "node"]


def output(file: str, *words: tuple[str, int]) -> FileOutput:
    return FileOutput(file=file, words=words, task=f"task of {file}", node="node")


def words_by_file(outputs: Iterable[FileOutput]) -> pd.DataFrame:
    return WordLists(outputs).by_file()


def words_overall(outputs: Iterable[FileOutput], top_n: int) -> pd.DataFrame:
    return WordLists(outputs).overall(top_n)


def test_there_is_a_row_per_file_and_rank() -> None:
    frame = words_by_file([output("a.txt", ("the", 3), ("cat", 1)), output("b.txt", ("dog", 2))])
    assert frame.to_dict("split")["columns"] == COLUMNS
    assert frame.values.tolist() == [
        ["a.txt", 1, "the", 3, "task of a.txt", "node"],
        ["a.txt", 2, "cat", 1, "task of a.txt", "node"],
        ["b.txt", 1, "dog", 2, "task of b.txt", "node"],
    ]


def test_no_output_makes_an_empty_table_with_the_same_columns() -> None:
    assert words_by_file([]).columns.tolist() == COLUMNS
    assert words_overall([], top_n=3).columns.tolist() == ["rank", "word", "count", "at_most", "files"]


def test_a_word_missing_from_a_full_list_may_be_there_as_often_as_the_last_word() -> None:
    frame = words_overall([output("a", ("the", 9), ("cat", 4)), output("b", ("the", 5), ("dog", 2))], top_n=2)
    assert frame.values.tolist() == [
        [1, "the", 14, 14, 2],  # in both lists: exact
        [2, "cat", 4, 4 + 2, 1],
        [3, "dog", 2, 2 + 4, 1],
    ]


def test_a_word_missing_from_a_short_list_is_not_in_that_file() -> None:
    frame = words_overall([output("a", ("the", 9)), output("b", ("cat", 5), ("dog", 2))], top_n=2)
    assert frame.values.tolist() == [[1, "the", 9, 9 + 2, 1], [2, "cat", 5, 5, 1], [3, "dog", 2, 2, 1]]


@given(st.lists(st.text("abcd", max_size=30), min_size=1, max_size=4), st.integers(1, 4))
def test_the_true_total_is_never_outside_the_two_bounds(texts: list[str], top_n: int) -> None:
    outputs = [
        output(str(index), *sorted(((c, text.count(c)) for c in set(text)), key=lambda w: (-w[1], w[0]))[:top_n])
        for index, text in enumerate(texts)
    ]
    for row in words_overall(outputs, top_n).itertuples():
        total = sum(text.count(str(row.word)) for text in texts)
        assert int(str(row.count)) <= total <= int(str(row.at_most))


def written(folder: Path, *lines: str) -> Path:
    """The folder with that output."""
    (folder / "x_OUTPUT.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


TRAILER = ("Node: tvmps_1", "Task: topNtask0", "Job:  top-words-1", "Pool: top-words-1", "")


def test_an_output_is_read_back_whatever_its_words_look_like(tmp_path: Path) -> None:
    words = ["a:\tb".replace("\t", ""), "Node", "été", "x\x00y", "-" * 29 + "x"]
    path = written(tmp_path, "Word\tCount", RULE, *(f"{word}:\t{9}" for word in words), RULE, *TRAILER)
    parsed = parse_output("x.txt", path)
    assert parsed == FileOutput(file="x.txt", words=[(word, 9) for word in words], task="topNtask0", node="tvmps_1")


def test_an_output_without_words_is_read_back(tmp_path: Path) -> None:
    assert parse_output("x.txt", written(tmp_path, "Word\tCount", RULE, RULE, *TRAILER)).words == []


@pytest.mark.parametrize("lines", [("",), ("Word\tCount", RULE), ("Word\tCount", RULE, "a:\tmany", RULE, *TRAILER)])
def test_a_file_that_is_no_output_is_named(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(RunError, match=r"x_OUTPUT\.txt is not an output of the node script"):
        parse_output("x.txt", written(tmp_path, *lines))


def test_the_printed_summary_names_the_missing_files(tmp_path: Path) -> None:
    summary = Summary(
        by_file=words_by_file([output("a", ("the", 9))]),
        overall=words_overall([output("a", ("the", 9))], 2),
        folder=tmp_path,
        missing=("b.txt",),
    )
    assert str(summary).splitlines()[-1] == "Without output: b.txt"


def test_replaced_bytes_are_read_back(tmp_path: Path) -> None:
    path = written(tmp_path, "Word\tCount", RULE, RULE, *TRAILER[:-1], "Encoding: cp1251", "Replaced bytes: 12", "")
    assert parse_output("x.txt", path).replaced == 12


def test_replaced_bytes_are_in_the_table_and_the_printed_summary_where_there_are_some(tmp_path: Path) -> None:
    clean, bad = output("a", ("the", 9)), FileOutput(file="b", words=[("x", 1)], task="t", node="n", replaced=7)
    assert "replaced_bytes" not in words_by_file([clean])
    table = words_by_file([clean, bad])
    assert table["replaced_bytes"].tolist() == [0, 7]
    overall = words_overall([clean, bad], 2)
    summary = Summary(by_file=table, overall=overall, folder=tmp_path, replaced=(("b", 7),))
    assert str(summary).splitlines()[-1].startswith("Bytes that are no text and were replaced: b (7). Name the enc")


def test_what_is_printed_is_cut_and_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    outputs = [output("\x1b[2J\u202e.txt", ("x" * 5_000_000, 2), ("\x1b]0;title\x07", 1))]
    summary = Summary(by_file=words_by_file(outputs), overall=words_overall(outputs, 2), folder=tmp_path)
    shown = str(summary)
    assert len(shown) < 1000
    assert "x" * 31 + "…" in shown
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}


def test_the_tables_are_read_back_as_they_were(tmp_path: Path) -> None:
    outputs = [output(f"{word}.txt", (word, number)) for number, word in enumerate(["NA", "007", "", "=1"], start=1)]
    by_file, overall = words_by_file(outputs), words_overall(outputs, 3)
    write_table(by_file, tmp_path / BY_FILE)
    write_table(overall, tmp_path / OVERALL)
    read = [pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("summary", "summary_overall")]
    assert [frame.to_dict("list") for frame in read] == [by_file.to_dict("list"), overall.to_dict("list")]
    assert [str(each) for each in read[0].dtypes] == [str(each) for each in by_file.dtypes]


def test_a_file_name_that_is_not_utf_8_is_in_the_table_with_escapes() -> None:
    named = FileOutput(file="\udcff.txt", words=[("the", 3)], task="t", node="n")
    assert words_by_file([named])["file"].tolist() == ["\\udcff.txt"]
