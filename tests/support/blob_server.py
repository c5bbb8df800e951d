"""A server that takes blobs as the storage service does, and answers what a test wants."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SAS = "sv=2021-08-06&sr=c&sp=cw&sig=c2VjcmV0%2Bsignature%3D"

UNAUTHORIZED = 401, {"x-ms-error-code": "InvalidAuthenticationInfo"}, b""


class BlobServer(ThreadingHTTPServer):
    """Answers each request with the next of `answers` (status, headers, body), or as a container that takes all.

    requests: each PUT; gets: the path of each GET; blobs: what is stored, by path; connections: how many came.
    """

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), BlobHandler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.gets: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.connections = 0
        self.hangs_up = False  # after each answer, without saying so
        self.tokens: set[str] | None = None  # of which each request must have one; None: no request needs one
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}/account"


class BlobHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._blobs.connections += 1

    @property
    def _blobs(self) -> BlobServer:
        assert isinstance(self.server, BlobServer)
        return self.server

    def _is_refused(self) -> bool:
        tokens, given = self._blobs.tokens, self.headers.get("Authorization", "")
        return tokens is not None and given.removeprefix("Bearer ") not in tokens

    def do_PUT(self) -> None:
        server = self._blobs
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._is_refused():
            self._answer(*UNAUTHORIZED)
            return
        server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        name = self.path.partition("?")[0]
        exists = self.headers.get("If-None-Match") == "*" and name in server.blobs
        answer = (409, {"x-ms-error-code": "BlobAlreadyExists"}, b"") if exists else (201, {}, b"")
        answer = server.answers.pop(0) if server.answers else answer
        if answer[0] == 201:
            server.blobs[name] = body
        self._answer(*answer)

    def do_GET(self) -> None:
        server = self._blobs
        if self._is_refused():
            self._answer(*UNAUTHORIZED)
            return
        server.gets.append(self.path)
        body = server.blobs.get(self.path.partition("?")[0])
        missing = 404, {"x-ms-error-code": "BlobNotFound"}, b""
        self._answer(*(server.answers.pop(0) if server.answers else missing if body is None else (200, {}, body)))

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection |= self._blobs.hangs_up

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(tls: tuple[Path, Path] | None = None) -> Iterator[BlobServer]:
    """tls: the files of its certificate and of its key."""
    with BlobServer(tls) as blob_server:
        thread = threading.Thread(target=blob_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield blob_server
        blob_server.shutdown()
        thread.join()
