"""A request as an operation receives it, its response, and helpers shared by all operations."""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from itertools import islice
from typing import Any

import orjson

from local_azure.batch.rest import odata, shapes, versions
from local_azure.batch.rest.shown import names, shown
from local_azure.batch.state import auto_storage
from local_azure.batch.state.bodies import properties
from local_azure.batch.state.errors import BatchError, Code, invalid_query, not_implemented
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import http_date, parse_timestamp, segment

MAXIMUM_DEPTH = 64  # of objects and lists in each other; the API's own need a dozen
PAGE_SIZE = 1000  # results per page, at the most and if not asked for otherwise
MOST_READ = 2000  # resources that a filter is applied to for one page
IDENTITY = "identityReference"
# Where nodes need the token of an identity. Those for disks, mounts and registries are of pools without nodes.
_OF_FILES = re.compile(r"(resourceFiles|commonResourceFiles|outputFiles)\[")


@dataclass(frozen=True, kw_only=True)
class Call:
    """An authenticated request of a known operation; the names of `query` are in lower case, without `$`."""

    method: str
    path: str  # still percent-encoded
    ids: Mapping[str, str]  # the parameters in the path, decoded
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    content: bytes
    endpoint: str  # http://127.0.0.1:PORT
    version: str = versions.OF_SHAPES  # of the API, as the client has written it
    request_id: str = ""
    linked: bool = False  # whether a storage account is linked to the Batch account
    tokens: bool = False  # whether nodes can have tokens of managed identities

    def body(self, model: str) -> Document:
        """The body, validated against the model. Raises BatchError."""
        return self.checked(self.json(), model)

    def checked(self, body: Any, model: str) -> Document:
        """A part of the body, validated against the model. Raises BatchError."""
        document = shapes.check(body, model, self.version)
        if self._names_accounts:
            auto_storage.check(document, linked=self.linked)
            for path, _ in properties(document, IDENTITY):
                if not self.tokens and _OF_FILES.search(path):
                    raise not_implemented(f"The property {path}", "start the service so that it takes tokens (--entra)")
        return document

    @cached_property
    def _names_accounts(self) -> bool:
        """Whether properties for storage accounts and identities may be in the body, so that they are looked for."""
        return any(text in self.content for text in (auto_storage.PROPERTY.encode(), IDENTITY.encode(), b"\\u"))

    def optional_body(self, model: str) -> Document:
        return self.body(model) if self.content.strip() else {}

    def json(self) -> Any:
        try:
            body = orjson.loads(self.content.removeprefix(codecs.BOM_UTF8))
            _check_depth([body])
        except ValueError as error:
            raise BatchError(Code.InvalidRequestBody, f"The body is not JSON: {error}.") from error
        return body

    def url(self, *segments: str) -> str:
        return "/".join((self.endpoint, *map(segment, segments)))


def _check_depth(value: dict[str, Any] | list[Any], depth: int = 0) -> None:
    """Raises ValueError for nesting that the parser accepts."""
    if depth > MAXIMUM_DEPTH:
        raise ValueError(f"it is nested more than {MAXIMUM_DEPTH} levels deep")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            _check_depth(item, depth + 1)


@dataclass(frozen=True, kw_only=True)
class Response:
    status: int = 200
    document: Document | None = None
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = ""  # the fragment of odata.metadata: "pools/@Element"
    stream: AsyncIterator[bytes] | None = None


def resource_headers(document: Document) -> dict[str, str]:
    """The ETag and Last-Modified headers of a resource."""
    if "eTag" not in document:
        return {}
    return {"ETag": document["eTag"], "Last-Modified": http_date(parse_timestamp(document["lastModified"]))}


def element(call: Call, kind: str, document: Document, model: str) -> Response:
    """A response with one resource of the model, reduced to the API version and the `$select` of the call."""
    headers = resource_headers(document)
    document = shown(document, model, call.version)
    if text := call.query.get("select"):
        document = odata.select(document, odata.parse_select(text, names(model, call.version)))
    return Response(document=document, kind=f"{kind}/@Element", headers=headers)


def done(call: Call, status: int, document: Document | None = None) -> Response:
    """The empty response to a write. `DataServiceId` is the URL of the resource."""
    headers = {"DataServiceId": call.endpoint + call.path}
    return Response(status=status, headers={**headers, **(resource_headers(document) if document else {})})


def created(call: Call, document: Document, *path: str) -> Response:
    url = call.url(*path)
    return Response(status=201, headers={"DataServiceId": url, "Location": url, **resource_headers(document)})


def maximum_results(query: Mapping[str, str]) -> int:
    """The size of a page that the query asks for. Raises BatchError if there is no such size."""
    text = query.get("maxresults", str(PAGE_SIZE))
    try:
        wanted = int(text)
    except ValueError:
        wanted = -1
    if wanted < 0:
        reason = "maxresults must be a number that is not negative."
        raise invalid_query(reason, "maxresults", text)
    if not 1 <= wanted <= PAGE_SIZE:
        reason = f"maxresults must be between 1 and {PAGE_SIZE}."
        raise BatchError(
            Code.OutOfRangeQueryParameterValue,
            reason,
            QueryParameterName="maxresults",
            QueryParameterValue=text,
            MinimumAllowed=1,
            MaximumAllowed=PAGE_SIZE,
        )
    return wanted


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list operation: `filterable` has the properties for `$filter`, `show` formats a row."""

    kind: str
    filterable: odata.Properties
    show: Callable[[Row], Document]
    model: str = ""
    indexed: Mapping[str, str] = field(default_factory=dict)  # the columns of filterable properties that have an index

    def respond(self, call: Call, rows_after: Callable[..., Iterable[Row]]) -> Response:
        """One page of the rows after the call's `$skiptoken`, ordered by id.

        `rows_after` gets the token, and perhaps an indexed column with the values that the filter permits. If a filter
        leaves out many rows, the page ends before it is full, as in Azure, so that no request takes long.
        """
        text = call.query.get("filter", "").strip()
        matches = odata.parse_filter(text, self.filterable) if text else odata.Filter(holds=lambda _: True)
        wanted = call.query.get("select")
        selected = odata.parse_select(wanted, names(self.model, call.version)) if wanted else None
        indexed = [(self.indexed[each], matches.permitted[each]) for each in self.indexed if each in matches.permitted]
        rows = iter(rows_after(call.query.get("skiptoken", ""), *next(iter(indexed), ())))
        found, after = self._page(rows, matches, maximum_results(call.query))
        found = [shown(each, self.model, call.version) for each in found]
        document: Document = {"value": [odata.select(each, selected) if selected else each for each in found]}
        if after is not None:
            document["odata.nextLink"] = next_link(call, after)
        return Response(document=document, kind=self.kind)

    def _page(self, rows: Iterator[Row], matches: odata.Filter, size: int) -> tuple[list[Document], str | None]:
        """The resources of one page, and the id after which the next one begins, if there is one."""
        found: list[tuple[str, Document]] = []
        read = ""
        for row in islice(rows, MOST_READ):
            read = row.id
            if matches(document := self.show(row)):
                found.append((read, document))
                if len(found) > size:
                    return [each for _, each in found[:size]], found[size - 1][0]
        return [each for _, each in found], None if next(rows, None) is None else read


def next_link(call: Call, token: str) -> str:
    """The URL of the page after `token`."""
    query = {
        **{_QUERY_NAMES.get(name, name): value for name, value in call.query.items()},
        "$skiptoken": token,
    }
    return f"{call.endpoint}{call.path}?" + "&".join(f"{name}={segment(value)}" for name, value in query.items())


_QUERY_NAMES = {"filter": "$filter", "select": "$select", "expand": "$expand", "skiptoken": "$skiptoken"}


def require_conditions(call: Call, document: Document) -> None:
    """Raises ConditionNotMet or NotModified unless the resource meets the call's conditional headers.

    Clients quote ETags, the service does not.
    """
    etag = document["eTag"]
    modified = parse_timestamp(document["lastModified"]).replace(microsecond=0)
    reading = call.method in ("GET", "HEAD")
    if (wanted := call.headers.get("if-match")) and not _has_etag(wanted, etag):
        raise BatchError(Code.ConditionNotMet)
    if (limit := _date(call, "if-unmodified-since")) and modified > limit:
        raise BatchError(Code.ConditionNotMet)
    if (refused := call.headers.get("if-none-match")) and _has_etag(refused, etag):
        raise BatchError(Code.NotModified if reading else Code.ConditionNotMet)
    if (limit := _date(call, "if-modified-since")) and modified <= limit:
        raise BatchError(Code.NotModified if reading else Code.ConditionNotMet)


def _has_etag(header: str, etag: str) -> bool:
    given = [part.strip().removeprefix("W/").strip('"') for part in header.split(",")]
    return "*" in given or etag in given


def _date(call: Call, name: str) -> datetime | None:
    text = call.headers.get(name)
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise BatchError(
            Code.InvalidHeaderValue, f"The header is {name}.", HeaderName=name, HeaderValue=text
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
