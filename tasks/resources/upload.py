"""Upload one file to a blob: in blocks that suit the line, and only if the file does not change meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from azure.storage.blob import BlobBlock, BlobClient, BlobProperties, ContentSettings

from tasks.accounts.parallel import AT_A_TIME
from tasks.errors import InputError
from tasks.inputs.content import Content, new_md5, open_input, read_input

LEAST_BLOCK, MOST_BLOCK = 256 << 10, 8 << 20  # bytes
_MOST_BLOCKS = 50_000  # of a blob
_FAST, _SLOW = 1.0, 10.0  # seconds that a request takes
# A request is lost when its body is not sent in as many seconds. Eight blocks of the smallest size at once are, on a
# line of 280 kbit/s; four of them on one of 140.
_TIMEOUT: dict[str, Any] = {"connection_timeout": 60}

R = TypeVar("R")


class Line:
    """The line to the service: requests of all files share it, fewer and smaller ones while it is slow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.block_bytes = LEAST_BLOCK
        self.at_a_time = AT_A_TIME
        self.sent = 0  # bytes, and what need not be sent
        self._under_way = 0
        self._changed = threading.Condition()
        self._clock = clock

    def send(self, request: Callable[[], R], size: int) -> R:
        """Send the request, of that many bytes, once the line is free for it; returns its result."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < self.at_a_time)
            self._under_way += 1
        start = self._clock()
        try:
            result = request()
            self.note(size)
            return result
        finally:
            with self._changed:
                self._under_way -= 1
                self._adapt(size, self._clock() - start)
                self._changed.notify_all()

    def note(self, size: int) -> None:
        with self._changed:
            self.sent += size

    def _adapt(self, size: int, seconds: float) -> None:
        if seconds > _SLOW:
            self.at_a_time = max(1, self.at_a_time // 2)
            self.block_bytes = max(LEAST_BLOCK, self.block_bytes // 2)
        elif seconds < _FAST:
            self.at_a_time = min(AT_A_TIME, self.at_a_time + 1)
            if size >= self.block_bytes:  # a smaller one says nothing about larger ones
                self.block_bytes = min(MOST_BLOCK, self.block_bytes * 2)


def upload(blob: BlobClient, path: Path, content: Content, content_type: str, line: Line) -> datetime:
    """Make the content, which the file had a moment ago, that of the blob; returns when the service stored it.

    Each request carries its MD5, so that the service refuses what is damaged on the way. Raises InputError where the
    file has changed meanwhile: then the blob stays as it was.
    """
    with open_input(path) as file:
        return _send(blob, path, partial(read_input, path, file), content, content_type, line)


def upload_data(blob: BlobClient, data: bytes, content: Content, content_type: str, line: Line) -> datetime:
    """The same with content that is in memory."""
    return _send(blob, Path(blob.blob_name), BytesIO(data).read, content, content_type, line)


def _send(
    blob: BlobClient, path: Path, read: Callable[[int], bytes], content: Content, content_type: str, line: Line
) -> datetime:
    settings = ContentSettings(content_type=content_type, content_md5=bytearray(content.md5))
    if content.size <= line.block_bytes:
        data = read(content.size + 1)
        _compare(path, content, new_md5(data).digest())
        put: Callable[[], dict[str, Any]] = partial(
            blob.upload_blob, data, overwrite=True, content_settings=settings, validate_content=True, **_TIMEOUT
        )
        answer = line.send(put, len(data))
    else:
        blocks = _stage(blob, path, read, content, line)
        answer = blob.commit_block_list(blocks, content_settings=settings)
    modified: datetime = answer["last_modified"]
    return modified


def _stage(blob: BlobClient, path: Path, read: Callable[[int], bytes], content: Content, line: Line) -> list[BlobBlock]:
    """Upload the blocks of the blob, of which nobody sees anything until they are committed."""
    digest, staged = new_md5(), 0
    blocks: list[BlobBlock] = []
    while staged <= content.size:  # a file that grows without end has changed
        size = max(line.block_bytes, -(-content.size // _MOST_BLOCKS))
        data = read(size)
        if not data:
            break
        digest.update(data)
        staged += len(data)
        blocks.append(BlobBlock(block_id=f"{len(blocks):06}"))
        line.send(partial(blob.stage_block, blocks[-1].id, data, validate_content=True, **_TIMEOUT), len(data))
    _compare(path, content, digest.digest())
    return blocks


def holds(blob: BlobProperties, content: Content) -> bool:
    """Whether the blob has that content already."""
    return blob.size == content.size and bytes(blob.content_settings.content_md5 or b"") == content.md5


def _compare(path: Path, content: Content, md5: bytes) -> None:
    if md5 != content.md5:
        raise InputError(
            f"input {str(path)!r} changed while it was uploaded; run again when nothing writes to it, or name a copy"
        )
