"""Reads the outputs of one input file as a table, each value as it is there."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tasks.errors import RunError
from tasks.errors.text import cut
from tasks.tables.concatenation import union
from tasks.tables.joins import Join, JoinFormat
from tasks.tables.write import distinct, value_text

_BLOCK = 1 << 20  # bytes of a CSV file that are read at a time
_LARGEST_BLOCK = (1 << 31) - 1  # bytes, a limit of pyarrow
_BATCH = 20_000  # rows of JSON Lines that are held as Python objects
_LONGEST_REASON = 200  # columns; pyarrow quotes the row, which can be long
_EXACT_FLOAT = 1 << 53  # up to which a float holds each integer


def read_outputs(join: Join, folder: Path) -> pa.Table | None:
    """The outputs in the folder that match, as one table in the order of their names; None where none matches.

    Raises RunError for an output that is malformed, OSError for one that cannot be read.
    """
    paths = join.matches(folder)
    return union([_read(join.format, path) for path in paths]) if paths else None


def _read(format: JoinFormat, path: Path) -> pa.Table:
    try:
        table = _READERS[format](path)
        return table.rename_columns(distinct(table.column_names))
    except (pa.ArrowException, ValueError, RecursionError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file system, not of what is in the file
            raise
        reason = cut(str(error), _LONGEST_REASON)
        raise RunError(f"{path}: cannot be joined as {format.value}: {reason}") from None


def _read_csv(path: Path) -> pa.Table:
    """Each value as text; an empty one is missing unless it is quoted."""
    size = path.stat().st_size
    try:
        return _parse_csv(path, _BLOCK)
    except pa.ArrowInvalid:
        if (header := _lone_header(path)) is not None:
            return pa.table({name: pa.array([], type=pa.string()) for name in distinct(header)})
        if not _BLOCK < size < _LARGEST_BLOCK:
            raise
        return _parse_csv(path, size + 1)  # a row may be longer than a block


def _parse_csv(path: Path, block: int) -> pa.Table:
    with path.open("rb") as file:
        return pacsv.read_csv(
            file,
            read_options=pacsv.ReadOptions(block_size=block, use_threads=path.stat().st_size > _BLOCK),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                default_column_type=pa.string(),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


def _lone_header(path: Path) -> list[str] | None:
    """The header of a CSV file without rows, which pyarrow takes for an error; empty where there is no header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(islice(filter(None, csv.reader(file, strict=True)), 2))
        except csv.Error:
            return None
    return None if len(rows) > 1 else rows[0] if rows else []


def _read_json(path: Path) -> pa.Table:
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"value {number} is {_kind(row)}; an object, or an array of objects, is a table")
    return _table(rows)


def _read_jsonl(path: Path) -> pa.Table:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        rows = _json_lines(file)
        batches = iter(lambda: list(islice(rows, _BATCH)), [])
        return union([_table(batch) for batch in batches])


def _json_lines(lines: Iterable[str]) -> Iterator[dict[str, object]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is {_kind(row)}; each line is an object")
        yield row


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _table(rows: Sequence[dict[str, object]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return pa.table({"": pa.nulls(len(rows))}).select([])  # which keeps the number of rows
    columns = [_column([row.get(name) for row in rows]) for name in names]
    return pa.Table.from_arrays(columns, names=distinct(names))


def _column(values: list[object]) -> pa.Array:
    """The values in the type that all have; of several types, as text."""
    types = {type(value) for value in values} - {type(None)}
    if (len(types) <= 1 and types <= {int, float, bool}) or (types == {int, float} and _exact_as_floats(values)):
        try:
            return pa.array(values)
        except OverflowError:
            pass
    return pa.array([None if value is None else value_text(value) for value in values], type=pa.string())


def _exact_as_floats(values: Iterable[object]) -> bool:
    return all(abs(value) <= _EXACT_FLOAT for value in values if isinstance(value, int))


def _read_parquet(path: Path) -> pa.Table:
    # Not by its path, from which pyarrow would take columns where folders are named a=1.
    with path.open("rb") as file:
        return pq.ParquetFile(file).read().replace_schema_metadata(None)


_READERS: dict[JoinFormat, Callable[[Path], pa.Table]] = {
    JoinFormat.CSV: _read_csv,
    JoinFormat.JSON: _read_json,
    JoinFormat.JSONL: _read_jsonl,
    JoinFormat.PARQUET: _read_parquet,
}
