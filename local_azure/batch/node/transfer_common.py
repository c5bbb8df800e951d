"""Shared by downloads and uploads: errors, limits and retries, access to a container."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.storage.blob import ContainerClient

MESSAGES = {
    "BlobAccessDenied": "Access for one of the specified Azure Blob(s) is denied",
    "BlobNotFound": "One of the specified Azure Blob(s) is not found",
    "BlobDownloadTimedOut": "The download of one of the specified Azure Blob(s) timed out",
    "BlobDownloadMiscError": "One of the specified Azure Blob(s) could not be downloaded",
    "ResourceContainerAccessDenied": "Access for one of the specified Azure Blob container(s) is denied",
    "ResourceDirectoryCreateFailed": "A directory for one of the resource files could not be created",
    "ResourceFileCreateFailed": "One of the resource files could not be created",
    "ResourceFileWriteFailed": "One of the resource files could not be written",
    "DiskFull": "The node's disk is full",
    "FileUploadAccessDenied": "Access for one of the output files' Azure Blob container(s) is denied",
    "FileUploadContainerNotFound": "One of the output files' Azure Blob container(s) is not found",
    "FileUploadMiscError": "One of the output files could not be uploaded",
}
# https://learn.microsoft.com/rest/api/batchservice/batch-status-and-error-codes: errors caused by the user's URLs and
# permissions are user errors, all others are server errors.
USER_ERRORS = frozenset({"BlobAccessDenied", "BlobNotFound", "FileUploadAccessDenied", "FileUploadContainerNotFound"})


class TransferFailed(Exception):
    """A file could not be transferred; the fields are those of a task's `failureInfo`."""

    def __init__(self, code: str, reason: str, details: Mapping[str, str], *, category: str | None = None) -> None:
        self.code = code
        self.category = category or ("UserError" if code in USER_ERRORS else "ServerError")
        self.message = MESSAGES[code]
        self.details = {**details, "Reason": reason}
        super().__init__(f"{code}: {self.message}: {reason}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits and retries of a transfer."""

    timeout: float = 60.0  #: seconds to connect, and between two chunks
    file_bytes: int = 16 << 30  #: of one resource file
    retry_delays: tuple[float, ...] = (0.5, 1.0, 2.0)  #: seconds before each retry
    sleep: Callable[[float], None] = time.sleep


def public_url(url: str) -> str:
    """The URL without its parts that may be secret: query, fragment, user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an invalid URL"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


TokenOf = Callable[[str], str]  # a token of the managed identity with that resource id; raises LookupError


def no_tokens(identity: str) -> str:
    raise LookupError(f"the pool has not the managed identity {identity}")


def token_for(file: Mapping[str, Any], token_of: TokenOf, denied: str, details: Mapping[str, str]) -> str:
    """The token with which a file, or an output, is transferred; empty where its URL has all that it takes."""
    identity = (file.get("identityReference") or {}).get("resourceId")
    try:
        return token_of(identity) if identity else ""
    except LookupError as error:
        raise TransferFailed(denied, str(error), details, category="UserError") from None


class _Bearer:
    """A credential of Azure's SDK that is one token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        from azure.core.credentials import AccessToken

        return AccessToken(self._token, int(time.time()) + 3600)


def open_container(url: str, limits: Limits, token: str = "") -> ContainerClient:
    from azure.core.pipeline.transport import RequestsTransport  # takes half a second to import
    from azure.storage.blob import ContainerClient, ExponentialRetry

    return ContainerClient.from_container_url(
        url,
        _Bearer(token) if token else None,
        # Requests to this machine bypass proxies. That ignores all of the environment, so its certificates are named.
        transport=RequestsTransport(
            use_env_settings=not is_loopback(url), connection_verify=os.environ.get("REQUESTS_CA_BUNDLE") or True
        ),
        # Retries at once, then after 2 and 4 seconds: the SDK takes whole seconds only, and its default starts at 15.
        retry_policy=ExponentialRetry(
            initial_backoff=0, increment_base=2, retry_total=len(limits.retry_delays), random_jitter_range=0
        ),
        connection_timeout=limits.timeout,
        read_timeout=limits.timeout,
        max_block_size=8 << 20,
    )


@contextmanager
def storage_errors(denied: str, missing: str, other: str, details: Mapping[str, str]) -> Iterator[None]:
    from azure.core.exceptions import AzureError, HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        code = {401: denied, 403: denied, 404: missing}.get(error.status_code or 0, other)
        more = {**details, "HttpStatusCode": str(error.status_code)}
        storage_code = getattr(error, "error_code", None)
        named = getattr(storage_code, "value", storage_code)
        reason = str(named or error.reason or f"HTTP status {error.status_code}")
        raise TransferFailed(code, reason, more) from None
    except (AzureError, ValueError) as error:  # its text may contain the whole URL
        raise TransferFailed(other, type(error).__name__, details) from None


@contextmanager
def node_errors(code: str, source: Mapping[str, str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise TransferFailed("DiskFull" if full else code, error.strerror or str(error), source) from error
