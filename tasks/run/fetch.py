"""Puts the outputs of one file into the results folder, each checked: from its record, or from their blobs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from azure.core.exceptions import ResourceNotFoundError, ServiceResponseError
from azure.storage.blob import ContainerClient, StorageStreamDownloader

from tasks.accounts.whole_blobs import WholeBlobs
from tasks.errors.codes import Code
from tasks.errors.local_files import at
from tasks.errors.service import ServiceError, error_code
from tasks.inputs.content import new_md5
from tasks.run.outcomes import Cause
from tasks.run.records import FileRecord, Output, record_blob
from tasks.run.results import Results

_DAMAGED_TIMES = 3  # downloads of one blob that differ from it
_WHOLE = 1 << 20  # bytes of an output that is read in one request, into memory


class Useless(Exception):
    """The outputs of a file are of no use."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches records and outputs from the output container, with several threads. Raises one of SERVICE_FAILURES."""

    results: Results
    blobs: WholeBlobs
    container: ContainerClient

    def record(self, name: str) -> FileRecord | None:
        """The record that a Batch task with this file alone has left. Raises Useless where it is damaged."""
        return self.record_in(record_blob(name))

    def record_in(self, blob: str) -> FileRecord | None:
        """The record in that blob. Raises Useless where it is damaged."""
        try:
            return FileRecord.parse(self.blobs.read(blob))
        except ServiceError as error:
            if error.code != Code.BLOB_NOT_FOUND:
                raise
            return None
        except ValueError as error:
            raise Useless(Cause.DAMAGED, f"{blob}: {error}") from None

    def store(self, name: str, record: FileRecord) -> list[tuple[Output, Path]]:
        """Put the outputs that are in the record at their places; returns the others, for `fetch`."""
        if self.results.kept:
            return []
        folder = self.results.folder_of(name)
        with at(folder):
            _make_empty(folder)
        left = []
        for output, path in self.results.paths(name, record.record):
            if path.parent != folder:
                with at(path.parent):
                    path.parent.mkdir(parents=True, exist_ok=True)
            data = record.inline(output)
            difference = "it is neither in the record nor a blob" if data is None else _write(path, [data], output)
            if difference and not output.blob:
                raise Useless(Cause.DAMAGED, difference)
            if difference:
                left.append((output, path))
        return left

    def fetch(self, outputs: Sequence[tuple[Output, Path]]) -> None:
        """Put the blobs at their places. Raises Useless where one is not there, or stays another than was stored."""
        for output, path in outputs:
            self._fetch(output, path)

    def check(self, name: str) -> None:
        """Raises Useless where the outputs of the file cannot be read."""
        if not self.results.kept and (reason := self.results.unreadable(name)):
            raise Useless(Cause.UNREADABLE, reason)

    def _fetch(self, output: Output, path: Path) -> None:
        for _ in range(_DAMAGED_TIMES):
            try:
                difference = _write(path, self._chunks(output), output)
            except ValueError as error:
                raise Useless(Cause.DAMAGED, f"{output.blob}: {error}") from None
            except (ResourceNotFoundError, ServiceError) as error:
                code = error.code if isinstance(error, ServiceError) else error_code(error)
                if code != Code.BLOB_NOT_FOUND:
                    raise
                raise Useless(Cause.NO_OUTPUT, f"no blob {output.blob}") from None
            if not difference:
                return
        raise Useless(Cause.DAMAGED, difference)

    def _chunks(self, output: Output) -> Iterator[bytes]:
        if output.size <= _WHOLE:
            yield self.blobs.read(output.blob)
        else:
            yield from _streamed(self.container.download_blob(output.blob))


def _streamed(blob: StorageStreamDownloader[bytes]) -> Iterator[bytes]:
    try:
        yield from blob.chunks()
    except OSError as error:  # of the connection, and not of this machine's files
        raise ServiceResponseError(str(error) or type(error).__name__) from None


def _make_empty(folder: Path) -> None:
    """A previous attempt may have left outputs with other names there."""
    try:
        folder.mkdir()
    except FileNotFoundError:
        folder.mkdir(parents=True)
    except FileExistsError:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()


def _write(target: Path, chunks: Iterable[bytes], expected: Output) -> str:
    """Put the content at the target. Returns in what it differs from what is expected, and then it is not there."""
    # Written under another name first: a file that is there is a whole one.
    partial = target.with_name(f".{uuid4().hex}.part")
    written = False
    try:
        with at(partial), partial.open("xb") as file:
            difference = _copy(chunks, file, expected)
        if difference:
            return difference
        with at(target):
            partial.replace(target)
        written = True
        return ""
    finally:
        if not written:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _copy(chunks: Iterable[bytes], file: BinaryIO, expected: Output) -> str:
    digest, size = new_md5(), 0
    for chunk in chunks:
        file.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    if size != expected.size:
        return f"{size:,} of {expected.size:,} bytes"
    if digest.digest() != expected.md5:
        return f"its MD5 is {digest.hexdigest()}, that of the output was {expected.md5.hex()}"
    return ""
