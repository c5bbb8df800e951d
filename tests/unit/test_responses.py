"""Which responses are Azure's, and that all others are lost ones, whatever they look like."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.transport import HttpTransport
from pydantic import SecretStr

from tasks.accounts.clients import Azure
from tasks.accounts.environment import BatchAccount, StorageAccount
from tasks.check import check_accounts
from tasks.errors.codes import Service
from tasks.errors.log import log_errors_without_traceback
from tasks.errors.responses import Response, UnusableResponse, problem
from tasks.errors.service import ServiceError
from tasks.resources.ownership import Ending, dispose
from tasks.resources.resource import Found, Kind, Resource
from tasks.run.identity import Run
from tasks.run.results import Results
from tasks.run.settings import Disposal, PoolSettings
from tasks.run.tags import Tags
from tasks.step import RETRIES

BATCH = "https://a.westeurope.batch.azure.com"
STORAGE = "https://a.blob.core.windows.net"
JSON = {"request-id": "1", "content-type": "application/json;odata=minimalmetadata"}
XML = {"x-ms-request-id": "1", "content-type": "application/xml"}
HTML = b"<html>Sign in, sig=secret</html>"
COUNTS = {"active": 0, "running": 1, "completed": 2, "succeeded": 2, "failed": 0}
TASK = {"id": "t", "state": "completed", "executionInfo": {"result": "success"}}
RUN = Run(workload="top-words", flow_run_id="run", started=datetime.now(timezone.utc), lifetime=timedelta(hours=1))
BLOBS = b"<EnumerationResults><Blobs><Blob><Name>a</Name></Blob></Blobs></EnumerationResults>"


def batch(
    path: str,
    body: object = b"",
    status: int = 200,
    method: str = "GET",
    headers: Mapping[str, str] = JSON,
    query: str = "",
) -> str:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{BATCH}{path}?api-version=1{query}"
    return problem(Response(method=method, url=url, status=status, headers=headers, body=content))


def storage(
    path: str, body: bytes | None = b"", status: int = 200, method: str = "GET", headers: Mapping[str, str] = XML
) -> str:
    return problem(Response(method=method, url=STORAGE + path, status=status, headers=headers, body=body))


@pytest.mark.parametrize(
    "found",
    [
        batch("/jobs/j", {"id": "J", "creationTime": "2026-01-01T00:00:00.1234567Z"}),
        batch("/jobs/tasks/tasks", {"value": [TASK, {"id": "u", "state": "running"}]}),
        batch("/jobs/j/tasks", {"value": [{"id": "t"}]}, query="&$select=id"),
        batch("/pools/nodes/nodes", {"value": []}),
        batch("/jobs/j/taskcounts", {"taskCounts": COUNTS}),
        batch("/jobs/j/addtaskcollection", {"value": [{"taskId": "t", "status": "ClientError"}]}, method="POST"),
        batch("/pools", status=201, method="POST"),
        batch("/pools/p", status=202, method="DELETE"),
        batch("/pools/p", {"code": "PoolNotFound"}, status=404),
        batch("/jobs/j/tasks/t/files/stdout.txt", status=404, method="HEAD"),
        batch("/pools/p", HTML, status=503, headers={}),
        storage("/c?restype=container&comp=list", BLOBS),
        storage("/c?restype=container"),
        storage("/c/b", None, status=206),
        storage("/c/b", status=201, method="PUT"),
        storage("/c", b"<Error><Code>ContainerNotFound</Code></Error>", status=404),
        storage("/c/b", status=404, method="HEAD", headers={**XML, "x-ms-error-code": "BlobNotFound"}),
    ],
)
def test_what_azure_answers_passes(found: str) -> None:
    assert found == ""


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("status", [200, 201, 202, 204, 302, 401, 403, 404, 407, 409])
@pytest.mark.parametrize("ask", [batch, storage])
def test_nothing_without_azures_request_id_is_an_answer(ask: Callable[..., str], status: int, method: str) -> None:
    found = ask("/x", HTML, status=status, method=method, headers={"content-type": "text/html; charset=utf-8"})
    service, host = (Service.BATCH, BATCH) if ask is batch else (Service.STORAGE, STORAGE)
    assert found == (
        f"no answer from {service.value}: {host[8:]} answered {method} with {status} text/html, "
        "without the request id that all of Azure's have"
    )


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (batch("/jobs/j", HTML), "whose body cannot be read"),
        (batch("/jobs/j", b""), "whose body cannot be read"),
        (batch("/jobs/j", b'{"id": "j"'), "whose body cannot be read"),
        (batch("/jobs/j", [1]), "whose body cannot be read"),
        (batch("/jobs/j", {"id": "j"}, headers={**JSON, "content-type": "text/html"}), "whose body cannot be read"),
        (batch("/jobs/j", {"id": "j", "creationTime": "2026-01-0qT00:00:00Z"}), "whose body cannot be read"),
        (batch("/jobs/j", {"id": "k"}), "with another id than was asked for"),
        (batch("/jobs", {"vblue": []}), "whose body cannot be read"),
        (batch("/jobs", {"value": [{"state": "active"}]}), "whose body cannot be read"),
        (batch("/jobs/j/taskcounts", {"taskCounts": {**COUNTS, "completed": None}}), "without the counts"),
        (batch("/jobs/j/taskcounts", {}), "whose body cannot be read"),
        (batch("/jobs/j/tasks", {"value": [{**TASK, "state": "comqleted"}]}), "in a state that there is not"),
        (batch("/jobs/j/tasks", {"value": [{**TASK, "executionInfo": {}}]}), "whose body cannot be read"),
        (batch("/jobs/j/tasks", {"value": [{**TASK, "executionInfo": {"result": "succezs"}}]}), "without result"),
        (
            batch("/jobs/j/addtaskcollection", {"value": [{"taskId": "t", "status": "?"}]}, method="POST"),
            "each Batch task",
        ),
        (batch("/pools/p", HTML, status=404), "without an error code"),
        (storage("/?comp=list", HTML), "which is no list"),
        (storage("/?comp=list", b""), "whose body cannot be read"),
        (storage("/?comp=list", BLOBS[:-3]), "whose body cannot be read"),
        (storage("/?comp=list", BLOBS.replace(b"Name", b"Nbme")), "which is no list"),
        (storage("/c", HTML, status=409, method="PUT"), "without an error code"),
    ],
)
def test_half_of_an_answer_is_none(found: str, missing: str) -> None:
    assert found.startswith("incomplete answer from ")
    assert found.endswith(missing)


def test_a_changed_byte_of_a_task_list_is_noticed_or_harmless() -> None:
    body = json.dumps({"value": [TASK]}).encode()
    for position in range(len(body)):
        changed = body[:position] + bytes([body[position] ^ 0b11]) + body[position + 1 :]
        if batch("/jobs/j/tasks", changed) == "":
            (task,) = json.loads(changed)["value"]
            assert (task["state"], task["executionInfo"]["result"]) == ("completed", "success"), changed


class Gateway(HTTPServer):
    """Answers each request as it is told, and counts them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = 0
        self.status, self.headers, self.body = 200, {"Content-Type": "text/html"}, HTML

    @property
    def azure(self) -> Azure:
        at, key = f"http://127.0.0.1:{self.server_port}", SecretStr("YWJj")
        return Azure(
            batch_account=BatchAccount(name="b", endpoint=at, key=key),
            storage_account=StorageAccount(name="s", endpoint=f"{at}/s", key=key),
        )


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked += 1
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, duration: None)
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


ASKING: dict[str, Callable[[Azure], Any]] = {
    "get a pool": lambda azure: azure.batch().get_pool("p"),
    "list tasks": lambda azure: list(azure.batch().list_tasks("j")),
    "delete a job": lambda azure: azure.batch().begin_delete_job("j"),
    "ask for a file": lambda azure: azure.batch().get_task_file_properties("j", "t", "stdout.txt"),
    "create a container": lambda azure: azure.blobs().create_container("container"),
    "list blobs": lambda azure: list(azure.blobs().get_container_client("container").list_blobs()),
    "download": lambda azure: azure.blobs().get_blob_client("container", "b").download_blob().readall(),
    "upload": lambda azure: azure.blobs().get_blob_client("container", "b").upload_blob(b"x", overwrite=True),
}


@pytest.mark.parametrize("status", [200, 404, 409])
@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING.keys())
def test_the_sdks_ask_again_where_a_gateway_answered(
    gateway: Gateway, ask: Callable[[Azure], Any], status: int
) -> None:
    gateway.status = status
    with pytest.raises(UnusableResponse) as raised:
        ask(gateway.azure)
    failure = ServiceError.of(raised.value)
    assert (failure.code, failure.transient) == ("NoAnswer", True)
    assert f"127.0.0.1:{gateway.server_port} answered " in str(failure)
    assert f"with {status} text/html" in str(failure)
    assert "secret" not in str(failure)
    assert gateway.asked == 4


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING.keys())
def test_a_success_that_is_not_the_one_due_is_tried_again(gateway: Gateway, ask: Callable[[Azure], Any]) -> None:
    gateway.status, gateway.headers, gateway.body = 204, {"request-id": "1", "x-ms-request-id": "1"}, b""
    with pytest.raises(AzureError) as raised:
        ask(gateway.azure)
    assert ServiceError.of(raised.value).transient
    assert " answered" in str(ServiceError.of(raised.value))


@pytest.mark.parametrize("status", [200, 407])
def test_before_step_1_a_gateway_is_asked_again_and_its_setting_named(
    gateway: Gateway, status: int, tmp_path: Path
) -> None:
    gateway.status = status
    with pytest.raises(ServiceError) as raised:
        check_accounts.fn(gateway.azure, PoolSettings(), Results(folder=tmp_path))
    assert raised.value.transient
    assert str(raised.value).endswith("; check AZURE_BATCH_ENDPOINT and the network")
    assert (gateway.asked, check_accounts.retries) == (4, RETRIES)


@pytest.mark.parametrize(("code", "gone"), [("PoolNotFound", True), ("AccountNotFound", False)])
def test_only_a_code_of_the_thing_itself_says_that_it_is_gone(gateway: Gateway, code: str, gone: bool) -> None:
    gateway.status, gateway.headers = 404, JSON
    gateway.body = json.dumps({"code": code, "message": {"value": "Not here."}}).encode()
    with pytest.raises(HttpResponseError) as raised:
        gateway.azure.batch().get_pool("p")
    assert isinstance(raised.value, ResourceNotFoundError) is gone
    failure = ServiceError.of(raised.value)
    assert (failure.code, failure.transient) == (code, False)
    assert str(failure).startswith(f"Azure Batch answered 404 {code}: ")


def test_the_sdk_logs_no_traceback_of_a_file_that_is_not_there(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    log_errors_without_traceback()
    gateway.status, gateway.headers = 404, JSON
    with pytest.raises(ResourceNotFoundError):
        ASKING["ask for a file"](gateway.azure)
    assert caplog.records == []


@pytest.mark.parametrize(("ask", "service"), [("get a pool", Service.BATCH), ("list blobs", Service.STORAGE)])
def test_the_address_says_which_service_a_gateway_failed_for(gateway: Gateway, ask: str, service: Service) -> None:
    gateway.status = 502
    with pytest.raises(AzureError) as raised:
        ASKING[ask](gateway.azure)
    here = f"127.0.0.1:{gateway.server_port}"
    assert str(ServiceError.of(raised.value)) == (
        f"no answer from {service.value}: {here} answered GET with 502 text/html"
    )


class Tagged(Resource):
    """A pool whose first answer was damaged."""

    kind, exists, being_deleted = Kind.POOL, "PoolExists", "PoolBeingDeleted"

    def __init__(self, answers: list[Found]) -> None:
        super().__init__("pool")
        self._answers = answers
        self.deleted = False

    def read(self) -> Found:
        return self._answers.pop(0)

    def delete(self) -> None:
        self.deleted = True

    def mark(self, tags: Tags) -> None: ...


def found(flow_run: str, state: str = "active") -> Found:
    return Found(kind=Kind.POOL, id="pool", tags=replace(RUN.tags, flow_run=flow_run), state=state)


@pytest.mark.parametrize(
    ("second", "ending"), [(RUN.flow_run_id, Ending.DELETED), ("of another run", Ending.NOT_FOUND)]
)
def test_tags_that_are_not_the_runs_are_read_twice(second: str, ending: Ending) -> None:
    pool = Tagged([found("damaged"), found(second), found(RUN.flow_run_id, "deleting")])
    assert dispose(RUN, pool, Disposal.DELETE) is ending
    assert pool.deleted is (ending is Ending.DELETED)
