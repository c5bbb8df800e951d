"""The benchmarks judge by the right figure, and their proxy counts each HTTP request once."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from benchmarks.flow import Turns
from benchmarks.pass_through import RequestCounter, passing_through
from benchmarks.turn import Done, Measured

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


@pytest.mark.parametrize(
    ("files", "flow", "tutorial", "reached"),
    [
        (3, [5.0, 9.0, 3.0], [2.0, 2.0, 2.0], True),  # at most 3 s slower
        (3, [5.1, 9.0, 3.0], [2.0, 2.0, 2.0], False),
        (300, [10.0, 5.0], [30.0, 15.0], True),  # at least 3 times as fast
        (300, [30.0, 15.0], [10.0, 5.0], False),
        (40, [9.0], [1.0], True),  # without a target
    ],
)
def test_few_files_are_judged_by_seconds_and_many_by_the_ratio(
    files: int, flow: list[float], tutorial: list[float], reached: bool
) -> None:
    done = Done(lists=files, words=0)
    runs = [Measured(seconds=seconds, peak_kb=0, done=done) for seconds in flow]
    assert Turns(files=files, flow=runs, tutorial=tutorial).reached() == reached


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
