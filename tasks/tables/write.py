"""Tables as files: CSV for people and spreadsheets, Parquet for programs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import infer_dtype, is_bool_dtype, is_numeric_dtype, is_object_dtype

from tasks.errors import ResultsError
from tasks.errors.local_files import at, replacing
from tasks.errors.text import as_unicode

# Cells that begin so are formulas to a spreadsheet; the apostrophe itself is there so that each guard can be undone.
_GUARDED = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
_NEGATIVE = re.compile(r"-\d+(\.\d+)?", re.ASCII)  # a number to a spreadsheet, and harmless
_ROWS = 25_000  # of a table that is in memory, that are made ready to be written at once
# What pyarrow raises for values that no column of Parquet can hold: mixed types, lone surrogates, large integers.
_UNSUITABLE = (ValueError, TypeError, OverflowError, NotImplementedError)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table twice: as <path>.csv and as <path>.parquet; the path may have either suffix, or none.

    The Parquet file is exact. In the CSV file, text that a spreadsheet would run as a formula has an apostrophe before
    it, and so has text that begins with one. In both, text that is not valid Unicode has backslash escapes, repeated
    names of columns have underscores at their end, and the index is left out. Raises ResultsError.
    """
    write_parts([table], path)


def write_parts(parts: Iterable[pd.DataFrame], path: Path) -> None:
    """The same with a table of which no more than a part is in memory; all have the same columns and types."""
    text_path, exact_path = (_with_suffix(path, suffix) for suffix in (".csv", ".parquet"))
    try:
        with replacing(text_path) as text, replacing(exact_path) as exact, ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            named = (part.set_axis(distinct(str(name) for name in part.columns), axis="columns") for part in parts)
            for rows in (rows for part in named for rows in _slices(part)):
                with at(text_path):
                    _write_csv(rows, text, header=writer is None)
                with at(exact_path):
                    values = _exact(rows)
                    writer = writer or stack.enter_context(pq.ParquetWriter(exact, values.schema))
                    writer.write_table(values, row_group_size=_ROWS)
    except ResultsError as error:
        advice = "free some space there or make it writable, then retry the flow run"
        raise error.with_message(f"{error}; {advice}") from None


def distinct(names: Iterable[str]) -> list[str]:
    """The names of columns, valid as Unicode, with underscores after those that are there already."""
    wanted = [as_unicode(name) for name in names]
    taken: set[str] = set()
    for index, name in enumerate(wanted):
        while name in taken or (name != wanted[index] and name in wanted):
            name += "_"
        taken.add(name)
        wanted[index] = name
    return wanted


def value_text(value: object) -> str:
    """A value as the text of a cell: numbers, booleans and nested values as JSON."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool | int | float | list | tuple | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return as_unicode(str(value))


def _with_suffix(path: Path, suffix: str) -> Path:
    name = path.stem if path.suffix in (".csv", ".parquet") else path.name
    return path.with_name(name + suffix)


def _write_csv(table: pd.DataFrame, file: IO[bytes], *, header: bool) -> None:
    # The csv module does not quote a carriage return by itself.
    returns = any(_has_returns(table[name]) for name in table.columns if _is_text(table[name]))
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    safe = table.assign(**{name: _safe(table[name]) for name in table.columns if _is_text(table[name])})
    safe.set_axis([_guarded(name) for name in safe.columns], axis="columns").to_csv(
        file, mode="wb", header=header, index=False, quoting=quoting, lineterminator="\n", encoding="utf-8"
    )


def _slices(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The table in parts, at least one; whole where it has columns of objects, whose type depends on all of them."""
    of_categories = [name for name in table.columns if isinstance(table[name].dtype, pd.CategoricalDtype)]
    others = [name for name in of_categories if not _are_simple(table[name].cat.categories)]
    table = table.assign(**{name: table[name].astype(object) for name in others})
    rows = max(1, len(table)) if any(map(is_object_dtype, table.dtypes)) else _ROWS
    for first in range(0, max(1, len(table)), rows):
        part = table.iloc[first : first + rows]
        yield part.assign(**{name: _with_used_categories(part[name]) for name in of_categories if name not in others})


def _are_simple(categories: pd.Index) -> bool:
    """Whether the categories are text, or of a type of numpy; of others pyarrow writes only the values."""
    if is_object_dtype(categories):
        return infer_dtype(categories) == "string" and _fits(categories)
    return isinstance(categories.dtype, np.dtype | pd.StringDtype)


def _with_used_categories(column: pd.Series) -> pd.Series:
    """Of very many categories, a part has few, which are looked at and written; text has its type also without any."""
    column = column.cat.remove_unused_categories()
    categories = column.cat.categories
    return column.cat.set_categories(categories.astype("str"), rename=True) if is_object_dtype(categories) else column


def _is_text(column: pd.Series) -> bool:
    return not (is_numeric_dtype(column) or is_bool_dtype(column))


def _safe(column: pd.Series) -> pd.Series:
    """The column as text that a spreadsheet does not run."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories = column.cat.categories.to_series()
        return column.cat.rename_categories(list(_safe(categories)))
    if not isinstance(column.dtype, pd.StringDtype):
        return _mapped(column, _guarded)
    # Without a Python object for each text, of which there may be millions.
    suspicious = column.str.startswith(_GUARDED).fillna(False).astype(bool)
    return column.where(~suspicious, _mapped(column[suspicious], _guarded)) if suspicious.any() else column


def _has_returns(texts: pd.Series) -> bool:
    if isinstance(texts.dtype, pd.CategoricalDtype):
        texts = texts.cat.categories.to_series()
    if isinstance(texts.dtype, pd.StringDtype):
        return bool(texts.str.contains("\r", regex=False).any())
    return any("\r" in str(value) for value in texts.dropna())


def _guarded(value: object) -> str:
    text = as_unicode(str(value))
    return f"'{text}" if text.startswith(_GUARDED) and not _NEGATIVE.fullmatch(text) else text


def _exact(table: pd.DataFrame) -> pa.Table:
    try:
        values = pa.Table.from_pandas(table, preserve_index=False)
    except _UNSUITABLE:
        texts = {name: _mapped(table[name], value_text) for name in table.columns if not _fits(table[name])}
        values = pa.Table.from_pandas(table.assign(**texts), preserve_index=False)
    for index, field in enumerate(values.schema):
        if pa.types.is_dictionary(field.type):  # each part would have the categories of all
            used = values.column(index).cast(field.type.value_type).dictionary_encode()
            values = values.set_column(index, field.name, used)
    return values


def _fits(column: pd.Series | pd.Index) -> bool:
    try:
        pa.array(column, from_pandas=True)
    except _UNSUITABLE:
        return False
    return True


def _mapped(column: pd.Series, change: Callable[[object], str]) -> pd.Series:
    """The column as text, in which missing values stay missing."""
    texts = [None if missing else change(value) for value, missing in zip(column, column.isna(), strict=True)]
    return pd.Series(texts, index=column.index, dtype=object)
