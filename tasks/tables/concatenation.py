"""Tables of many outputs as one: the union of their columns, in types that lose nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors.text import as_unicode
from tasks.tables.joins import Join, JoinFormat
from tasks.tables.write import distinct, value_text

# pandas' own integers and booleans have no missing value; integers would become floats, which are not exact.
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def concatenate(join: Join, tables: Mapping[str, pa.Table]) -> pd.DataFrame:
    """The tables that read_outputs read, by the names of their input files, as one table in the order of the files.

    The column `file` comes first; a column of the outputs with that name is `file_`. Then follow the columns of the
    outputs in order of first appearance. Where files differ in the type of a column, it has a type that holds the
    values of all exactly, or else is text.
    """
    joined = union(list(tables.values()))
    names = [pa.repeat(as_unicode(name), table.num_rows) for name, table in tables.items()]
    file = pa.chunked_array(names, type=pa.string()).combine_chunks()
    columns = joined.columns
    if join.format is JoinFormat.CSV:
        columns = [_numbers(column) for column in columns]
    series = [_series(column) for column in (file, *columns)]
    keys = distinct(["file", *joined.column_names])
    return pd.DataFrame(dict(zip(keys, series, strict=True)), copy=False)


def union(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all tables, with missing values where a table lacks a column; a table repeats no column's name."""
    if not any(table.num_columns for table in tables):
        return tables[0] if len(tables) == 1 else pa.table({})
    schemas = list(dict.fromkeys(table.schema for table in tables))
    tables = list(tables)
    for name in _differing(schemas):
        _align(tables, name)
    # In one chunk per column: ten thousand would make each later operation slow.
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def _differing(schemas: Iterable[pa.Schema]) -> list[str]:
    """The columns of more than one type, and those with dictionaries, which differ from file to file."""
    types: dict[str, set[pa.DataType]] = {}
    for schema in schemas:
        for field in schema:
            types.setdefault(field.name, set()).add(field.type)
    return [name for name, found in types.items() if len(found) > 1 or any(map(pa.types.is_dictionary, found))]


def _align(tables: list[pa.Table], name: str) -> None:
    """Give the column the same type in all of the tables that have it."""
    found = [(number, table.schema.get_field_index(name)) for number, table in enumerate(tables)]
    places = [(number, place) for number, place in found if place >= 0]
    columns = [_plain(tables[number].column(place)) for number, place in places]
    try:
        type = _common({column.type for column in columns})
        columns = [column.cast(type) for column in columns]
    except pa.ArrowException:  # there is no such type, or it does not hold each value exactly
        columns = [_as_text(column) for column in columns]
    for (number, place), column in zip(places, columns, strict=True):
        tables[number] = tables[number].set_column(place, name, column)


def _common(types: Iterable[pa.DataType]) -> pa.DataType:
    """Raises ArrowException where there is none."""
    types = sorted(set(types), key=str)
    if len({pa.types.is_binary(type) for type in types}) > 1:
        raise pa.ArrowInvalid("text as bytes would not be read as text")
    one = [pa.schema([("column", type)]) for type in types]
    return pa.unify_schemas(one, promote_options="permissive").field(0).type


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    type = column.type
    # As JSON has these; Arrow's own cast prints 1.0 as 1.
    if not (pa.types.is_floating(type) or pa.types.is_nested(type) or pa.types.is_binary(type)):
        with suppress(pa.ArrowException):
            return column.cast(pa.string())
    texts = [None if value is None else value_text(value) for value in column.to_pylist()]
    return pa.chunked_array([texts], type=pa.string())


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as numbers, where each of them is printed exactly as it was read."""
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return column
    for type, printed in ((pa.int64(), _integers_printed), (pa.float64(), _floats_printed)):
        try:
            numbers = column.cast(type)
        except pa.ArrowInvalid:
            continue
        if printed(numbers).equals(column):
            return numbers
    return column


def _integers_printed(numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    return numbers.cast(pa.string())


def _floats_printed(numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    """As Python and pandas print them; `nan` and `inf` are words."""
    if not pc.all(pc.is_finite(numbers)).as_py():
        return pa.chunked_array([], type=pa.string())
    texts = [None if number is None else repr(number) for number in numbers.to_pylist()]
    return pa.chunked_array([texts], type=pa.string())


def _series(column: pa.Array | pa.ChunkedArray) -> pd.Series:
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    nullable = _NULLABLE if column.null_count else {}
    series: pd.Series = column.to_pandas(types_mapper=nullable.get)
    return series
