"""Requests to the Batch service that are made by hand, where the SDK would not make them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import requests

from local_azure.batch.http.server import Account
from local_azure.batch.state.wire import http_date

VERSION = "2025-06-01"


class Service(Protocol):
    """What a request needs to know of the service."""

    @property
    def endpoint(self) -> str: ...
    @property
    def account(self) -> Account: ...


class Raw:
    """Signs and sends a request as it is given."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def __call__(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        version: str = VERSION,
        headers: Mapping[str, str] = MappingProxyType({}),
        signed_path: str = "",
        key: str = "",
        late: timedelta = timedelta(),
        name: str = "",
    ) -> requests.Response:
        separator = "&" if "?" in path else "?"
        target = f"{path}{separator}api-version={version}" if version else path
        content = b"" if body is None else json.dumps(body).encode()
        sent = {"ocp-date": http_date(datetime.now(timezone.utc) + late), **dict(headers)}
        if body is not None:
            sent["Content-Type"] = "application/json; odata=minimalmetadata"
        account = name or self.service.account.name
        text = self._string_to_sign(method, signed_path or target, content, sent, account)
        secret = base64.b64decode(key or self.service.account.key)
        signature = base64.b64encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).decode()
        sent["Authorization"] = f"SharedKey {account}:{signature}"
        request = requests.Request(method, self.service.endpoint, headers=sent, data=content).prepare()
        request.url = self.service.endpoint + target
        return requests.Session().send(request)

    def _string_to_sign(
        self, method: str, target: str, content: bytes, headers: Mapping[str, str], account: str
    ) -> str:
        lower = {name.lower(): value for name, value in headers.items()}
        length = str(len(content)) if content else ("" if method in ("GET", "HEAD") else "0")
        names = ("content-md5", "content-type", "date", "if-modified-since", "if-match", "if-none-match")
        values = [lower.get("content-encoding", ""), lower.get("content-language", ""), length]
        values += [lower.get(name, "") for name in (*names, "if-unmodified-since", "range")]
        ocp = [f"{name}:{lower[name]}" for name in sorted(lower) if name.startswith("ocp-")]
        url = urlsplit(target)
        query = "".join(f"\n{name}:{values[0]}" for name, values in sorted(parse_qs(url.query).items()))
        return "\n".join([method, *values, *ocp, f"/{account}{url.path}"]) + query
