"""The proxy that the tests of lost answers rest on: what it passes, what it counts, and what it loses."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

from tests.support.fault_proxy import Call, FaultProxies, Mode, Passage, Service

RUN = "top-words-0123456789ab"
SIGNED = {"Authorization": "SharedKey account:signature"}


class Upstream(ThreadingHTTPServer):
    """Stands for both services: answers what it was asked, and remembers it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.connections: set[int] = set()

    @property
    def settings(self) -> dict[str, str]:
        endpoint = f"http://127.0.0.1:{self.server_port}"
        return {
            "AZURE_BATCH_ENDPOINT": endpoint,
            "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey=a;BlobEndpoint={endpoint}/account;",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"{self.command} {self.path} {body.decode()}".strip())
        self.server.connections.add(self.client_address[1])
        said = f"{self.path} {body.decode()}".strip().encode()
        self.send_response(204 if self.path.startswith("/nothing") else 200)
        if self.path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
            return
        if not self.path.startswith("/nothing"):
            self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD" and not self.path.startswith("/nothing"):
            self.wfile.write(said)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def proxies() -> Iterator[FaultProxies]:
    with FaultProxies() as proxies:
        yield proxies


def connect(passage: Passage) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(passage.settings["AZURE_BATCH_ENDPOINT"]).netloc, timeout=10)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection.request(method, path, body, SIGNED)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_requests_and_answers_of_every_form_pass_on_one_connection(proxies: FaultProxies, upstream: Upstream) -> None:
    with proxies.passage(upstream.settings) as passage:
        connection = connect(passage)
        assert ask(connection, "PUT", "/x%20y?a=%2F", "body") == (200, b"/x%20y?a=%2F body")
        assert ask(connection, "GET", "/chunked") == (200, b"abcde")
        assert ask(connection, "GET", "/nothing") == (204, b"")
        assert ask(connection, "HEAD", "/x") == (200, b"")
        assert ask(connection, "GET", "/last") == (200, b"/last")
        connection.close()
    assert len(upstream.connections) == 1


def test_calls_are_named_alike_in_every_run_and_numbered(proxies: FaultProxies, upstream: Upstream) -> None:
    with proxies.passage(upstream.settings) as passage:
        connection = connect(passage)
        for path in (f"/jobs/{RUN}?api-version=1", f"/jobs/{RUN}?api-version=2", f"/jobs/{RUN}?comp=list"):
            ask(connection, "GET", path)
        connection.close()
    assert [str(call) for call in passage.calls] == [
        "batch: GET /jobs/{run} #1",
        "batch: GET /jobs/{run} #2",
        "batch: GET /jobs/{run}?comp=list #1",
    ]
    assert passage.run == RUN


def test_requests_of_nodes_are_not_calls_and_can_be_held(proxies: FaultProxies, upstream: Upstream) -> None:
    with proxies.passage(upstream.settings, hold_nodes=True) as passage:
        connection, other = connect(passage), connect(passage)
        connection.request("GET", f"/{RUN}-input/a.txt?sp=r&sig=abc")
        ask(other, "GET", "/signed")
        other.close()
        assert upstream.asked == ["GET /signed"]
        passage.let_nodes_through()
        assert connection.getresponse().read() == f"/{RUN}-input/a.txt?sp=r&sig=abc".encode()
        connection.close()
    assert [str(call) for call in passage.calls] == ["batch: GET /signed #1"]
    assert passage.by_nodes == ["GET /{run}-input/a.txt"]


@pytest.mark.parametrize(
    ("mode", "acted", "status"),
    [(Mode.REFUSED, 0, 503), (Mode.DROPPED, 0, None), (Mode.UNHEARD, 1, None), (Mode.DISOWNED, 1, 500)],
)
def test_one_call_is_lost_in_one_of_four_ways_and_no_other(
    proxies: FaultProxies, upstream: Upstream, mode: Mode, acted: int, status: int | None
) -> None:
    call = Call(service=Service.BATCH, method="POST", path="/pools", occurrence=2)
    with proxies.passage(upstream.settings, lambda made: mode if made == call else None) as passage:
        connection = connect(passage)
        assert ask(connection, "POST", "/pools", "1")[0] == 200
        if status:
            assert ask(connection, "POST", "/pools", "2")[0] == status
        else:
            with pytest.raises(ConnectionError):
                ask(connection, "POST", "/pools", "2")
            connection.close()
        assert ask(connection, "POST", "/pools", "3")[0] == 200
        connection.close()
    assert upstream.asked == ["POST /pools 1", *["POST /pools 2"] * acted, "POST /pools 3"]
    assert passage.faulted == [(call, mode)]


@pytest.mark.parametrize(
    ("mode", "acted", "answer"),
    [
        (Mode.EMPTY_200, 1, (200, b"")),
        (Mode.NOTHING_204, 1, (204, b"")),
        (Mode.HTML_200, 0, (200, b"<html><body>Sign in to go on.</body></html>")),
        (Mode.HTML_407, 0, (407, b"<html><body>Sign in to go on.</body></html>")),
    ],
)
def test_a_false_answer_comes_in_the_place_of_the_services(
    proxies: FaultProxies, upstream: Upstream, mode: Mode, acted: int, answer: tuple[int, bytes]
) -> None:
    with proxies.passage(upstream.settings, lambda made: mode) as passage:
        connection = connect(passage)
        assert ask(connection, "PUT", "/pools") == answer
        connection.close()
    assert upstream.asked == ["PUT /pools"] * acted


@pytest.mark.parametrize(("path", "whole"), [("/path", b"/path"), ("/chunked", b"abcde")])
def test_one_byte_of_an_answer_is_changed(proxies: FaultProxies, upstream: Upstream, path: str, whole: bytes) -> None:
    with proxies.passage(upstream.settings, lambda made: Mode.FLIPPED) as passage:
        connection = connect(passage)
        status, body = ask(connection, "GET", path)
        connection.close()
    assert (status, len(body)) == (200, len(whole))
    assert sum(one != other for one, other in zip(body, whole, strict=True)) == 1
    assert len(passage.with_body) == 1


def test_answers_are_rewritten_on_request(proxies: FaultProxies, upstream: Upstream) -> None:
    with proxies.passage(upstream.settings, rewrite=(b"status", b"STATUS")) as passage:
        connection = connect(passage)
        assert ask(connection, "GET", "/status") == (200, b"/STATUS")
        connection.close()
