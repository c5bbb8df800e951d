"""Uploads of one file: blocks that suit the line, and nothing stored of a file that changes meanwhile."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from azure.storage.blob import (
    ContainerClient,
    ContainerSasPermissions,
    generate_container_sas,
)

import tasks.resources.upload
from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.errors import InputError
from tasks.inputs.content import Content
from tasks.resources.upload import LEAST_BLOCK, MOST_BLOCK, Line, upload

K = 1 << 10


@pytest.fixture
def container(azure: Azure) -> Iterator[ContainerClient]:
    with azure.blobs() as blobs:
        made = blobs.create_container(f"uploads-{uuid4()}")
        yield made
        made.delete_container()


def ticking(seconds: float) -> Callable[[], float]:
    """A clock on which each request takes so many seconds."""
    ticks = count()
    return lambda: next(ticks) * seconds


def sent(container: ContainerClient, path: Path, line: Line) -> list[int]:
    """The sizes of the blocks, in kB, of the blob that an upload makes."""
    content = Content.of(path)
    blob = container.get_blob_client(path.name)
    modified = upload(blob, path, content, "text/plain", line)
    stored = blob.get_blob_properties()
    assert (stored.last_modified, stored.size) == (modified, content.size)
    assert bytes(stored.content_settings.content_md5 or b"") == content.md5 == hashlib.md5(path.read_bytes()).digest()
    assert blob.download_blob().readall() == path.read_bytes()
    return [block.size // K for block in blob.get_block_list()[0]]


@pytest.mark.parametrize("size", [0, 1, LEAST_BLOCK])
def test_a_small_file_is_one_request(container: ContainerClient, tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(os.urandom(size))
    assert sent(container, tmp_path / "a", Line()) == []


def test_blocks_grow_on_a_fast_line(container: ContainerClient, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(4000 * K))
    assert sent(container, tmp_path / "a", Line(ticking(0.5))) == [256, 512, 1024, 2048, 160]


def test_blocks_stay_small_and_fewer_on_a_slow_line(container: ContainerClient, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(900 * K))
    line = Line(ticking(11))
    assert sent(container, tmp_path / "a", line) == [256, 256, 256, 132]
    assert (line.at_a_time, line.sent) == (1, 900 * K)


def test_a_line_that_becomes_slow_and_fast_again_is_followed() -> None:
    times = iter([0, 0.5, 0, 11, 0, 5, 0, 11, 0, 0.1])
    line = Line(lambda: next(times))
    seen = []
    for _ in range(5):
        line.send(lambda: None, line.block_bytes)
        seen.append((line.at_a_time, line.block_bytes // K))
    assert seen == [(8, 512), (4, 256), (4, 256), (2, 256), (3, 512)]
    fast = Line(ticking(0.1))
    for _ in range(20):
        fast.send(lambda: None, fast.block_bytes)
    assert fast.block_bytes == MOST_BLOCK


class SlowLine:
    """A port that forwards to another, so many bytes a second in all."""

    def __init__(self, port: int, rate: float) -> None:
        self._target, self._rate = ("127.0.0.1", port), rate
        self._free, self._lock = time.monotonic(), threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * K)  # or the kernel takes all at once
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near = self._listening.accept()[0]
            except OSError:
                return
            far = socket.create_connection(self._target)
            threading.Thread(target=self._forward, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(far, near, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, slowly: bool) -> None:
        with source, suppress(OSError):
            while data := source.recv(4 * K):
                if slowly:
                    with self._lock:
                        self._free = max(self._free, time.monotonic()) + len(data) / self._rate
                        due = self._free - time.monotonic()
                    time.sleep(max(0.0, due))
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def test_many_files_on_a_slow_line_only_take_longer(
    azure: Azure, container: ContainerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight files of 64 kB at once, at 256 kB a second, as 8 of 10 MB are on 10 Mbit/s; a request may take 1.5 s."""
    monkeypatch.setattr(tasks.resources.upload, "LEAST_BLOCK", 16 * K)
    monkeypatch.setattr(tasks.resources.upload, "_FAST", 0.05)
    monkeypatch.setattr(tasks.resources.upload, "_SLOW", 0.4)
    monkeypatch.setattr(tasks.resources.upload, "_TIMEOUT", {"connection_timeout": 1.5, "read_timeout": 1.5})
    address = urlsplit(azure.storage_account.endpoint)
    line = SlowLine(address.port or 80, 256 * K)
    account = replace(azure.storage_account, endpoint=f"http://127.0.0.1:{line.port}{address.path}")
    paths = [tmp_path / f"{number}.bin" for number in range(8)]
    for path in paths:
        path.write_bytes(os.urandom(64 * K))
    seen: list[int] = []
    shared = Line()
    with replace(azure, storage_account=account).blobs() as blobs:
        slow = blobs.get_container_client(container.container_name)

        def send(path: Path) -> None:
            upload(slow.get_blob_client(path.name), path, Content.of(path), "text/plain", shared)

        in_parallel(send, paths, meanwhile=lambda: seen.append(shared.sent), every=0.2)
    line.close()
    assert shared.at_a_time < 8
    assert len({*seen}) > 2
    assert all(container.download_blob(path.name).readall() == path.read_bytes() for path in paths)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rewrite_end(path: Path) -> None:
    """Other bytes, with the size and the time that the file had."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [grow, shrink, rewrite_end])
@pytest.mark.parametrize("size", [3, 600 * K])
def test_a_file_that_changes_is_not_stored(
    container: ContainerClient, tmp_path: Path, change: Callable[[Path], None], size: int
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * size)
    content = Content.of(path)
    blob = container.get_blob_client(path.name)
    blob.upload_blob(b"before")
    change(path)
    with pytest.raises(InputError, match=r"input '.*a\.log' changed while it was uploaded; run again when"):
        upload(blob, path, content, "text/plain", Line())
    assert blob.download_blob().readall() == b"before"


def test_a_file_that_changes_between_two_blocks_is_not_stored(container: ContainerClient, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 900 * K)

    def change() -> float:
        rewrite_end(path)
        return 0

    line = Line(change)  # the clock is read around each request
    with pytest.raises(InputError, match="changed while it was uploaded"):
        upload(container.get_blob_client("a.log"), path, Content.of(path), "text/plain", line)
    assert [blob.name for blob in container.list_blobs()] == []


def test_a_file_replaced_by_another_is_stored_as_it_was(container: ContainerClient, tmp_path: Path) -> None:
    path, other = tmp_path / "a.log", tmp_path / "b.log"
    path.write_bytes(b"x" * 900 * K)
    content = Content.of(path)

    def exchange() -> float:
        other.write_bytes(b"y" * 900 * K)
        other.replace(path)
        return 0

    blob = container.get_blob_client("a.log")
    upload(blob, path, content, "text/plain", Line(exchange))
    assert blob.download_blob().readall() == b"x" * 900 * K
    assert blob.get_blob_properties().content_settings.content_md5 == bytearray(content.md5)


def test_a_file_that_is_gone_is_named(container: ContainerClient, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"input '.*/a' can no longer be read \(No such file or directory\)"):
        Content.of(tmp_path / "a")


@pytest.mark.parametrize("query", ["", "&comp=block&blockid=MDAw"])
def test_the_service_refuses_what_was_damaged_on_the_way(azure: Azure, container: ContainerClient, query: str) -> None:
    assert azure.storage_account.key
    token = generate_container_sas(
        azure.storage_account.name,
        container.container_name,
        azure.storage_account.key.get_secret_value(),
        permission=ContainerSasPermissions(create=True, write=True),
        expiry="2100-01-01T00:00:00Z",
    )
    headers = {
        "x-ms-blob-type": "BlockBlob",
        "x-ms-version": "2021-08-06",
        "Content-MD5": base64.b64encode(hashlib.md5(b"whole").digest()).decode(),
    }
    request = Request(f"{container.url}/a?{token}{query}", data=b"wHole", headers=headers, method="PUT")
    with pytest.raises(HTTPError) as refused:
        urlopen(request)
    assert refused.value.code == 400
    assert "MD5" in refused.value.read().decode()
    assert list(container.list_blobs()) == []
