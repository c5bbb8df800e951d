"""The addresses of pages in the Prefect UI: those of the UI that the server shows by default."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from tasks.reporting.pages import Page, address, ui_url


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """What answers like that to whatever is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def settings(default: str) -> bytes:
    return json.dumps({"default_ui": default, "v1_base_url": "/", "v2_base_url": "/v2"}).encode()


NO_UI = b'{"default_ui": "v2", "v1_base_url": null, "v2_base_url": null}'  # as of a server without pages


@pytest.mark.parametrize(
    ("answer", "path"),
    [(settings("v2"), "/v2"), (settings("v1"), ""), (NO_UI, ""), (b"<html>", ""), (b"[]", ""), (b"{}", "")],
)
def test_the_address_is_in_the_ui_that_the_server_shows_by_default(answer: bytes, path: str) -> None:
    with server(answer) as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        assert ui_url() == url + path
        assert address(Page.RUN, "c0de") == f"{url}{path}/runs/flow-run/c0de"


def test_an_address_that_says_which_ui_is_kept() -> None:
    shown = {PREFECT_UI_URL: "http://127.0.0.1:9/v2/"}
    with server(b"<html>") as url, temporary_settings({PREFECT_API_URL: f"{url}/api", **shown}):
        assert address(Page.ARTIFACT, "a") == "http://127.0.0.1:9/v2/artifacts/artifact/a"


def test_prefect_cloud_is_not_asked() -> None:
    with temporary_settings({PREFECT_API_URL: "https://api.prefect.cloud/api/accounts/a/workspaces/b"}):
        assert ui_url() == "https://app.prefect.cloud/account/a/workspace/b"


def test_of_a_temporary_server_it_is_said_how_to_see_its_pages() -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        assert ui_url() is None
        assert address(Page.RUN, "c0de") == "make ui, then http://127.0.0.1:4200/v2/runs/flow-run/c0de"
