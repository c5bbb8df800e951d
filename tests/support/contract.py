"""Whether an answer of the service is one that the SDK's own models describe: no unknown property, none missing."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from azure.batch import models
from azure.core.pipeline.transport import AioHttpTransport, RequestsTransport
from isodate import parse_duration  # type: ignore[import-untyped]

from local_azure.batch.http.routes import Router
from local_azure.batch.rest.generate_shapes import properties
from local_azure.batch.state.wire import parse_timestamp

# What each operation answers with; one that is not here must answer without a body.
ANSWERS = {
    "list_applications": "BatchApplication",
    "get_application": "BatchApplication",
    "list_supported_images": "BatchSupportedImage",
    "list_pool_usage_metrics": "BatchPoolUsageMetrics",
    "list_pool_node_counts": "BatchPoolNodeCounts",
    "list_pools": "BatchPool",
    "get_pool": "BatchPool",
    "evaluate_pool_auto_scale": "AutoScaleRun",
    "list_nodes": "BatchNode",
    "get_node": "BatchNode",
    "get_node_remote_login_settings": "BatchNodeRemoteLoginSettings",
    "list_node_files": "BatchNodeFile",
    "list_task_files": "BatchNodeFile",
    "list_jobs": "BatchJob",
    "get_job": "BatchJob",
    "get_job_task_counts": "BatchTaskCountsResult",
    "list_job_preparation_and_release_task_status": "BatchJobPreparationAndReleaseTaskStatus",
    "list_job_schedules": "BatchJobSchedule",
    "get_job_schedule": "BatchJobSchedule",
    "list_jobs_from_schedule": "BatchJob",
    "list_tasks": "BatchTask",
    "get_task": "BatchTask",
    "list_subtasks": "BatchSubtask",
    "create_task_collection": "BatchTaskCreateResult",
}
FILES = {"download_task_file", "download_node_file"}
# The models say that these are always there; the real service omits them until there is something to tell.
ABSENT_AT_FIRST = {("BatchNode", "lastBootTime"), ("BatchNode", "ipv6Address")}  # without IPv6 it has no address
NEVER_SHOWN = {
    ("UserAccount", "password"),
    ("CifsMountConfiguration", "password"),
    ("AzureFileShareConfiguration", "accountKey"),
}


class CheckedTransport(RequestsTransport):  # type: ignore[misc]
    """Sends requests as the SDK does, and fails on an answer that is not as the contract has it."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        response = super().send(request, **kwargs)
        check_answer(request.method, request.url, response.status_code, response.headers, lambda: response.body())
        return response


class CheckedAsyncTransport(AioHttpTransport):  # type: ignore[misc]
    """The same for the asynchronous client."""

    async def send(self, request: Any, **config: Any) -> Any:
        response = await super().send(request, **config)
        is_file = response.status_code < 400 and _operation(request.method, request.url) in FILES
        # The body of a file is left to whoever asked for it; all others are small.
        body = b"" if is_file else await _body(response)
        check_answer(request.method, request.url, response.status_code, response.headers, lambda: body)
        return response


async def _body(response: Any) -> bytes:
    return bytes(response.content if response.is_stream_consumed else await response.read())


def _operation(method: str, url: str) -> str:
    path = url.split("://", 1)[1].partition("/")[2].partition("?")[0]
    return Router().find(method, "/" + path)[0].name


def check_answer(method: str, url: str, status: int, headers: Mapping[str, str], read: Any) -> None:
    query = url.partition("?")[2]
    assert headers["DataServiceVersion"] == "3.0"
    assert headers["request-id"]
    if status >= 400:
        _check_error(json.loads(read()) if method != "HEAD" else None, headers)
        return
    operation = _operation(method, url)
    if operation in FILES or status == 304:
        return
    model = ANSWERS.get(operation)
    body = read()
    if model is None:
        assert body == b"", f"{operation} answers with a body: {body!r}"
        return
    assert headers["Content-Type"] == "application/json; odata=minimalmetadata"
    document = json.loads(body)
    assert document.pop("odata.metadata").startswith("http://127.0.0.1:")
    selected = "$select=" in query or "%24select=" in query
    if operation.startswith("list_") or operation == "create_task_collection":
        document.pop("odata.nextLink", None)
        for item in document.pop("value"):
            check(item, model, selected)
        assert not document, f"{operation} answers with {sorted(document)} beside its list"
    else:
        check(document, model, selected)


def _check_error(document: Any, headers: Mapping[str, str]) -> None:
    if document is None:
        return
    assert document.pop("odata.metadata").endswith(".errors/@Element")
    check(document, "BatchError", False)
    assert f"RequestId:{headers['request-id']}" in document["message"]["value"]


def check(value: Any, type_name: str, selected: bool = False, path: str = "") -> None:
    path = path or type_name
    model = getattr(models, type_name)
    if issubclass(model, Enum):
        assert value.lower() in {member.value.lower() for member in model}, f"{path}: {value!r}"
        return
    assert isinstance(value, dict), f"{path} is not an object"
    hints = _hints(model)
    unknown = value.keys() - hints.keys()
    assert not unknown, f"{path} has the unknown properties {sorted(unknown)}"
    for name, hint in hints.items():
        if name in value:
            _check_value(value[name], hint, f"{path}.{name}")
        elif not selected and not _is_optional(hint) and (type_name, name) not in ABSENT_AT_FIRST | NEVER_SHOWN:
            raise AssertionError(f"{path} lacks {name}")


def _hints(model: type) -> dict[str, Any]:
    return {name: declared.hint for name, declared in properties(model).items()}


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _check_value(value: Any, hint: Any, path: str) -> None:
    if typing.get_origin(hint) is typing.Union:
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        # Union[str, AnEnum] is an enumeration that later versions may extend; this service must not.
        hint = choices[-1]
    if typing.get_origin(hint) is list:
        assert isinstance(value, list), f"{path} is not a list"
        for item in value:
            _check_value(item, typing.get_args(hint)[0], path)
    elif typing.get_origin(hint) is dict:
        assert isinstance(value, dict), f"{path} is not an object"
    elif hint is datetime:
        assert parse_timestamp(value)
        # Azure writes seven digits of a second, but for this date.
        whole = path.endswith("batchSupportEndOfLife")
        assert len(value) == len("2026-03-06T18:29:52Z" if whole else "2026-03-06T18:29:52.3306671Z"), (
            f"{path}: {value}"
        )
    elif hint is timedelta:
        assert parse_duration(value) is not None
    elif hint is int and path.endswith("contentLength"):
        assert value.isdigit()  # 64-bit integers are strings on the wire
    elif hint in (str, int, bool, float):
        assert isinstance(value, hint), f"{path}: {value!r} is no {hint.__name__}"
    else:
        check(value, hint.__name__, path=path)
