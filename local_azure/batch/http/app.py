"""The service as HTTP sees it: which operation a request asks for, whether it may, and how its answer is written."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from local_azure.batch.engine.service import Service
from local_azure.batch.http.routes import Operation, Router
from local_azure.batch.operations import admin
from local_azure.batch.rest import auth
from local_azure.batch.rest.call import Answer, Call
from local_azure.batch.state.errors import BatchError, Code, not_served
from local_azure.batch.state.faults import Injected, RequestFault
from local_azure.batch.state.wire import http_date, timestamp

logger = logging.getLogger(__name__)

MAXIMUM_BODY = 1 << 20  # bytes; beyond it the SDK sends its tasks in smaller collections
API_VERSION = "2025-06-01"  # the newest that is served; older ones are answered as this one is

_COMMON_QUERY = {"api-version", "timeout"}
_VERSION = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.\d+\.\d+)?(?:-preview)?\Z")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


ADMIN = Operation(name="local", method="POST", path=(), query=frozenset(), serve=admin.serve)


class Dropped(Exception):
    """The connection is to be closed without an answer."""


async def _happen(fault: RequestFault) -> None:
    await asyncio.sleep(fault.delay)
    if fault.drop:
        raise Dropped
    if fault.status:
        raise Injected(fault)


class App:
    """An ASGI application. One request: host → signature → operation → query → body → transaction → answer."""

    def __init__(self, service: Service, router: Router, *, administered: bool = False) -> None:
        self._service = service
        self._router = router
        self._administered = administered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        common = self._common_headers(headers)
        try:
            answer = await self._answer(scope, headers, receive)
        except Dropped:
            scope["state"]["abort"]()
            await receive()  # until the server has noticed, or it would answer for us
            return
        except BatchError as error:
            answer = self._error(error, common["request-id"])
        except Exception:
            logger.exception("%s failed", scope["method"])
            answer = self._error(BatchError(Code.InternalError), common["request-id"])
        await self._send(answer, common, scope["method"], send)

    async def _answer(self, scope: Scope, headers: dict[str, str], receive: Receive) -> Answer:
        raw_path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        self._check_host(headers.get("host", ""))
        request = auth.SignedRequest(method=scope["method"], raw_path=raw_path, query=query, headers=headers)
        auth.verify(request, self._service.account, self._service.clock.unmoved())
        if self._administered and raw_path.startswith(admin.PREFIX):
            operation, raw_ids = ADMIN, dict[str, str]()
        else:
            operation, raw_ids = self._router.find(scope["method"], raw_path)
        call = Call(
            method=scope["method"],
            path=raw_path,
            ids={name: unquote(value) for name, value in raw_ids.items()},
            query=_query(query, operation),
            headers=headers,
            content=await _body(headers, receive),
            endpoint=self._service.endpoint,
            linked=self._service.auto_storage is not None,
        )
        if operation.serve is None:
            raise not_served(f"The operation {operation.name}")
        fault = self._service.faults.for_request(operation.name) if operation is not ADMIN else None
        if fault and not fault.after_commit:
            await _happen(fault)
        with self._service.store.transaction():
            answer = operation.serve(self._service, call)
        if fault and fault.after_commit:
            await _happen(fault)
        return answer

    def _check_host(self, host: str) -> None:
        """A web page that has its own name resolve to this machine cannot get here, even with a user's browser."""
        name = re.sub(r":\d+\Z", "", host).lower()
        if name not in ("127.0.0.1", "localhost", "[::1]"):
            raise BatchError(Code.InvalidHeaderValue, "The header is Host.", HeaderName="Host", HeaderValue=host)

    def _common_headers(self, headers: dict[str, str]) -> dict[str, str]:
        common = {
            "Server": "Local-Azure-Batch",
            "Date": http_date(self._service.now()),
            "DataServiceVersion": "3.0",
            "request-id": str(uuid.uuid4()),
        }
        client_id = headers.get("client-request-id", "")
        if headers.get("return-client-request-id", "").lower() == "true" and _REQUEST_ID.match(client_id):
            common["client-request-id"] = client_id
        return common

    def _error(self, error: BatchError, request_id: str) -> Answer:
        if error.code.status == 304:
            return Answer(status=304)
        document = error.document(request_id, timestamp(self._service.now()))
        if isinstance(error, Injected):
            document["code"] = error.name
            return Answer(status=error.status, document=document, kind="errors/@Element", headers=error.headers)
        return Answer(status=error.code.status, document=document, kind="errors/@Element")

    async def _send(self, answer: Answer, common: dict[str, str], method: str, send: Send) -> None:
        headers = {**common, **answer.headers}
        body = b""
        if answer.document is not None:
            metadata = f"{self._service.endpoint}/$metadata#{answer.kind}"
            body = json.dumps({"odata.metadata": metadata, **answer.document}, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json; odata=minimalmetadata"
        if answer.stream is None and answer.status != 304:
            headers.setdefault("Content-Length", str(len(body)))
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        if answer.stream is not None:
            async for chunk in answer.stream:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def _query(text: str, operation: Operation) -> dict[str, str]:
    """The query's parameters, by their names in lower case without `$`, after a look at the API version."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        given.setdefault(name.lower(), value)
    _check_version(given.get("api-version"))
    known = _COMMON_QUERY | operation.query
    for name in given:
        if name not in known:
            reason = f"The query parameter {name!r} is not one of {operation.name}."
            raise BatchError(Code.UnsupportedQueryParameter, reason, QueryParameterName=name)
    return {name.removeprefix("$"): value for name, value in given.items()}


def _check_version(text: str | None) -> None:
    name = "api-version"
    if not text:
        raise BatchError(Code.MissingRequiredQueryParameter, f"The parameter is {name}.", QueryParameterName=name)
    match = _VERSION.match(text)
    if not match or match[1] > API_VERSION:
        detail = f"{text!r} is not served; the newest that is, is {API_VERSION}."
        raise BatchError(Code.UnsupportedRequestVersion, detail, QueryParameterName=name, QueryParameterValue=text)


async def _body(headers: dict[str, str], receive: Receive) -> bytes:
    if int(headers.get("content-length") or 0) > MAXIMUM_BODY:
        raise BatchError(Code.RequestBodyTooLarge, MaxLimit=MAXIMUM_BODY)
    content, more = b"", True
    while more:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
        if len(content) > MAXIMUM_BODY:
            raise BatchError(Code.RequestBodyTooLarge, MaxLimit=MAXIMUM_BODY)
    return content
