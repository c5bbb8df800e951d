"""A reverse proxy between the SDKs and the services: it counts a run's HTTP calls, and loses or falsifies answers.

Signatures cover the path and the headers but not the host, so requests pass byte for byte as they came. What the nodes
send (it carries a SAS signature, as only small downloads of the flow do) passes too, but is neither a call nor faulted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from tasks.accounts.whole_blobs import USER_AGENT
from tests.support.polling import LIMIT

_HOST = "127.0.0.1"
_RUN = re.compile(r"top-words-[0-9a-f]{12}")
_BLANKED = ((_RUN, "{run}"), (re.compile(r"tvmps_\w+"), "{node}"))
_TELLING = ("comp", "restype", "$filter", "$select")  # parameters that make it another call
_MOST_HEADERS = 1 << 17  # bytes
_BODILESS = (204, 304)

T = TypeVar("T")


class Service(str, Enum):
    BATCH = "batch"
    BLOBS = "blobs"


class Mode(str, Enum):
    """What becomes of a call."""

    REFUSED = "503 before it acted"
    DROPPED = "connection dropped before it acted"
    UNHEARD = "acted, then connection dropped"
    DISOWNED = "acted, then 500"
    CUT = "acted, then half an answer"
    FLIPPED = "acted, then a changed byte"
    EMPTY_200 = "acted, then 200 with nothing"
    NOTHING_204 = "acted, then 204"
    HTML_200 = "200 of a gateway"
    HTML_401 = "401 of a gateway"
    HTML_403 = "403 of a gateway"
    HTML_404 = "404 of a gateway"
    HTML_407 = "407 of a gateway"
    HTML_409 = "409 of a gateway"
    HTML_502 = "502 of a gateway"


_NOT_ACTED = {Mode.REFUSED, Mode.DROPPED, *(mode for mode in Mode if mode.name.startswith("HTML"))}
_PAGE = b"<html><body>Sign in to go on.</body></html>"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One of a run's HTTP calls, named alike in every run: its own ids are blanked, and equal ones are numbered."""

    service: Service
    method: str
    path: str
    query: str = ""
    occurrence: int = 1

    def __str__(self) -> str:
        query = f"?{self.query}" if self.query else ""
        return f"{self.service.value}: {self.method} {self.path}{query} #{self.occurrence}"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An error of the service itself, before it acted, in its own form; values are its key-value details."""

    status: int
    code: str
    message: str = "This error was asked for."
    values: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


_ERRORS = {
    Mode.REFUSED: Refusal(status=503, code="ServerBusy"),
    Mode.DISOWNED: Refusal(status=500, code="InternalError"),
}
Decide = Callable[[Call], "Mode | Refusal | None"]


@dataclass(frozen=True, kw_only=True)
class _Message:
    """A request or an answer, as its bytes and what is known of them."""

    start: str
    headers: Mapping[str, str]
    raw: bytes
    last: bool  # the connection ends with it


class Passage:
    """One run's way to the services: what it called, and what became of that."""

    def __init__(self, decide: Decide, *, hold_nodes: bool, rewrite: tuple[bytes, bytes] | None) -> None:
        assert rewrite is None or len(rewrite[0]) == len(rewrite[1]), "the answers' lengths are announced"
        self._decide = decide
        self.rewrite = rewrite or (b"", b"")
        self._seen: Counter[tuple[Service, str, str, str]] = Counter()
        self._open_to_nodes = asyncio.Event()
        self._hold_nodes = hold_nodes
        self._loop = asyncio.get_running_loop()
        self.calls: list[Call] = []
        self.faulted: list[tuple[Call, Mode]] = []
        self.by_nodes: list[str] = []  # such as "GET /account/{run}-input/a.txt"
        self.settings: dict[str, str] = {}
        self.with_body: set[Call] = set()  # the calls whose answers have one
        self.run = ""  # its name, once one of its calls was for something of that name

    def restart(self, decide: Decide) -> None:
        """Forget the calls until now, but for the nodes', and decide so from now on."""
        self._decide = decide
        self._seen.clear()
        self.calls.clear()
        self.faulted.clear()

    def let_nodes_through(self) -> None:
        """From now on; where they are held back, no Batch task can have begun before."""
        self._loop.call_soon_threadsafe(self._open_to_nodes.set)

    async def admit(self, service: Service, request: _Message) -> tuple[Call | None, Mode | Refusal | None]:
        """Write the request down; which call it is, if it is one, and how it is to be faulted, if it is."""
        method, target, _ = request.start.split(" ", 2)
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        if found := _RUN.search(url.path):
            self.run = found[0]
        if "sig" in query and request.headers.get("user-agent") != USER_AGENT:
            self.by_nodes.append(f"{method} {_blank(url.path)}")
            if self._hold_nodes:
                await self._open_to_nodes.wait()
            return None, None
        telling = "&".join(f"{name}={_blank(query[name])}" for name in _TELLING if name in query)
        key = (service, method, _blank(url.path), telling)
        self._seen[key] += 1
        call = Call(service=service, method=method, path=key[2], query=telling, occurrence=self._seen[key])
        self.calls.append(call)
        mode = self._decide(call)
        if isinstance(mode, Mode):
            self.faulted.append((call, mode))
        return call, mode


class FaultProxies:
    """Proxies, a pair for every run that asks for one, on an event loop in a thread of its own."""

    def __enter__(self) -> FaultProxies:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxies", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def passage(
        self,
        settings: Mapping[str, str],
        decide: Decide = lambda call: None,
        *,
        hold_nodes: bool = False,
        rewrite: tuple[bytes, bytes] | None = None,
    ) -> Iterator[Passage]:
        """A way to the services that the settings name; its own `settings` lead there through two proxies.

        `hold_nodes` keeps the nodes' requests waiting until they are let through. `rewrite` is a text and another of
        the same length that takes its place in every answer to the run.
        """
        passage, servers = self._wait(self._open(settings, decide, hold_nodes, rewrite))
        try:
            yield passage
        finally:
            for server in servers:
                self._wait(server.close())

    async def _open(
        self, settings: Mapping[str, str], decide: Decide, hold_nodes: bool, rewrite: tuple[bytes, bytes] | None
    ) -> tuple[Passage, list[_Proxy]]:
        passage = Passage(decide, hold_nodes=hold_nodes, rewrite=rewrite)
        batch = settings["AZURE_BATCH_ENDPOINT"]
        found = re.search(r"BlobEndpoint=([^;]+)", settings["AZURE_STORAGE_CONNECTION_STRING"])
        assert found, "the connection string names no BlobEndpoint"
        proxies = []
        passage.settings = dict(settings)
        for service, endpoint in ((Service.BATCH, batch), (Service.BLOBS, found[1])):
            proxy = _Proxy(service, endpoint, passage)
            proxies.append(proxy)
            here = await proxy.listen()
            passage.settings = {name: value.replace(endpoint, here) for name, value in passage.settings.items()}
        return passage, proxies

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(LIMIT)


class _Proxy:
    """Listens on a free port of its own for one service of one passage."""

    def __init__(self, service: Service, endpoint: str, passage: Passage) -> None:
        self._service = service
        self._endpoint = urlsplit(endpoint)
        self._passage = passage
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self) -> str:
        """Begin; returns the endpoint that leads here."""
        self._server = await asyncio.start_server(self._connected, _HOST, 0, limit=_MOST_HEADERS)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://{_HOST}:{port}{self._endpoint.path}"

    async def close(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        upstream = _Upstream(self._endpoint.hostname or _HOST, self._endpoint.port or 80)
        try:
            # A client that hangs up ends its connection here, and so does the service.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._serve(reader, writer, upstream):
                    pass
        finally:
            self._connections.discard(task)
            upstream.abort()
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: _Upstream) -> bool:
        """One request and its answer; whether the connection goes on."""
        request = await _read(reader)
        method = request.start.split(" ", 1)[0]
        call, mode = await self._passage.admit(self._service, request)
        answer = None if mode in _NOT_ACTED or isinstance(mode, Refusal) else await upstream.ask(request, method)
        if call and answer and answer.raw.partition(b"\r\n\r\n")[2]:
            self._passage.with_body.add(call)
        if mode in (Mode.DROPPED, Mode.UNHEARD):
            return False
        if mode is Mode.CUT:
            assert answer
            head = answer.raw.index(b"\r\n\r\n") + 4
            writer.write(answer.raw[: head + (len(answer.raw) - head) // 2] if len(answer.raw) > head else b"")
            await writer.drain()
            return False
        if mode is Mode.FLIPPED:
            assert answer
            answer = _flipped(answer, str(call))
        elif mode:
            writer.write(_false_answer(mode, self._service, method))
            await writer.drain()
            return True
        assert answer
        writer.write(
            answer.raw.replace(*self._passage.rewrite) if self._passage.rewrite[0] else answer.raw
        )  # head and body at once: two packets would cost a delayed acknowledgement
        await writer.drain()
        if answer.last:
            writer.close()
            await writer.wait_closed()
        return not answer.last


class _Upstream:
    """The connection to the service that belongs to one connection from a client."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: _Message, method: str) -> _Message:
        if self._streams is None or self._streams[0].at_eof():  # a service closes what has been idle for long
            self.abort()
            self._streams = await asyncio.open_connection(self._host, self._port, limit=_MOST_HEADERS)
        reader, writer = self._streams
        writer.write(request.raw)
        return await _read(reader, method)

    def abort(self) -> None:
        if self._streams:
            self._streams[1].transport.abort()


async def _read(reader: asyncio.StreamReader, answer_to: str | None = None) -> _Message:
    """A request, or the answer to a request of that method, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    start, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body, last = b"", headers.get("connection", "").lower() == "close"
    if answer_to == "HEAD" or (answer_to and int(start.split(" ")[1]) in _BODILESS):
        pass
    elif headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _chunks(reader)
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif answer_to:
        body, last = await reader.read(), True
    return _Message(start=start, headers=headers, raw=head + body, last=last)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body as it is on the wire."""
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        chunk = await reader.readexactly(int(line.split(b";")[0], 16) + 2)
        body += line + chunk
        if chunk == b"\r\n":
            return body


def _false_answer(mode: Mode | Refusal, service: Service, method: str) -> bytes:
    """What comes in the place of the service's answer."""
    if isinstance(mode, Refusal):
        return _error(service, mode, method)
    if mode in _ERRORS:
        return _error(service, _ERRORS[mode], method)
    if mode is Mode.NOTHING_204:
        return b"HTTP/1.1 204 No Content\r\n\r\n"
    page = b"" if mode is Mode.EMPTY_200 else _PAGE
    head = f"HTTP/1.1 {mode.name[-3:]} Gateway\r\nContent-Type: text/html\r\nContent-Length: {len(page)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else page)


def _flipped(answer: _Message, seed: str) -> _Message:
    """The answer with one of its body's bytes changed, if it has any."""
    head, _, body = answer.raw.partition(b"\r\n\r\n")
    if answer.headers.get("transfer-encoding", "").lower() == "chunked":
        body = _unchunked(body)
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"transfer-encoding:")]
        head = b"\r\n".join([*lines, b"Content-Length: %d" % len(body)])
    if body:
        dice = random.Random(seed)
        at = dice.randrange(len(body))
        body = body[:at] + bytes([body[at] ^ (1 << dice.randrange(7))]) + body[at + 1 :]
    return replace(answer, raw=head + b"\r\n\r\n" + body)


def _unchunked(body: bytes) -> bytes:
    data = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        data, body = data + rest[:length], rest[length + 2 :]
    return data


def _error(service: Service, refusal: Refusal, method: str) -> bytes:
    """What the service itself would say."""
    code, values = refusal.code, refusal.values
    if service is Service.BATCH:
        pairs = [{"key": key, "value": value} for key, value in values]
        error = {"code": code, "message": {"lang": "en-US", "value": refusal.message}, "values": pairs}
        kind, body = "application/json; odata=minimalmetadata", json.dumps(error)
    else:
        kind = "application/xml"
        details = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in values)
        body = f"<Error><Code>{code}</Code><Message>{escape(refusal.message)}</Message>{details}</Error>"
        body = f'<?xml version="1.0" encoding="utf-8"?>{body}'
    head = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\nContent-Type: {kind}\r\n"
    head += f"x-ms-error-code: {code}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in refusal.headers)
    head += f"{'request-id' if service is Service.BATCH else 'x-ms-request-id'}: asked-for\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{'' if method == 'HEAD' else body}".encode()


def _blank(text: str) -> str:
    for pattern, name in _BLANKED:
        text = pattern.sub(name, text)
    return text
