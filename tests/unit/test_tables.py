"""Tables as files: Parquet gives each value back, and no cell of the CSV file is a formula to a spreadsheet."""

from __future__ import annotations

import csv
import resource
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import ResultsError
from tasks.tables.write import distinct, write_table

WORDS = [
    *("NA", "null", "nan", "None", "N/A", "", "007", "1e5", "True", "inf", "2026-11-28", "-1", "+1", "=1+1", "@x", "|"),
    *('"quotes"', '"', "a,b", "a\rb", "a\nb", "\r", "\n=1", "\tx", "'x", "''=1", "a\0b", "\ufeffx", "＝1", "\\"),
    "x" * 300_000,
]


def texts(*values: object) -> pd.Series:
    return pd.Series(list(values), dtype=object)


def lines(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_each_word_is_read_back_by_pandas(tmp_path: Path) -> None:
    table = pd.DataFrame({"word": WORDS, "count": range(len(WORDS))})
    write_table(table, tmp_path / "words.csv")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "words.parquet"), table)


@settings(max_examples=60, deadline=None)  # it writes files
@given(words=st.lists(st.text() | st.none(), max_size=5))
def test_any_text_is_read_back_and_valid_in_both_files(
    tmp_path_factory: pytest.TempPathFactory, words: list[str | None]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    write_table(pd.DataFrame({"word": texts(*words), "count": range(len(words))}), path)
    valid = [None if word is None else word.encode("utf-8", "backslashreplace").decode() for word in words]
    read = pd.read_parquet(f"{path}.parquet")["word"]
    assert [None if missing else word for word, missing in zip(read, read.isna(), strict=True)] == valid
    assert len(pd.read_csv(path.with_suffix(".csv"))) == len(words)


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    formulas = ["=1+1", "+1", "-1+cmd", "@x", "\tx", "\r=1", "\n=1", "＝1", "'x"]
    write_table(pd.DataFrame({"=word": formulas, "count": -1}), tmp_path / "t.csv")
    assert lines(tmp_path / "t.csv") == [["'=word", "count"], *([f"'{text}", "-1"] for text in formulas)]


def test_what_is_no_formula_is_left_as_it_is(tmp_path: Path) -> None:
    plain = ["-1", "-0.50", "007", "NA", "a=b", "x-y"]
    write_table(pd.DataFrame({"word": plain}), tmp_path / "t.csv")
    assert lines(tmp_path / "t.csv") == [["word"], *([text] for text in plain)]


def test_missing_values_are_empty_in_the_csv_file(tmp_path: Path) -> None:
    table = pd.DataFrame({"word": texts("a", None, ""), "count": pd.array([1, None, 2**60 + 1], dtype="Int64")})
    write_table(table, tmp_path / "t")
    assert (tmp_path / "t.csv").read_text() == f"word,count\na,1\n,\n,{2**60 + 1}\n"
    read = pd.read_parquet(tmp_path / "t.parquet")
    assert read["word"].isna().tolist() == [False, True, False]
    assert read["count"].dropna().tolist() == [1, 2**60 + 1]


def test_text_that_is_not_unicode_has_escapes_in_both_files(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"file": texts("\udcff.txt", "é")}), tmp_path / "t.csv")
    assert pd.read_parquet(tmp_path / "t.parquet")["file"].tolist() == ["\\udcff.txt", "é"]
    assert pd.read_csv(tmp_path / "t.csv")["file"].tolist() == ["\\udcff.txt", "é"]


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([Decimal("1.50"), None], [Decimal("1.50"), None]),
        ([date(2026, 11, 28)], [date(2026, 11, 28)]),
        ([1, "a", None], ["1", "a", None]),
        ([2**80, 1], [str(2**80), "1"]),
        ([{"a": "é"}, [1, 2.5]], ['{"a": "é"}', "[1, 2.5]"]),
        ([1 + 2j], ["(1+2j)"]),
    ],
)
def test_values_keep_their_type_in_parquet_or_become_text(
    tmp_path: Path, values: list[object], read: list[object]
) -> None:
    write_table(pd.DataFrame({"value": texts(*values)}), tmp_path / "t")
    column = pd.read_parquet(tmp_path / "t.parquet")["value"]
    assert [None if missing else value for value, missing in zip(column, column.isna(), strict=True)] == read


@pytest.mark.parametrize(
    ("categories", "read"),
    [
        (texts("=a", "b"), ["=a", "b", None]),
        (texts("\udcff", "\\udcff"), ["\\udcff", "\\udcff", None]),
        (texts("1", 1), ["1", "1", None]),
        (pd.IntervalIndex.from_breaks([0, 1, 2]), ["(0, 1]", "(1, 2]", None]),
        (pd.period_range("2026-10", periods=2, freq="M"), ["2026-10", "2026-11", None]),
    ],
)
def test_categories_of_any_type_are_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, categories: pd.Series | pd.Index, read: list[object]
) -> None:
    monkeypatch.setattr("tasks.tables.write._ROWS", 1)
    values = pd.Categorical.from_codes([0, 1, -1], categories=pd.Index(categories))
    write_table(pd.DataFrame({"value": values}), tmp_path / "t")
    column = pd.read_parquet(tmp_path / "t.parquet")["value"].astype(object)
    assert column.where(column.notna(), None).tolist() == read
    assert [text for (text,) in lines(tmp_path / "t.csv")[1:]] == [str(read[0]).replace("=", "'="), read[1], ""]


def test_repeated_names_of_columns_stay_distinct(tmp_path: Path) -> None:
    table = pd.DataFrame([[1, 2, 3]], columns=["a", "a", "a_"])
    for each in (table, table.astype("category")):
        write_table(each, tmp_path / "t")
        assert pd.read_parquet(tmp_path / "t.parquet").to_dict("records") == [{"a": 1, "a__": 2, "a_": 3}]


@given(st.lists(st.sampled_from(["a", "a_", "a__", "b"])))
def test_distinct_names_stay_and_others_get_underscores(names: list[str]) -> None:
    found = distinct(names)
    assert len(set(found)) == len(names)
    assert [name.rstrip("_") for name in found] == [name.rstrip("_") for name in names]
    firsts = [index for index, name in enumerate(names) if name not in names[:index]]
    assert [found[index] for index in firsts] == [names[index] for index in firsts]


def test_the_two_files_are_named_after_the_path_with_its_dots(tmp_path: Path) -> None:
    for name in ("a", "b.csv", "c.parquet", "v1.2"):
        write_table(pd.DataFrame({"x": [1]}), tmp_path / name)
    names = [f"{name}.{suffix}" for name in ("a", "b", "c", "v1.2") for suffix in ("csv", "parquet")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.fixture
def at_most_4_kib() -> Iterator[None]:
    """Files of this process cannot grow beyond 4 KiB, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("words", "suffix"), [(["x" * 8192], "csv"), ([str(n) for n in range(800)], "parquet")])
def test_a_table_that_does_not_fit_leaves_the_one_before(
    tmp_path: Path, request: pytest.FixtureRequest, words: list[str], suffix: str
) -> None:
    before = pd.DataFrame({"word": ["before"]})
    write_table(before, tmp_path / "t")
    request.getfixturevalue("at_most_4_kib")
    with pytest.raises(ResultsError) as caught:
        write_table(pd.DataFrame({"word": words}), tmp_path / "t.csv")
    path = tmp_path / f"t.{suffix}"
    advice = "free some space there or make it writable, then retry the flow run"
    assert str(caught.value) == f"{path}: File too large; {advice}"
    assert pd.read_parquet(tmp_path / "t.parquet").equals(before)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["t.csv", "t.parquet"]
