"""The ASGI application: authenticates a request, finds and runs its operation, and writes the response."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson

from local_azure.batch.engine.service import Service
from local_azure.batch.http.routes import Operation, Router
from local_azure.batch.operations import admin
from local_azure.batch.rest import auth, versions
from local_azure.batch.rest.call import Call, Response, maximum_results
from local_azure.batch.state.access import ALL
from local_azure.batch.state.errors import BatchError, Code, invalid_query, not_implemented
from local_azure.batch.state.faults import Injected, RequestFault
from local_azure.batch.state.wire import http_date, timestamp

logger = logging.getLogger(__name__)

MAXIMUM_BODY = 1 << 20  # bytes; the SDK reacts to 413 with smaller task collections

_COMMON_QUERY = {"api-version", "timeout"}
_SECONDS = re.compile(r"[0-9]{1,9}")
_ERROR = "Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element"  # of odata.metadata
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


ADMIN = Operation(name="local", method="POST", path=(), query=frozenset(), serve=admin.serve)


class Dropped(Exception):
    """The connection is to be closed without a response."""


async def _inject(fault: RequestFault) -> None:
    await asyncio.sleep(fault.delay)
    if fault.drop:
        raise Dropped
    if fault.status:
        raise Injected(fault)


class App:
    """Handles one request: host → signature → operation → query → body → transaction → response."""

    def __init__(self, service: Service, router: Router, *, administered: bool = False) -> None:
        self._service = service
        self._router = router
        self._administered = administered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        common = self._common_headers(headers)
        try:
            response = await self._respond(scope, headers, receive, common["request-id"])
        except Dropped:
            scope["state"]["abort"]()
            await receive()  # until the server notices the closed connection; otherwise it would send a 500
            return
        except BatchError as error:
            response = self._error(error, common["request-id"])
        except Exception:
            logger.exception("%s failed", scope["method"])
            response = self._error(BatchError(Code.InternalError), common["request-id"])
        await self._send(response, common, scope["method"], send)

    async def _respond(self, scope: Scope, headers: dict[str, str], receive: Receive, request_id: str) -> Response:
        raw_path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        self._check_host(headers.get("host", ""))
        request = auth.SignedRequest(method=scope["method"], raw_path=raw_path, query=query, headers=headers)
        administration = self._administered and raw_path.startswith(admin.PREFIX)
        self._authorize(request, administration=administration)
        if administration:
            operation, raw_ids = ADMIN, dict[str, str]()
        else:
            operation, raw_ids = self._router.find(scope["method"], raw_path)
        parameters = _query(query, operation)
        call = Call(
            method=scope["method"],
            path=raw_path,
            ids={name: unquote(value) for name, value in raw_ids.items()},
            query=parameters,
            version=parameters["api-version"],
            request_id=request_id,
            headers=headers,
            content=await _body(headers, receive),
            endpoint=self._service.endpoint,
            linked=self._service.auto_storage is not None,
            tokens=self._service.entra is not None,
        )
        if operation.serve is None:
            raise not_implemented(f"The operation {operation.name}")
        fault = self._service.faults.for_request(operation.name) if operation is not ADMIN else None
        if fault and not fault.after_commit:
            await _inject(fault)
        with self._service.store.transaction():
            response = operation.serve(self._service, call)
        if fault and fault.after_commit:
            await _inject(fault)
        return response

    def _authorize(self, request: auth.SignedRequest, *, administration: bool) -> None:
        """Faults do not apply to the operations that make and remove them, nor does the identity need a good token."""
        service = self._service
        if administration and service.entra and auth.has_header(request, service.entra):
            return
        access = ALL if administration else service.access
        machine_time = service.clock.machine_time()
        auth.verify(request, service.account, machine_time, now=service.now(), access=access, entra=service.entra)

    def _check_host(self, host: str) -> None:
        """Refuse other host names, so that no web page reaches the service by DNS rebinding."""
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

    def _error(self, error: BatchError, request_id: str) -> Response:
        if error.status == 304:
            return Response(status=304)
        document = error.document(request_id, timestamp(self._service.now()))
        return Response(status=error.status, document=document, kind=_ERROR, headers=error.headers)

    async def _send(self, response: Response, common: dict[str, str], method: str, send: Send) -> None:
        headers = {**common, **response.headers}
        body = b""
        if response.document is not None:
            metadata = f"{self._service.endpoint}/$metadata#{response.kind}"
            body = orjson.dumps({"odata.metadata": metadata, **response.document})
            headers["Content-Type"] = "application/json; odata=minimalmetadata"
        if response.stream is None and response.status != 304:
            headers.setdefault("Content-Length", str(len(body)))
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        if response.stream is not None:
            async for chunk in response.stream:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def _query(text: str, operation: Operation) -> dict[str, str]:
    """The query's parameters, by their names in lower case without `$`, after a look at the API version."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        given.setdefault(name.lower(), value)
    _check_version(given.get("api-version"))
    if not operation.is_in(given["api-version"]):
        raise BatchError(Code.InvalidUri)
    known = _COMMON_QUERY | operation.query
    for name in given:
        if name not in known:
            reason = f"The query parameter {name!r} is not one of {operation.name}."
            raise BatchError(Code.UnsupportedQueryParameter, reason, QueryParameterName=name)
    if "timeout" in given and not _SECONDS.fullmatch(given["timeout"]):
        raise invalid_query("timeout must be a number of seconds.", "timeout", given["timeout"])
    if not set(given.get("$expand", "").replace(" ", "").split(",")) <= {"", "stats"}:
        raise invalid_query("only stats can be expanded.", "$expand", given["$expand"])
    maximum_results(given)  # before the resource is looked for whose parts are listed
    return {name.removeprefix("$"): value for name, value in given.items()}


def _check_version(text: str | None) -> None:
    name = "api-version"
    if not text:
        raise BatchError(Code.MissingRequiredQueryParameter, f"The parameter is {name}.", QueryParameterName=name)
    if text not in versions.SERVED:
        detail = f"{text!r} is not supported; the newest supported version is {versions.SERVED[-1]}."
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
