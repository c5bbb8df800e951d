"""Whatever a client sends, the local Batch service answers with an error that names it: never with 500, never not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import inspect
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_azure.batch.engine.reconciler import Reconciler
from local_azure.batch.engine.service import Service
from local_azure.batch.http.app import App
from local_azure.batch.http.routes import OPERATIONS, Operation, Router
from local_azure.batch.operations import file_access
from local_azure.batch.operations.admin import _OPERATIONS as FAULTS
from local_azure.batch.rest import shapes, versions
from local_azure.batch.state.account import Account
from local_azure.batch.state.clock import Clock, Timings
from local_azure.batch.state.paths import remove_tree
from local_azure.batch.state.store import Row, Store
from local_azure.batch.state.wire import LAST, http_date

VERSION = versions.OF_SHAPES
KEY = base64.b64encode(b"key").decode()
NODE = "tvmps_node_d"
IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
MACHINE = {"imageReference": IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
POOL = {"id": "new", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE}
JOB = {"id": "new", "poolInfo": {"poolId": "pool"}, "usesTaskDependencies": True}
TASK = {"id": "new", "commandLine": "/bin/true"}
SCHEDULE = {"id": "new", "schedule": {}, "jobSpecification": {"poolInfo": {"poolId": "pool"}}}
ALLOWED: dict[str, dict[str, Any]] = {
    "BatchPoolCreateOptions": POOL,
    "BatchPoolReplaceOptions": {"applicationPackageReferences": [], "metadata": []},
    "BatchPoolResizeOptions": {"targetDedicatedNodes": 1},
    "BatchPoolEnableAutoScaleOptions": {"autoScaleFormula": "$TargetDedicatedNodes = 1"},
    "BatchNodeRemoveOptions": {"nodeList": [NODE]},
    "BatchNodeUserCreateOptions": {"name": "u"},
    "BatchJobCreateOptions": JOB,
    "BatchJob": {"poolInfo": {"poolId": "pool"}},
    "BatchJobDisableOptions": {"disableTasks": "requeue"},
    "BatchTaskCreateOptions": TASK,
    "BatchJobScheduleCreateOptions": SCHEDULE,
    "BatchJobSchedule": {"jobSpecification": SCHEDULE["jobSpecification"]},
}


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    target: str  # path and query as they are sent, without the version of the API
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    version: str = VERSION


class Undone(Exception):
    """What a request has changed is rolled back, for the next one."""


class Client:
    """Signs requests and hands them to the application, without a socket between."""

    def __init__(self, app: App) -> None:
        self._app = app

    def send(self, request: Request) -> tuple[int, bytes]:
        separator = "&" if "?" in request.target else "?"
        path, _, query = f"{request.target}{separator}api-version={request.version}".partition("?")
        headers = {"host": "127.0.0.1:1", "ocp-date": http_date(datetime.now(timezone.utc)), **request.headers}
        if request.content:
            headers["content-length"] = str(len(request.content))
        headers["authorization"] = f"SharedKey me:{self._signature(request.method, path, query, headers)}"
        scope = {
            "type": "http",
            "method": request.method,
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": request.content}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(asyncio.wait_for(self._app(scope, receive, send), 5))
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)

    def _signature(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
        names = "content-encoding content-language content-length content-md5 content-type date if-modified-since"
        values = [headers.get(name, "") for name in f"{names} if-match if-none-match if-unmodified-since range".split()]
        values[5] = ""
        ocp = [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("ocp-") and headers[name]]
        parameters = [f"{name}:{value[0]}" for name, value in sorted(parse_qs(query).items())]
        text = "\n".join([method, *values, *ocp, f"/me{path}", *parameters])
        digest = hmac.new(base64.b64decode(KEY), text.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """An account with one of everything, whose node has files as odd as a task can make them."""
    data = Path(tempfile.mkdtemp())  # not below pytest's, which it removes by recursion
    clock = Clock()
    store = Store(data / "batch.db")
    service = Service(
        account=Account(name="me", key=KEY),
        store=store,
        clock=clock,
        usual_timings=Timings(),
        data=data,
        reconciler=Reconciler(clock),
        endpoint="http://127.0.0.1:1",
    )
    make_odd_files(data / "nodes" / "pool" / NODE)
    yield service
    store.close()
    remove_tree(data)
    assert not data.exists()


@pytest.fixture(scope="module")
def client(service: Service) -> Client:
    client = Client(App(service, Router(), administered=True))
    for target, body in (
        ("/pools", {**POOL, "id": "pool"}),
        ("/jobs", {**JOB, "id": "job"}),
        ("/jobs/job/tasks", {**TASK, "id": "task"}),
        ("/jobschedules", {**SCHEDULE, "id": "schedule"}),
    ):
        assert client.send(Request(method="POST", target=target, content=json.dumps(body).encode()))[0] == 201
    pool = service.pool("pool")
    pool.document["allocationState"] = "steady"
    service.store.pools.save(pool)
    node = {"id": NODE, "state": "idle", "isDedicated": True, "schedulingState": "enabled", "affinityId": f"TVM:{NODE}"}
    service.store.nodes.add(Row(keys=("pool", NODE), document=node))
    task = service.task("job", "task")
    task.document["nodeInfo"] = {"poolId": "pool", "nodeId": NODE, "taskRootDirectory": "workitems/job/job-1/task"}
    service.store.tasks.save(task)
    return client


def make_odd_files(root: Path) -> None:
    directory = root / "workitems" / "job" / "job-1" / "task"
    directory.mkdir(parents=True)
    (directory / "stdout.txt").write_text("out")
    for number, name in enumerate((b"\xff.txt", b"\xfe.txt", b"line\nbreak", b"a" * 255, "ö\ud7ff".encode())):
        file = Path(os.fsdecode(os.path.join(os.fsencode(directory), name)))
        file.touch()
        os.utime(file, (0, (-(10**11), 10**12, 10**15, 0, 1)[number]))
    os.mkfifo(directory / "fifo")
    (directory / "loop").symlink_to("loop")
    (directory / "out").symlink_to("/etc")
    deep = os.open(root, os.O_RDONLY)
    for _ in range(1500):  # as mkdir -p in a loop of cd makes them: deeper than Python calls, nearly PATH_MAX
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)


ODD_TEXTS = [
    *("", " ", "\0", "a\0b", "\n", "\x7f", "\u200b", "ö", "\U0001f600", "\ufffd", "..", "../..", "/", "//", "%", "%zz"),
    *("'", "a" * 65, "a" * 256, "a" * 5000, "9" * 64, "9" * 5000, "-1", "NaN", "1e400", "null", "true"),
    *("2026-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59-14:00"),
    *("P10675199DT2H48M5.4775807S", "P10675198D", "P999999999D", f"P{'9' * 400}D", "-PT1H", "PT0S", "PT1M", "P7D"),
    *("http://[", "http://127.0.0.1:99999/x", "file:///etc/passwd", "$x=", "((((", "-" * 3000, "1+" * 2000 + "1"),
    *("**/" * 40 + "x", "[", "job", "task", "pool", NODE, "schedule", "requeue", "terminate", "taskcompletion", "*"),
]
texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=20)
integers = st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**63, 2**64, 10**400]) | st.integers(-5, 300)
plain = st.none() | st.booleans() | integers | st.sampled_from([0.5, 1e308, -0.0]) | texts
nested = st.lists(plain, max_size=3) | st.dictionaries(texts, plain, max_size=3)
anything = plain | nested | st.lists(nested, max_size=2) | st.dictionaries(texts, nested, max_size=2)
# What JSON's grammar, or Python's idea of it, lets pass.
raw_json = st.sampled_from(
    [
        *(b'"\\ud800"', b'{"id":"\\udfff"}', b'{"\\ud800":1}', b"NaN", b'{"id":Infinity}', b'{"id":1e999}', b"[" * 900),
        *(b"[" * 400 + b"]" * 400, b'{"id":' * 90 + b"1" + b"}" * 90, b"\xff", b'{"id":"\xff"}'),
        *(b'{"id":"\xed\xa0\x80"}', b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"", b" ", b"{", b"[]"),
        *(b"0" * 5000, b"9" * 5000, b'{"a":1,"a":2}'),
    ]
)
durations = st.sampled_from(["PT0S", "PT1M", "PT5M", "PT15M", "P7D", "P10675198D", "P999999999D", "-PT1H"]) | texts
times = st.sampled_from(["2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "0001-01-01T00:00:00Z", *ODD_TEXTS[31:35]])
OF_TYPE = {"str": texts, "int": integers, "bool": st.booleans(), "timedelta": durations, "datetime": times}


def of_field(field: shapes.Field, version: str, depth: int = 0) -> st.SearchStrategy[Any]:
    value = st.deferred(lambda: of_type(field.type, version, depth))
    values = st.lists(value, max_size=2) if field.is_list else value
    return st.one_of(values, values, values, values, anything)


def of_type(name: str, version: str, depth: int) -> st.SearchStrategy[Any]:
    if name in OF_TYPE:
        return OF_TYPE[name]
    if (values := shapes.enum_values(name, version)) is not None:
        return st.sampled_from([*values.values(), "other"])
    return (
        anything | st.sampled_from(["{}", "[", "{" * 5000]) if name == "dict" else bodies_of(name, version, depth + 1)
    )


def bodies_of(model: str, version: str, depth: int) -> st.SearchStrategy[Any]:
    """Bodies that the model nearly allows: what is required and some of the rest, here and there of another type."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, each in shapes.fields(model, version).items():
        if depth > 3 and not each.required:
            continue
        (required if each.required else optional)[name] = of_field(each, version, depth)
    return st.fixed_dictionaries(required, optional=optional)


def changed(base: dict[str, Any], model: str, version: str) -> st.SearchStrategy[Any]:
    """A body that is allowed, with one or two properties that may not be."""
    fields = shapes.fields(model, version)
    names = st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=2, unique=True)
    odd = names.flatmap(lambda names: st.fixed_dictionaries({name: of_field(fields[name], version) for name in names}))
    return odd.map(lambda odd: {**base, **odd})


def models_of(operation: Operation) -> list[str]:
    return re.findall(r'(?:body|checked)\((?:item, )?"(\w+)"', inspect.getsource(operation.serve or of_type))


def contents(operation: Operation, version: str) -> st.SearchStrategy[bytes]:
    objects = [changed(ALLOWED.get(model, {}), model, version) for model in models_of(operation)]
    if operation.name == "create_task_collection":
        objects = [
            st.fixed_dictionaries({"value": st.lists(changed(TASK, "BatchTaskCreateOptions", version), max_size=2)})
        ]
    dumped = [each.map(lambda body: json.dumps(body).encode()) for each in (*objects * 6, anything)]
    return st.one_of(*dumped, raw_json)


IDS = {"poolId": "pool", "nodeId": NODE, "jobId": "job", "taskId": "task", "jobScheduleId": "schedule", "userName": "u"}
raw_segments = st.sampled_from(
    ["%", "%zz", "%ff", "%00", "%2e%2e", "..", "\xff", "a" * 300, "%ED%A0%80", "%2F", "'", ""]
)
FILES = ["stdout.txt", "%5Cxff.txt", "fifo", "loop", "out/passwd", "a" * 255, "a" * 256, "a/" * 2500, "d/" * 1000]
DATES = ["x", "Mon, 01 Jan 0001 00:00:00 +1400", "Fri, 31 Dec 9999 23:59:59 -1400", "9" * 11, "Mon, 01 Jan 1 0:0:0"]
ETAGS = ["*", '"0x1"', "W/", ",", "\xff"]
RANGES = ["bytes=0-", f"bytes=0-{'9' * 5000}", "bytes=-", "bytes=--1", "bytes=\xb2-", "x", "bytes=-0"]
headers = st.fixed_dictionaries(
    {},
    optional={
        "ocp-range": st.sampled_from(RANGES),
        "if-modified-since": st.sampled_from(DATES),
        "if-unmodified-since": st.sampled_from(DATES),
        "if-match": st.sampled_from(ETAGS),
        "if-none-match": st.sampled_from(ETAGS),
        "client-request-id": st.sampled_from(["\xff", "a" * 5000, "id"]),
        "return-client-request-id": st.just("true"),
    },
)
FILTERS = [
    *("id eq 'a'", "id eq", "startswith(id,'" + "a" * 999, "creationTime gt DateTime'0001-01-01T00:00:00+14:00'"),
    *(
        "not " * 300 + "id eq 'a'",
        "(" * 300,
        "priority eq " + "9" * 5000,
        "id eq 'a' or " * 300 + "id eq 'b'",
    ),
]


@st.composite
def targets(draw: st.DrawFn, operation: Operation) -> str:
    path = ""
    for segment in operation.path:
        name = segment[1:-1]
        if segment[0] != "{":
            path += f"/{segment}"
        elif name == "filePath":
            path += f"/{draw(st.sampled_from(FILES) | raw_segments)}"
        else:
            path += f"/{draw(st.sampled_from([IDS.get(name, 'x')] * 3) | raw_segments)}"
    known = {"$filter": FILTERS, "$select": ["id", ",", "x/y", "id,\0"], "$skiptoken": ["\0", "a" * 5000, "%ff"]}
    query = []
    for name in draw(st.lists(st.sampled_from([*sorted(operation.query), "timeout", "x"]), max_size=2)):
        value = draw(st.sampled_from(known.get(name, ["0", "-1", "1", "9" * 5000, "true", "%zz", "%ff", "%00"])))
        query.append(f"{name}={''.join(f'%{byte:02x}' for byte in value.encode()) if name[0] == '$' else value}")
    return path + ("?" + "&".join(query) if query else "")


@st.composite
def requests(draw: st.DrawFn) -> Request:
    operation = draw(st.sampled_from([operation for operation in OPERATIONS if operation.serve]))
    version = draw(st.sampled_from([VERSION, *versions.SERVED]))
    content = draw(contents(operation, version)) if operation.method in ("POST", "PUT", "PATCH") else b""
    target = draw(targets(operation))
    return Request(method=operation.method, target=target, headers=draw(headers), content=content, version=version)


@st.composite
def fault_requests(draw: st.DrawFn) -> Request:
    name = draw(st.sampled_from([*FAULTS, "", "none"]))
    keys = ["operation", "times", "skip", "status", "retry_after", "drop", "delay", "code", "poolId", "nodeId", "fail"]
    names = st.sampled_from([*keys, "nodes", "stale", "advance", "removal"])
    body = draw(st.dictionaries(names, plain | durations, max_size=3).map(lambda value: json.dumps(value).encode()))
    return Request(method="POST", target=f"/$local/{name}", content=body)


def refusal(client: Client, method: str, target: str, content: Any = b"", **headers: str) -> tuple[int, str]:
    sent = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, body = client.send(Request(method=method, target=target, content=sent, headers=named))
    return status, json.loads(body)["code"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"id": "\\ud800", "poolInfo": {"poolId": "pool"}}',
        b'{"id": "x", "poolInfo": {"poolId": "pool"}, "displayName": "\xed\xa0\x80"}',
        b'{"id": "x", "poolInfo": {"poolId": "pool"}, "displayName": "\xff"}',
        b'{"id": "x", "poolInfo": {"poolId": "pool"}, "priority": NaN}',
        b'{"id": ' + b"[" * 65 + b"]" * 65 + b"}",
    ],
    ids=["escaped surrogate", "raw surrogate", "no UTF-8", "NaN", "nested deeply"],
)
def test_body_that_is_not_json_is_refused(client: Client, content: bytes) -> None:
    assert refusal(client, "POST", "/jobs", content) == (400, "InvalidRequestBody")


@pytest.mark.parametrize("name", ["a" * 256, f"wd/{'ö' * 128}", "a/" * 2500, "%00", "..", "loop", "fifo"])
def test_file_name_that_cannot_be_is_not_found(client: Client, name: str) -> None:
    target = f"/jobs/job/tasks/task/files/{''.join(f'%{byte:02x}' for byte in name.encode())}"
    assert refusal(client, "GET", target) == (404, "FileNotFound")


def test_number_of_5000_digits_in_a_range_is_refused(client: Client) -> None:
    span = f"bytes=0-{'9' * 5000}"
    found = refusal(client, "GET", "/jobs/job/tasks/task/files/stdout.txt", ocp_range=span)
    assert found == (400, "InvalidHeaderValue")


def test_date_before_the_year_1_is_refused(client: Client) -> None:
    text = "creationTime%20gt%20DateTime'0001-01-01T00:00:00%2B14:00'"
    assert refusal(client, "GET", f"/jobs?$filter={text}") == (400, "InvalidQueryParameterValue")


def test_remote_login_to_a_node_of_an_earlier_service_is_shown(client: Client) -> None:
    status, body = client.send(Request(method="GET", target=f"/pools/pool/nodes/{NODE}/remoteloginsettings"))
    assert (status, json.loads(body)["remoteLoginPort"]) == (200, 50000)


def test_negative_duration_is_refused(client: Client) -> None:
    body = {**JOB, "constraints": {"maxWallClockTime": "-PT1H"}}
    assert refusal(client, "POST", "/jobs", body) == (400, "InvalidPropertyValue")


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("clock", {"advance": "P999999999D"}),
        ("timings", {"removal": 1e300}),
        ("timings", {"removal": -1}),
        ("requests", {"status": 99}),
        ("requests", {"times": True}),
        ("access", {"account": []}),
        ("reset", {"times": 1}),
    ],
)
def test_fault_that_makes_no_sense_is_refused(client: Client, operation: str, body: dict[str, Any]) -> None:
    assert refusal(client, "POST", f"/$local/{operation}", body) == (400, "InvalidPropertyValue")


def test_files_of_odd_names_and_times_are_listed_and_found(client: Client) -> None:
    status, body = client.send(Request(method="GET", target="/jobs/job/tasks/task/files"))
    assert status == 200
    names = [item["name"] for item in json.loads(body)["value"]]
    assert names == [r"\xfe.txt", r"\xff.txt", "a" * 255, "fifo", "line\nbreak", "stdout.txt", "ö\ud7ff"]
    assert (
        file_access.moment(1e15) == file_access.moment(1e300) == LAST
    )  # some file systems keep such times, this may not
    assert file_access.moment(-1e15).year == 1
    found, _ = client.send(Request(method="GET", target=r"/jobs/job/tasks/task/files/%5Cxff.txt"))
    assert found == 200


def test_names_that_are_not_utf8_are_each_on_one_page(client: Client) -> None:
    target, names = "/jobs/job/tasks/task/files?maxresults=1", []
    while target:
        page = json.loads(client.send(Request(method="GET", target=target))[1])
        names += [item["name"] for item in page["value"]]
        link = page.get("odata.nextLink", "").removeprefix("http://127.0.0.1:1")
        target = link.replace(f"api-version={VERSION}&", "")
    assert len(names) == len(set(names)) == 7


def test_deeply_nested_directories_are_listed_and_deleted(client: Client, service: Service) -> None:
    files = f"/pools/pool/nodes/{NODE}/files"
    status, body = client.send(Request(method="GET", target=f"{files}?recursive=true&maxresults=1000"))
    assert (status, json.loads(body)["value"][-1]["isDirectory"]) == (200, True)
    assert client.send(Request(method="DELETE", target=f"{files}/d?recursive=true"))[0] == 200
    assert not (service.data / "nodes" / "pool" / NODE / "d").exists()


@pytest.mark.parametrize("strategy", [requests(), fault_requests()], ids=["batch", "faults"])
def test_no_request_is_answered_with_500(
    strategy: st.SearchStrategy[Request], client: Client, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    @settings(
        max_examples=int(os.environ.get("ODD_REQUESTS", "150")),
        deadline=None,
        derandomize=not os.environ.get("ODD_REQUESTS"),
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(request=strategy)
    def check(request: Request) -> None:
        service.faults = type(service.faults)()
        caplog.clear()
        with caplog.at_level(logging.ERROR), suppress(Undone), service.store.transaction():
            status, body = client.send(request)
            raise Undone
        assert status not in (500,), [record.exc_text for record in caplog.records]
        if status >= 400 and request.method != "HEAD":
            assert json.loads(body)["code"]
            json.loads(body)["message"]["value"].encode()  # which half of a surrogate pair cannot be

    check()
