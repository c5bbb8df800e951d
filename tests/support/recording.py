"""Requests to Azure Batch and its answers, recorded as a client sends them, without secrets and names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tasks.errors.responses import CheckedTransport
from tasks.errors.secrets import without_secrets

# Headers that say something about the service; others name requests, hosts and times.
_HEADERS = {"content-type", "dataserviceversion", "etag", "last-modified", "location", "dataserviceid", "retry-after"}
_NODE = re.compile(r"tvmps_[0-9a-f]+(?=_[dp]\b)")
_GUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b")
_QUERY_OF_BLOB = re.compile(r"(https?://[^\s\"?]+)\?[^\s\"]*\bsig=[^\s\"]*")
_USERS_RESOURCE = re.compile(r"/subscriptions/[^/\"\s]+/resourceGroups/[^/\"\s]+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and its answer; the path as it was sent, percent-encoded."""

    method: str
    path: str
    query: str
    request: Any  # JSON, or None
    status: int
    headers: Mapping[str, str]  # of the answer, names in lower case
    response: Any  # JSON, or None: also for the content of files


class Scrubber:
    """Replaces what identifies an account, a run, a node or a request by placeholders, each always by the same."""

    def __init__(self, names: Mapping[str, str], secrets: Sequence[str]) -> None:
        """names: what to replace, and by what. secrets: what must not be in the result, else ValueError."""
        self._names = dict(sorted(names.items(), key=lambda pair: -len(pair[0])))
        self._secrets = [secret for secret in secrets if secret]
        self._guids: dict[str, str] = {}
        self._nodes: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The text without them."""
        for name, placeholder in self._names.items():
            text = text.replace(name, placeholder)
        text = _USERS_RESOURCE.sub("/subscriptions/{subscription}/resourceGroups/{group}", text)
        text = _NODE.sub(lambda found: self._numbered(self._nodes, found[0], "tvmps_{:064x}"), text)
        text = _GUID.sub(
            lambda found: self._numbered(self._guids, found[0].lower(), "00000000-0000-0000-0000-{:012x}"), text
        )
        text = _ADDRESS.sub("10.0.0.1", _QUERY_OF_BLOB.sub(r"\1", text))
        text = without_secrets(text)
        if any(secret in text for secret in self._secrets):
            raise ValueError("a secret is left in what was recorded")
        return text

    @staticmethod
    def _numbered(known: dict[str, str], name: str, form: str) -> str:
        if name in known.values():
            return name
        return known.setdefault(name, form.format(len(known) + 1))


class Recorder:
    """Keeps the exchanges with Azure Batch, in order."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Record what the product's clients send while the context lasts."""
        send = CheckedTransport.send

        def recorded(transport: CheckedTransport, request: Any, **options: Any) -> Any:
            answer = send(transport, request, **options)
            if "api-version=" in request.url:  # Batch has one there, Storage a header
                self.exchanges.append(_exchange(request, answer, content=not options.get("stream")))
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CheckedTransport, "send", recorded)
            yield self

    def write(self, path: Path, scrub: Scrubber) -> None:
        """Write them as JSON. Raises ValueError, and writes nothing, where a secret is left in them."""
        text = json.dumps([asdict(each) for each in self.exchanges], indent=1)
        path.write_text(scrub(text) + "\n", encoding="utf-8")


def read(path: Path) -> list[Exchange]:
    """The exchanges of a file that `Recorder.write` has written, or of one of the same form."""
    names = Exchange.__dataclass_fields__
    exchanges = json.loads(path.read_text(encoding="utf-8"))
    return [Exchange(**{name: each[name] for name in names}) for each in exchanges]


def _exchange(request: Any, answer: Any, *, content: bool) -> Exchange:
    url = urlsplit(request.url)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Exchange(
        method=request.method,
        path=url.path,
        query=url.query,
        request=_json(request.content),
        status=answer.status_code,
        headers={name: value for name, value in sorted(headers.items()) if name in _HEADERS},
        response=_json(answer.read()) if content and "json" in headers.get("content-type", "") else None,
    )


def _json(content: Any) -> Any:
    return json.loads(content) if content else None
