"""Which HTTP responses are Azure's own: a gateway or proxy on the way answers, too, in a form of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport

from tasks.errors.codes import GONE, Service

_BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_LISTS = {"pools": "id", "jobs": "id", "tasks": "id", "nodes": "id", "supportedimages": "imageReference"}
_COUNTS = ("active", "running", "completed", "succeeded", "failed")
_TASK_STATES = {"active", "preparing", "running", "completed"}
_RESULTS = {"success", "failure"}
_ADDED = {"success", "clienterror", "servererror"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z|P[\dYMWDTHS.]+")  # a point in time, or how long


class UnusableResponse(ServiceResponseError):
    """A response that is not Azure's, or is incomplete: it is unknown whether the service has acted."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response with its request; without a body if that is still to be streamed."""

    method: str
    url: str
    status: int
    headers: Mapping[str, str]  # with names in any case
    body: bytes | None

    @property
    def service(self) -> Service:
        """The address decides, not what came back: only Batch has an api-version in it."""
        return Service.BATCH if "api-version" in parse_qs(urlsplit(self.url).query) else Service.STORAGE

    @property
    def names(self) -> dict[str, str]:
        """The names in the address, for commands that help; none where it is not one of Azure's."""
        account, kind_or_region, *rest = [*(urlsplit(self.url).hostname or "").split("."), ""]
        if self.service is Service.BATCH and rest[:1] == ["batch"]:
            return {"account": account, "region": kind_or_region}
        return {"account": account} if self.service is Service.STORAGE and kind_or_region == "blob" else {}

    @property
    def request_id(self) -> str | None:
        return self.headers.get(self.service.request_id)

    @property
    def origin(self) -> str:
        """Such as "account.region.batch.azure.com answered GET with 403 text/html"; never the path, query or body."""
        kind = "".join(filter(str.isprintable, self.headers.get("content-type", "").partition(";")[0].strip()))[:80]
        host = urlsplit(self.url).netloc.rpartition("@")[2]
        return f"{host} answered {self.method} with {self.status} {kind or 'without content type'}"


class CheckedTransport(RequestsTransport):  # type: ignore[misc]  # which azure-core loads when asked for
    """Sends the requests of an SDK, and lets no response through to it that is not Azure's own.

    Beneath the SDK's retries, which treat such a response as a lost one. `check_host` is called where there was none at
    all, and may raise what is to end the retries.
    """

    def __init__(self, *, check_host: Callable[[], None] = lambda: None, **options: Any) -> None:
        super().__init__(**options)
        self._check_host = check_host

    def send(self, request: Any, **options: Any) -> Any:
        try:
            answer: Any = super().send(request, **options)
        except (ServiceRequestError, ServiceResponseError):
            self._check_host()
            raise
        streamed = bool(options.get("stream")) and answer.status_code < 400
        response = Response(
            method=request.method,
            url=request.url,
            status=answer.status_code,
            headers=answer.headers,
            body=None if streamed else answer.read(),
        )
        if found := problem(response):
            raise UnusableResponse(found)
        if response.status == HTTPStatus.NOT_FOUND and (code := code_of(response)) and code not in GONE:
            # The SDKs make every 404 a ResourceNotFoundError. One of a HEAD has no body, so no code.
            error = HttpResponseError(f"{code}: the address is not found", response=answer)
            error.error_code = code  # type: ignore[attr-defined]  # as the SDK for storage does
            raise error
        return answer


def problem(response: Response) -> str:
    """Why this is not the service's own response to the request, or nothing."""
    service, status = response.service, response.status
    if status >= 500 or status in _BUSY:
        return ""  # to be sent again anyway, and after the time that it may name
    if not response.request_id:
        return f"no answer from {service.value}: {response.origin}, without the request id that all of Azure's have"
    missing = _missing(response)
    return f"incomplete answer from {service.value}: {response.origin}, {missing}" if missing else ""


def _missing(response: Response) -> str:
    if response.body is None or response.method == "HEAD":
        return ""
    if response.status >= 400:
        return "" if code_of(response) else "without an error code"
    try:
        if response.service is Service.STORAGE:
            return _missing_in_list(response)
        return _missing_in_batch(response)
    except (ValueError, ElementTree.ParseError, AttributeError, KeyError, TypeError):
        return "whose body cannot be read"


def _missing_in_list(response: Response) -> str:
    comp = parse_qs(urlsplit(response.url).query).get("comp", [""])[0]
    if response.method != "GET" or comp != "list":
        return ""
    root = ElementTree.fromstring(response.body or b"")
    items = [*root.iterfind("Containers/Container"), *root.iterfind("Blobs/Blob")]
    there = root.tag == "EnumerationResults" and (root.find("Containers") is not None or root.find("Blobs") is not None)
    return "" if there and all(item.findtext("Name") for item in items) else "which is no list"


def _missing_in_batch(response: Response) -> str:
    """Fields that are missing, or have a value that the service never sends; the SDK's models would accept both."""
    url = urlsplit(response.url)
    path = [unquote(part) for part in url.path.strip("/").split("/")]
    if response.method == "POST" and path[-1] == "addtaskcollection":
        results = _json(response)["value"]
        added = all(each["taskId"] and each["status"].lower() in _ADDED for each in results)
        return "" if added else "without a result of each Batch task"
    if response.method != "GET":
        return ""
    body = _json(response)
    if path[-1] == "taskcounts":
        counts = body["taskCounts"]
        return "" if all(type(counts[name]) is int for name in _COUNTS) else "without the counts"
    select = parse_qs(url.query).get("$select", [""])[0]
    return _missing_in_items(path, body, set(select.split(",")) if select else None)


def _missing_in_items(path: list[str], body: dict[str, Any], selected: set[str] | None) -> str:
    """Fields that are missing in a list (/pools, /jobs/<id>/tasks), or in one of its items (/pools/<id>)."""
    kind, is_list = (path[-1], True) if len(path) % 2 else (path[-2], False)
    if kind not in _LISTS:
        return ""
    items = body["value"] if is_list else [body]
    if not all(item[name] for item in items for name in (_LISTS[kind],) if selected is None or name in selected):
        return f"with one of the {kind} without {_LISTS[kind]}"
    if not is_list and body["id"].lower() != path[-1].lower():
        return "with another id than was asked for"
    if kind == "tasks" and (selected is None or selected >= {"state", "executionInfo"}):
        if not all(task["state"] in _TASK_STATES for task in items):
            return "with a Batch task in a state that there is not"
        if not all(task["executionInfo"]["result"] in _RESULTS for task in items if task["state"] == "completed"):
            return "with a completed Batch task without result"
    return ""


def code_of(response: Response) -> str:
    """The service's error code, in its header or in its body."""
    if header := response.headers.get("x-ms-error-code"):
        return header
    try:
        if response.service is Service.BATCH:
            return str(_json(response)["code"])
        return ElementTree.fromstring(response.body or b"").findtext("Code") or ""
    except (ValueError, ElementTree.ParseError, KeyError, TypeError):
        return ""


def _json(response: Response) -> dict[str, Any]:
    if not response.headers.get("content-type", "").startswith("application/json"):
        raise ValueError("no JSON")
    body = json.loads(response.body or b"", object_hook=_with_times)
    if not isinstance(body, dict):
        raise ValueError("no object")
    return body


def _with_times(value: dict[str, Any]) -> dict[str, Any]:
    for name, time in value.items():
        if name.endswith(("Time", "timestamp", "lastModified")) and not (time is None or _TIME.fullmatch(time)):
            raise ValueError(f"{name} is no time")
    return value
