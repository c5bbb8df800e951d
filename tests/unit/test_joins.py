"""Outputs joined into one table: each value as it is in them, and a malformed output named."""

from __future__ import annotations

import csv
import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import InputError, RunError
from tasks.tables.concatenation import concatenate
from tasks.tables.joins import Join, JoinFormat
from tasks.tables.outputs import read_outputs
from tasks.tables.write import write_table


def join(format: str, pattern: str = "*") -> Join:
    return Join(format=JoinFormat(format), pattern=pattern)


def joined(folder: Path, format: str, *outputs: str | bytes | pa.Table) -> pd.DataFrame:
    """The outputs, one of each of the input files 1, 2, ..., as one table."""
    tables = {}
    for number, output in enumerate(outputs, start=1):
        path = folder / str(number) / "out"
        path.parent.mkdir(parents=True)
        if isinstance(output, pa.Table):
            pq.write_table(output, path)
        else:
            path.write_bytes(output.encode() if isinstance(output, str) else output)
        tables[str(number)] = read_outputs(join(format), path.parent)
    return concatenate(join(format), tables)


def values(frame: pd.DataFrame, name: str) -> list[object]:
    column = frame[name]
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


def columns(frame: pd.DataFrame) -> dict[str, list[object]]:
    return {name: values(frame, name) for name in frame.columns}


# Joins as values


@pytest.mark.parametrize("pattern", ["*.csv", "out", "a/b.csv", "**/*.csv", "tables/**", "./x", "[ab]?.csv", "..x"])
def test_a_pattern_below_the_outputs_is_accepted(pattern: str) -> None:
    assert join("csv", pattern).pattern == pattern


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "names no file; use a name or a glob, such as *.csv"),
        (".", "names no file; use a name or a glob, such as *.csv"),
        ("tables/", "names no file; use a name or a glob, such as *.csv"),
        (
            "/tmp/*.csv",
            "begins with /; outputs are matched below OUTPUT_DIR, so name them relative to it, as in tables/*.csv",
        ),
        ("a/../*.csv", "leads out of OUTPUT_DIR with ..; name files below it, as in tables/*.csv"),
        ("**.csv", "** stands for folders, between slashes; use **/*.csv for the files in all folders"),
        ("a\0b", "holds a NUL character, which no file name can; remove it"),
    ],
)
def test_a_pattern_that_can_match_no_output_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        join("csv", pattern)
    assert str(caught.value) == f"join pattern {pattern!r}: {reason}"


def test_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        Join(format="xml", pattern="*")  # type: ignore[arg-type]
    assert str(caught.value) == "join format 'xml': does not exist; use one of csv, json, jsonl, parquet"


def test_a_format_may_be_its_name() -> None:
    assert Join(format="csv", pattern="*").format is JoinFormat.CSV  # type: ignore[arg-type]


def test_outputs_match_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt", "sub/d.csv", "sub/deep/e.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {
        pattern: [path.relative_to(tmp_path).as_posix() for path in join("csv", pattern).matches(tmp_path)]
        for pattern in ("*.csv", "**/*.csv", "sub/**", "**/**/*.csv", "x*")
    }
    assert found == {
        "*.csv": ["a.csv", "b.csv"],
        "**/*.csv": ["a.csv", "b.csv", "sub/d.csv", "sub/deep/e.csv"],
        "sub/**": ["sub/d.csv", "sub/deep/e.csv"],
        "**/**/*.csv": ["a.csv", "b.csv", "sub/d.csv", "sub/deep/e.csv"],
        "x*": [],
    }


# Concatenation


def test_rows_are_in_the_order_of_the_files_under_the_union_of_columns(tmp_path: Path) -> None:
    frame = joined(tmp_path, "csv", "a,b\n1,x\n2,y\n", "c,a\nz,3\n")
    assert columns(frame) == {
        "file": ["1", "1", "2"],
        "a": [1, 2, 3],
        "b": ["x", "y", None],
        "c": [None, None, "z"],
    }


def test_a_column_file_of_the_outputs_is_kept_beside_ours(tmp_path: Path) -> None:
    frame = joined(tmp_path, "csv", "file,file_\nx,y\n")
    assert columns(frame) == {"file": ["1"], "file__": ["x"], "file_": ["y"]}


def test_several_outputs_of_a_file_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("x\n2\n")
    (tmp_path / "a.csv").write_text("x\n1\n")
    rule = join("csv", "*.csv")
    table = read_outputs(rule, tmp_path)
    assert columns(concatenate(rule, {"f": table})) == {"file": ["f", "f"], "x": [1, 2]}


def test_a_file_without_a_matching_output_has_no_table(tmp_path: Path) -> None:
    assert read_outputs(join("csv"), tmp_path) is None
    assert read_outputs(join("csv"), tmp_path / "missing") is None


def test_nothing_joined_is_an_empty_table() -> None:
    assert columns(concatenate(join("csv"), {})) == {"file": []}


def test_a_file_name_that_is_not_utf_8_is_joined_with_escapes() -> None:
    frame = concatenate(join("json"), {"\udcff": pa.table({"x": [1]})})
    assert columns(frame) == {"file": ["\\udcff"], "x": [1]}


# CSV


@pytest.mark.parametrize(
    "words",
    [
        *(["007"], ["1e5"], ["NA"], ["nan"], ["null"], ["true"], ["inf"], ["1.50"], ["+1"], ["-0"], [" 1"], ["1_000"]),
        *(["1", "2.5"], ["0x10"], ["9223372036854775808"], ["2026-11-28"], ["=1+1"], ["\ufeffx"], ["é"], ["a\0b"]),
    ],
)
def test_a_csv_column_that_would_print_otherwise_stays_text(tmp_path: Path, words: list[str]) -> None:
    assert values(joined(tmp_path, "csv", *(f"x,y\n{word},\n" for word in words)), "x") == words


@pytest.mark.parametrize(
    ("words", "numbers", "dtype"),
    [
        (["1", "-20", "0"], [1, -20, 0], "int64"),
        (["9223372036854775807", ""], [2**63 - 1, None], "Int64"),
        (["1.5", "-0.25", "1e-07", "0.0"], [1.5, -0.25, 1e-07, 0.0], "float64"),
        (["0.1", ""], [0.1, None], "float64"),
    ],
)
def test_a_csv_column_that_prints_the_same_is_numeric(
    tmp_path: Path, words: list[str], numbers: list[object], dtype: str
) -> None:
    frame = joined(tmp_path, "csv", *(f"x,y\n{word},\n" for word in words))
    assert values(frame, "x") == numbers
    assert str(frame["x"].dtype) == dtype


def test_one_word_among_numbers_of_other_files_keeps_all_text(tmp_path: Path) -> None:
    assert values(joined(tmp_path, "csv", "x\n1\n", "x\n2\n", "x\n03\n"), "x") == ["1", "2", "03"]


def test_quoted_empty_text_is_not_missing(tmp_path: Path) -> None:
    assert values(joined(tmp_path, "csv", 'x,y\n"",1\n,2\n'), "x") == ["", None]


@pytest.mark.parametrize(
    "content",
    [
        b'x,y\n"a\nb",1\n',
        b'x,y\r\n"a\nb",1\r\n',
        b'\xef\xbb\xbfx,y\n"a\nb",1\n',
        b'\xef\xbb\xbf"x","y"\n"a\nb",1',
        b'\nx,y\n\n"a\nb",1\n\n',
    ],
)
def test_csv_is_read_with_each_end_of_line_and_byte_order_mark(tmp_path: Path, content: bytes) -> None:
    assert columns(joined(tmp_path, "csv", content)) == {"file": ["1"], "x": ["a\nb"], "y": [1]}


@pytest.mark.parametrize("content", ["", "\n", "\r\n\r\n", "\ufeff"])
def test_an_empty_csv_file_has_no_rows(tmp_path: Path, content: str) -> None:
    assert columns(joined(tmp_path, "csv", content, "x\n1\n")) == {"file": ["2"], "x": [1]}


@pytest.mark.parametrize("content", ["y,x", "y,x\n", '\ufeff"y",x\r\n', "\ny,x\n\n"])
def test_a_csv_file_of_a_header_adds_columns(tmp_path: Path, content: str) -> None:
    assert columns(joined(tmp_path, "csv", content, "x\n1\n")) == {"file": ["2"], "y": [None], "x": [1]}


def test_a_csv_cell_may_be_longer_than_a_block(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    assert values(joined(tmp_path, "csv", f"x,y\n{long},\n"), "x") == [long]


def test_repeated_columns_of_a_csv_file_are_all_kept(tmp_path: Path) -> None:
    assert columns(joined(tmp_path, "csv", "a,a\n1,2\n")) == {"file": ["1"], "a": [1], "a_": [2]}


@settings(max_examples=60, deadline=None)  # it writes files
@given(
    files=st.lists(
        st.lists(
            st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)] * 2),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_csv_text_survives_the_join_and_the_files(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[str, str]]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    tables = {}
    for number, rows in enumerate(files):
        path = folder / str(number) / "out.csv"
        path.parent.mkdir()
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("x", "y"), *rows])
        tables[str(number)] = read_outputs(join("csv"), path.parent)
    write_table(concatenate(join("csv"), tables), folder / "joined")
    read = pd.read_parquet(folder / "joined.parquet")
    assert read["file"].tolist() == [str(number) for number, rows in enumerate(files) for _ in rows]
    for place, name in enumerate(("x", "y")):
        assert [str(value) for value in read[name]] == [row[place] for rows in files for row in rows]


# JSON and JSON Lines


def test_json_is_an_object_or_an_array_of_objects(tmp_path: Path) -> None:
    frame = joined(tmp_path, "json", '{"a": 1}', '\ufeff[{"a": 2, "b": "x"}, {"b": "y"}]', "[]")
    assert columns(frame) == {"file": ["1", "2", "2"], "a": [1, 2, None], "b": [None, "x", "y"]}


@pytest.mark.parametrize("others", [[], ['{"a": 1}']])
def test_objects_without_members_are_rows(tmp_path: Path, others: list[str]) -> None:
    frame = joined(tmp_path, "json", "[{}, {}]", *others)
    assert values(frame, "file") == ["1", "1", *("2" for _ in others)]
    assert values(joined(tmp_path / "lines", "jsonl", "{}\n{}\n"), "file") == ["1", "1"]


def test_a_json_line_is_a_row_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    frame = joined(tmp_path, "jsonl", '{"a": "x\u2028y"}\r\n\n  \n{"a": "z"}', "", "\n")
    assert columns(frame) == {"file": ["1", "1"], "a": ["x\u2028y", "z"]}


@pytest.mark.parametrize(
    ("found", "read"),
    [
        (["007", "1e5", "NA", "true", "", None], ["007", "1e5", "NA", "true", "", None]),
        (["5", "6"], ["5", "6"]),
        ([1, 2**53 + 1, None], [1, 2**53 + 1, None]),
        ([2**80, -1], [str(2**80), "-1"]),
        ([1, 2.5], [1.0, 2.5]),
        ([2**53 + 1, 0.5], [str(2**53 + 1), "0.5"]),
        ([True, None, False], [True, None, False]),
        ([True, 1], ["true", "1"]),
        ([1, "1", 1.0, None], ["1", "1", "1.0", None]),
        ([{"é": [1, None]}, [], {}], ['{"é": [1, null]}', "[]", "{}"]),
        (["\ud800"], ["\\ud800"]),
        ([None, None], [None, None]),
    ],
)
def test_json_values_are_the_same_in_one_file_and_in_many(
    tmp_path: Path, found: list[object], read: list[object]
) -> None:
    one = joined(tmp_path / "one", "json", json.dumps([{"x": value} for value in found]))
    many = joined(tmp_path / "many", "json", *(json.dumps({"x": value}) for value in found))
    lines = joined(tmp_path / "lines", "jsonl", "\n".join(json.dumps({"x": value}) for value in found))
    assert [values(frame, "x") for frame in (one, many, lines)] == [read] * 3
    assert [[type(value) for value in values(frame, "x")] for frame in (one, many)] == [list(map(type, read))] * 2


def test_json_lines_beyond_a_batch_are_in_one_column(tmp_path: Path) -> None:
    lines = [*(json.dumps({"x": number}) for number in range(20_000)), '{"x": "last", "y": 1}']
    frame = joined(tmp_path, "jsonl", "\n".join(lines))
    assert values(frame, "x")[-2:] == ["19999", "last"]
    assert values(frame, "y")[-2:] == [None, 1]


# Parquet


def test_parquet_types_are_kept(tmp_path: Path) -> None:
    when = datetime(2026, 11, 28, 9, 30)
    table = pa.table(
        {"i": pa.array([1, None], pa.int16()), "d": [Decimal("1.50")] * 2, "t": [when] * 2, "l": [[1]] * 2}
    )
    frame = joined(tmp_path, "parquet", table, table)
    write_table(frame, tmp_path / "t")
    written = pq.read_table(tmp_path / "t.parquet").drop_columns("file")
    assert written.to_pydict() == {"i": [1, None] * 2, "d": [Decimal("1.50")] * 4, "t": [when] * 4, "l": [[1]] * 4}
    assert written.schema.types[:3] == table.schema.types[:3]


@pytest.mark.parametrize(
    ("first", "second", "read"),
    [
        (pa.array([1], pa.int8()), pa.array([2**40], pa.int64()), [1, 2**40]),
        (pa.array([1], pa.int64()), pa.array([0.5]), [1.0, 0.5]),
        (pa.array([2**60 + 1], pa.int64()), pa.array([0.5]), [str(2**60 + 1), "0.5"]),
        (pa.array([1]), pa.array(["x"]), ["1", "x"]),
        (pa.array([True]), pa.array([1.0]), ["true", "1.0"]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), ["a", "b"]),
        (pa.array([None], pa.null()), pa.array([7]), [None, 7]),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1]), [str(2**64 - 1), "-1"]),
        (pa.array([[1]]), pa.array(["x"]), ["[1]", "x"]),
        (pa.array([b"\xff"]), pa.array(["x"]), ["\\xff", "x"]),
        (pa.array([90], pa.duration("s")), pa.array(["x"]), ["90", "x"]),
        (pa.array([date(2026, 11, 28)]), pa.array([1]), ["2026-11-28", "1"]),
    ],
)
def test_columns_of_two_types_lose_nothing(
    tmp_path: Path, first: pa.Array, second: pa.Array, read: list[object]
) -> None:
    assert values(joined(tmp_path, "parquet", pa.table({"x": first}), pa.table({"x": second})), "x") == read


def test_parquet_columns_may_be_in_another_place_and_required(tmp_path: Path) -> None:
    required = pa.schema([pa.field("b", pa.int64(), nullable=False)], metadata={"by": "another program"})
    frame = joined(tmp_path, "parquet", pa.table({"a": [1], "b": [2]}), pa.table({"b": [3]}, schema=required))
    assert columns(frame) == {"file": ["1", "2"], "a": [1, None], "b": [2, 3]}


def test_folders_named_like_partitions_add_no_column(tmp_path: Path) -> None:
    path = tmp_path / "year=2026" / "out.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"x": [1]}), path)
    table = read_outputs(join("parquet", "**/*.parquet"), tmp_path)
    assert columns(concatenate(join("parquet"), {"f": table})) == {"file": ["f"], "x": [1]}


# Malformed outputs


@pytest.mark.parametrize(
    ("format", "content", "reason"),
    [
        ("csv", b"a,b\n1\n", "CSV parse error: Row #2: Expected 2 columns, got 1: 1"),
        ("csv", b"a,b\n1,2\n1,2,3\n", "CSV parse error: Row #3: Expected 2 columns, got 3: 1,2,3"),
        ("csv", b"a\n\xff\n", "'utf-8' codec can't decode byte 0xff in position 2"),
        ("csv", b"\xff\n1\n", "'utf-8' codec can't decode byte 0xff"),
        ("csv", b'"a,b\n1,2\n', "CSV parse error: Empty CSV file or block"),
        ("json", b"", "Expecting value: line 1 column 1 (char 0)"),
        ("json", b'{"a": 1', "Expecting ',' delimiter"),
        ("json", b"7", "value 1 is a number; an object, or an array of objects, is a table"),
        ("json", b'[{"a": 1}, [2]]', "value 2 is an array; an object, or an array of objects, is a table"),
        ("json", b"[" * 100_000, "recursion"),
        ("json", b'"\xff"', "'utf-8' codec can't decode byte 0xff"),
        ("jsonl", b'{"a": 1}\n\n{"a": \n', "line 3: Expecting value"),
        ("jsonl", b'{"a": 1}\n"x"\n', "line 2 is a string; each line is an object"),
        ("parquet", b"", "Parquet"),
        ("parquet", b"PAR1" + b"x" * 100 + b"PAR1", ""),
    ],
)
def test_a_malformed_output_is_named(tmp_path: Path, format: str, content: bytes, reason: str) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        read_outputs(join(format), tmp_path)
    assert str(caught.value).startswith(f"{path}: cannot be joined as {format}: ")
    assert reason in str(caught.value)


def test_a_secret_in_a_malformed_output_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a,b\nhttps://x?sig=abc\n")
    with pytest.raises(RunError, match=r"sig=\*\*\*"):
        read_outputs(join("csv"), tmp_path)


def test_an_output_that_cannot_be_opened_is_no_malformed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_text("{}")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(PermissionError):
        read_outputs(join("json"), tmp_path)
