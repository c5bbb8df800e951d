"""Reads small blobs whole, in one request each, over kept connections: with the SDK each costs four times as much."""

from __future__ import annotations

import hashlib
import random
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, cast
from urllib.parse import quote
from xml.etree import ElementTree

from requests import PreparedRequest, Request, Session
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError

from tasks.accounts.clients import Azure, check_embedded
from tasks.accounts.entra_id import STORAGE_SCOPE, entra_id
from tasks.accounts.parallel import AT_A_TIME
from tasks.accounts.sas import Signer
from tasks.errors.codes import Code, Service
from tasks.errors.responses import Response, code_of, problem
from tasks.errors.secrets import without_secrets
from tasks.errors.service import ServiceError

USER_AGENT = "prefect-azure-batch"
_VERSION = "2021-08-06"  # of the REST API
_TIMEOUT = Timeout(connect=20, read=60)  # seconds
_ATTEMPTS = 4  # of a request; longer failures are covered by the step's retries
_DAMAGED_TIMES = 3  # downloads of one blob that differ from it
_LONGEST_PAUSE = 60.0  # seconds
_SAS_LASTS = timedelta(hours=2)  # and is renewed after half of it


class WholeBlobs:
    """The blobs of one container of the run's account, for several threads.

    Proxy and TLS settings are those of the SDK, and so are which failures are tried again; any other is a ServiceError
    whose code is the service's.
    """

    sleep = staticmethod(time.sleep)

    def __init__(self, azure: Azure, container: str) -> None:
        self._azure = azure
        self._container = container
        self._url = f"{azure.storage_account.endpoint}/{container}"
        self._connections = _Connections(self._url)
        self._signed: tuple[str, datetime] | None = None

    def read(self, blob: str) -> bytes:
        """The content of the blob. Raises ValueError where it stays another than its MD5 says."""
        for _ in range(_DAMAGED_TIMES):
            response = self._get(blob)
            found = hashlib.md5(response.data, usedforsecurity=False)
            stored = response.headers.get("Content-MD5", "")
            if not stored or _base64(found.digest()) == stored:
                return response.data
        raise ValueError(f"its MD5 is {found.hexdigest()}, that of the blob is {_hexadecimal(stored)}")

    def _get(self, blob: str) -> BaseHTTPResponse:
        """The response with the blob's content; what may pass is tried again."""
        for attempt in range(1, _ATTEMPTS + 1):
            pause = 2**attempt - 1 + random.uniform(-1, 1)
            try:
                query, headers = self._authorization()
                response = self._connections.get(f"/{quote(blob, safe='~/')}{query}", headers)
            except HTTPError as error:
                check_embedded(self._azure.storage_account.endpoint)
                message = without_secrets(f"no answer from the service: {error}")
                failure = ServiceError(message, code="NoAnswer", transient=True)
            else:
                if (refused := _refusal(self._url, response)) is None:
                    return response
                failure = refused
                pause = max(pause, _asked_to_wait(response.headers))
            if not failure.transient or failure.code == Code.CONTAINER_BEING_DELETED or attempt == _ATTEMPTS:
                raise failure
            self.sleep(min(pause, _LONGEST_PAUSE))
        raise AssertionError("the last attempt raises")

    def _authorization(self) -> tuple[str, dict[str, str]]:
        """The query and the headers of a request: a SAS that the account's key signs, or a token of Entra ID."""
        azure = self._azure
        if azure.storage_account.key is None:
            token = entra_id(azure.cloud).get_token_info(STORAGE_SCOPE).token
            return "", {"Authorization": f"Bearer {token}"}
        now = datetime.now(timezone.utc)
        if self._signed is None or self._signed[1] < now:
            token = Signer(self._azure, now + _SAS_LASTS).read_token(self._container)
            self._signed = token, now + _SAS_LASTS / 2
        return f"?{self._signed[0]}", {}


class _Connections(HTTPAdapter):
    """Connections to one address, with the proxy and TLS settings that `requests`, and so the SDK, finds for it."""

    def __init__(self, url: str) -> None:
        super().__init__(pool_maxsize=AT_A_TIME)
        with Session() as session:
            found: dict[str, Any] = cast(Any, session.merge_environment_settings(url, {}, None, None, None))
            request: PreparedRequest = session.prepare_request(Request("GET", url))
        proxies = found["proxies"]
        proxy = select_proxy(url, proxies)
        self._headers = {"x-ms-version": _VERSION, "User-Agent": USER_AGENT}
        if proxy and url.startswith("http:"):  # else these are for CONNECT
            self._headers |= self.proxy_headers(proxy)
        self._pool = self.get_connection_with_tls_context(request, found["verify"], proxies, found["cert"])
        self.cert_verify(self._pool, url, found["verify"], found["cert"])
        self._start = self.request_url(request, proxies)

    def get(self, path: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """The response to a GET of what is below the address. Raises one of urllib3's errors where there is none."""
        return self._pool.urlopen(
            "GET",
            self._start + path,
            headers={**self._headers, **headers},
            retries=False,
            redirect=False,
            assert_same_host=False,  # of a proxy
            timeout=_TIMEOUT,
            decode_content=False,
        )


def _refusal(url: str, response: BaseHTTPResponse) -> ServiceError | None:
    """What the response says where it has no content of a blob, or is not the service's own."""
    is_blob = response.status == 200 and bool(response.headers.get("ETag"))
    if is_blob and response.headers.get(Service.STORAGE.request_id):
        return None  # nearly always
    body = response.data if response.status >= 400 else None
    answer = Response(method="GET", url=url, status=response.status, headers=response.headers, body=body)
    found = problem(answer)
    if not found and response.status == 200 and not is_blob:
        found = f"incomplete answer from {answer.service.value}: {answer.origin}, which is no blob"
    if found:
        return ServiceError(found, code="NoAnswer", transient=True)
    if response.status == 200:
        return None
    code = code_of(answer) or f"HTTP {response.status}"
    return ServiceError.answered(answer, code, _message(response.data))


def _message(body: bytes) -> str:
    try:
        return (ElementTree.fromstring(body).findtext("Message") or "").strip().partition("\n")[0] or "no message"
    except ElementTree.ParseError:
        return "no message"


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    try:
        return float(headers.get("Retry-After", ""))
    except ValueError:  # none, or a date; the service sends seconds
        return 0.0


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()


def _hexadecimal(md5: str) -> str:
    try:
        return b64decode(md5).hex()
    except ValueError:
        return md5
