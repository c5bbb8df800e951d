"""The benchmarks' proxy counts each HTTP request once, however its bytes arrive."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from benchmarks.pass_through import RequestCounter, passing_through

REQUESTS = (
    b"PUT /account/container/a%20b?sig=x HTTP/1.1\r\nHost: here\r\nContent-Length: 11\r\n\r\nGET and PUT"
    b"GET /account/container/a%20b HTTP/1.1\r\nHost: here\r\n\r\n"
    b"DELETE /account/container?restype=container HTTP/1.1\r\nHost: here\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 40, len(REQUESTS)])
def test_requests_are_counted_once_however_they_are_cut(size: int) -> None:
    counter = RequestCounter()
    for start in range(0, len(REQUESTS), size):
        counter.feed(REQUESTS[start : start + size])
    assert counter.count == 3


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/account"
        server.shutdown()
        thread.join()


def test_requests_of_the_client_and_of_others_are_counted_apart() -> None:
    asking = "import sys, urllib.request as u; input(); u.build_opener(u.ProxyHandler({})).open(sys.argv[1]).close()"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with service() as endpoint, passing_through(endpoint) as requests:
        command = [sys.executable, "-I", "-c", asking, requests.endpoint]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
            requests.client = client.pid
            for _ in range(2):
                direct.open(requests.endpoint).close()
            client.communicate(b"\n")
        assert requests.counts() == (1, 2)
