"""Adds up the counts of many tables, exactly and in bounded memory: what does not fit moves to partitions on disk."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from tasks.errors import RunError
from tasks.errors.local_files import at

_WORD = pa.string()
_SUMS = pa.schema([("word", _WORD), ("count", pa.int64()), ("files", pa.int64())])
_HEADER = b"word\tcount\n"
_BLOCK_BYTES = 1 << 20
_MEMORY = 4 << 20  # bytes of sums; adding them up takes several times that
_PARTITIONS = 128


def add_up(tables: Iterable[Path], listed: Collection[str], most: int, folder: Path, memory: int = _MEMORY) -> pa.Table:
    """The total of each listed word, and of the `most` most frequent others, most frequent first.

    The tables have a line per word: the word, a tab, its count; they are compressed by gzip. The result has the columns
    word, count and files: how many tables have the word. Equal counts are in the order of their words' characters.

    folder: has room for the sums that do not fit in memory, in files without a name. Raises RunError for a table that
    cannot be read, ResultsError where the folder cannot be written.
    """
    wanted = pa.array(listed, _WORD)
    found = others = _SUMS.empty_table()
    with ExitStack() as stack:
        for sums in _partitions(_blocks(tables), folder, memory, stack):
            is_listed = pc.is_in(sums["word"], value_set=wanted)
            found = pa.concat_tables([found, sums.filter(is_listed)])
            others = _first(pa.concat_tables([others, sums.filter(pc.invert(is_listed))]), most)
    both = pa.concat_tables([found, others])
    return _first(both, both.num_rows)


def _first(sums: pa.Table, most: int) -> pa.Table:
    order = [("count", "descending"), ("word", "ascending")]
    return sums.take(pc.select_k_unstable(sums, min(most, sums.num_rows), order)) if sums.num_rows else sums


def _blocks(tables: Iterable[Path]) -> Iterator[bytes]:
    """The lines of all tables in blocks, so that small tables are read many at once and large ones piece by piece."""
    held: list[bytes] = []
    size = 0
    for path in tables:
        try:
            with gzip.open(path, "rb") as file:
                while data := file.read(_BLOCK_BYTES):
                    held.append(data)
                    size += len(data)
                    if size >= _BLOCK_BYTES and b"\n" in data:
                        lines, end, rest = b"".join(held).rpartition(b"\n")
                        yield lines + end
                        held, size = [rest], len(rest)
        except (OSError, EOFError, zlib.error) as error:
            raise RunError(f"{path} cannot be read as a table of words and counts: {error}") from None
    if size:
        yield b"".join(held)


def _read(block: bytes) -> pa.Table:
    counts = csv.read_csv(
        # With a header: the reader would drop a byte-order mark in its place.
        pa.py_buffer(_HEADER + block),
        csv.ReadOptions(block_size=len(_HEADER) + len(block), use_threads=False),
        csv.ParseOptions(delimiter="\t", quote_char=False),
        csv.ConvertOptions(column_types={"word": _WORD, "count": pa.int64()}),
    )
    return counts.append_column(_SUMS.field("files"), pa.array(np.ones(counts.num_rows, np.int64)))


class _Sums:
    """Adds up tables, as many at once as the memory permits."""

    def __init__(self, memory: int) -> None:
        self._memory = self._limit = memory
        self._tables: list[pa.Table] = []
        self._bytes = 0

    def add(self, table: pa.Table) -> bool:
        """Returns whether the sums take more than half of the memory."""
        self._tables.append(table)
        self._bytes += table.nbytes
        if self._bytes <= self._limit:
            return False
        sums = self.taken()
        self._tables, self._bytes = [sums], sums.nbytes
        self._limit = max(self._memory, 2 * self._bytes)
        return self._bytes > self._memory // 2

    def taken(self) -> pa.Table:
        """A row for each word; begins anew."""
        tables = pa.concat_tables([_SUMS.empty_table(), *self._tables])
        self._tables, self._bytes, self._limit = [], 0, self._memory
        sums = tables.group_by("word", use_threads=False).aggregate([("count", "sum"), ("files", "sum")])
        return sums.rename_columns(_SUMS.names)


class _Partitions:
    """Files without a name; a word is always in the same one."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        opened = (tempfile.TemporaryFile(dir=folder) for _ in range(_PARTITIONS))  # noqa: SIM115 (the stack closes it)
        self._files = [stack.enter_context(file) for file in opened]
        self._writers = [stack.enter_context(pa.ipc.new_stream(file, _SUMS)) for file in self._files]

    def write(self, sums: pa.Table) -> None:
        hashes = np.fromiter(map(hash, sums["word"].to_pylist()), np.int64, sums.num_rows) % _PARTITIONS
        order = np.argsort(hashes, kind="stable")
        borders = np.searchsorted(hashes[order], np.arange(_PARTITIONS + 1))
        sums = sums.take(order)
        for writer, start, end in zip(self._writers, borders, borders[1:], strict=False):
            writer.write_table(sums.slice(start, end - start))

    def __iter__(self) -> Iterator[pa.RecordBatchReader]:
        for file, writer in zip(self._files, self._writers, strict=True):
            writer.close()
            file.seek(0)
            yield pa.ipc.open_stream(file)


def _partitions(blocks: Iterable[bytes], folder: Path, memory: int, stack: ExitStack) -> Iterator[pa.Table]:
    """The sums of all blocks in tables, no word in two of them."""
    partitions: _Partitions | None = None
    sums = _Sums(memory)
    for block in blocks:
        if sums.add(_read(block)):
            with at(folder):
                partitions = partitions or _Partitions(folder, stack)
                partitions.write(sums.taken())
    if not partitions:
        yield sums.taken()
        return
    with at(folder):
        partitions.write(sums.taken())
    for reader in partitions:
        for batch in reader:
            sums.add(pa.Table.from_batches([batch]))
        yield sums.taken()
