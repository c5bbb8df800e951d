"""A TCP proxy in front of a service, which counts the HTTP requests of one process tree and those of all others.

Every byte passes as it came: signatures cover the path and the headers, but not the port. A request is found by its
first line. That is exact as long as no body has such a line, and the bodies here are words.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.services import process_tree

_REQUEST = re.compile(rb"(?:GET|HEAD|PUT|POST|PATCH|DELETE|OPTIONS) \S+ HTTP/1\.[01]\r\n")
_LONGEST_LINE = 8192  # bytes


class RequestCounter:
    """Counts the requests in the bytes of one connection, however they are cut."""

    def __init__(self) -> None:
        self.count = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        data = self._rest + data
        end = 0
        for found in _REQUEST.finditer(data):
            self.count += 1
            end = found.end()
        self._rest = data[max(end, len(data) - _LONGEST_LINE) :]


@dataclass
class Requests:
    """How many requests came from where, of the connections so far."""

    endpoint: str  # of the proxy
    client: int | None = None  # the process whose tree's requests are the client's
    by_client: list[RequestCounter] = field(default_factory=list)
    by_others: list[RequestCounter] = field(default_factory=list)

    def counts(self) -> tuple[int, int]:
        """The client's and the others'."""
        return sum(each.count for each in self.by_client), sum(each.count for each in self.by_others)

    def counter_for(self, port: int) -> RequestCounter:
        counter = RequestCounter()
        is_client = self.client is not None and _has_socket(self.client, port)
        (self.by_client if is_client else self.by_others).append(counter)
        return counter


class _Side(asyncio.Protocol):
    """One side of a connection; what it receives goes to the other side."""

    def __init__(self, seen: Callable[[bytes], None] | None = None) -> None:
        self.seen = seen
        self.other: asyncio.WriteTransport | None = None
        self.transport: asyncio.Transport
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def join(self, other: asyncio.WriteTransport) -> None:
        self.other = other
        if self._early:
            other.write(self._early)

    def data_received(self, data: bytes) -> None:
        if self.seen:
            self.seen(data)
        if self.other:
            self.other.write(data)
        else:
            self._early += data

    def connection_lost(self, error: Exception | None) -> None:
        if self.other:
            self.other.close()


class _FromClient(_Side):
    def __init__(self, requests: Requests, target: tuple[str, int]) -> None:
        super().__init__()
        self._requests = requests
        self._target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.seen = self._requests.counter_for(transport.get_extra_info("peername")[1]).feed
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        try:
            transport, to_service = await asyncio.get_running_loop().create_connection(_Side, *self._target)
        except OSError:
            self.transport.abort()
            return
        to_service.join(self.transport)
        self.join(transport)
        if self.transport.is_closing():
            transport.close()


@contextmanager
def passing_through(endpoint: str) -> Iterator[Requests]:
    """Run a proxy in front of the service at that http endpoint while the context lasts."""
    url = urlsplit(endpoint)
    assert url.hostname
    assert url.port
    target = url.hostname, url.port
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    requests = Requests(endpoint="")
    listening = loop.create_server(lambda: _FromClient(requests, target), "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(listening, loop).result()
    requests.endpoint = url._replace(netloc=f"127.0.0.1:{server.sockets[0].getsockname()[1]}").geturl()
    try:
        yield requests
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _has_socket(pid: int, port: int) -> bool:
    """Whether a process of the tree has a connection from that local port."""
    inode = _inode(port)
    for process in process_tree(pid):
        with suppress(OSError):  # it has ended
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{process}/fd/{descriptor}") == f"socket:[{inode}]":
                        return True
    return False


def _inode(port: int) -> str:
    """Of the socket that is connected from that port of 127.0.0.1."""
    start = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == start:
            return fields[9]
    return ""
