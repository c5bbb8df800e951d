"""A server that takes blobs as the storage service does, and answers what a test wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SAS = "sv=2021-08-06&sr=c&sp=cw&sig=c2VjcmV0%2Bsignature%3D"


class BlobServer(ThreadingHTTPServer):
    """Answers each PUT with the next of `answers` (status, headers, body), or 201, and keeps what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), BlobHandler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.endpoint = f"http://127.0.0.1:{self.server_port}/account"


class BlobHandler(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        server = self.server
        assert isinstance(server, BlobServer)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        status, headers, answer = server.answers.pop(0) if server.answers else (201, {}, b"")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[BlobServer]:
    with BlobServer() as blob_server:
        thread = threading.Thread(target=blob_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield blob_server
        blob_server.shutdown()
        thread.join()
