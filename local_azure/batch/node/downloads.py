"""Resource files, from a URL or a container of Blob Storage to the task's working directory."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from local_azure.batch.node.transfer_common import (
    Limits,
    TokenOf,
    TransferFailed,
    is_loopback,
    no_tokens,
    node_errors,
    open_container,
    public_url,
    storage_errors,
    token_for,
)
from local_azure.batch.state.auto_storage import PROPERTY, AutoStorage
from local_azure.batch.state.paths import PathEscapes, make_private, resolve_inside

DEFAULT_FILE_MODE = "0770"  # Azure Batch's own, for Linux nodes
_STORAGE_VERSION = "2021-08-06"  # tokens need one of 2017-11-09 or later
CHUNK = 1 << 20  # bytes
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


def stage_in(
    resource_files: Sequence[Mapping[str, Any]],
    working_directory: Path,
    *,
    auto_storage: AutoStorage | None = None,
    limits: Limits | None = None,
    token_of: TokenOf = no_tokens,
) -> None:
    """Download resource files, given as on the wire, into the working directory. Raises TransferFailed.

    Containers that are only named are those of `auto_storage`; `token_of` gives the tokens of managed identities.
    """
    limits = limits or Limits()
    for file in resource_files:
        if "httpUrl" in file:
            source = {"BlobSource": public_url(file["httpUrl"]), "FilePath": file["filePath"]}
            token = token_for(file, token_of, "BlobAccessDenied", source)
            with _new_file(working_directory, file, file["filePath"], source) as target:
                _download(file["httpUrl"], target, source, limits, token)
        elif "storageContainerUrl" in file:
            url = file["storageContainerUrl"]
            token = token_for(file, token_of, "ResourceContainerAccessDenied", {"BlobSource": public_url(url)})
            _download_container(url, file, working_directory, limits, token)
        elif auto_storage is not None:
            _download_container(auto_storage.container_url(file[PROPERTY]), file, working_directory, limits)
        else:
            reason = "no storage account is linked to the Batch account any more: give storageContainerUrl or httpUrl"
            raise TransferFailed("BlobDownloadMiscError", reason, {}, category="UserError")


def _download(url: str, target: BinaryIO, source: Mapping[str, str], limits: Limits, token: str) -> None:
    if not url.lower().startswith(("http://", "https://")):
        raise TransferFailed("BlobDownloadMiscError", "the URL is neither http nor https", source, category="UserError")
    delays = iter(limits.retry_delays)
    while True:
        try:
            return _fetch(url, target, source, limits, token)
        except (OSError, ValueError, http.client.HTTPException) as error:
            delay = next(delays, None) if _is_transient(error) else None
            if delay is None:
                raise _download_failure(error, source) from None  # its text may hold the whole URL
            limits.sleep(delay)


def _fetch(url: str, target: BinaryIO, source: Mapping[str, str], limits: Limits, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "x-ms-version": _STORAGE_VERSION} if token else {}
    request = urllib.request.Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"), headers=headers)
    with _opener(url).open(request, timeout=limits.timeout) as response:
        target.seek(0)
        target.truncate()
        _copy(iter(lambda: response.read(CHUNK), b""), target, source, limits)
        if response.length:  # what is still missing of the announced length
            raise http.client.IncompleteRead(b"", response.length)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Speaks HTTP only, redirects included: a resource file must not be a way to read the node's files."""
    opener = urllib.request.OpenerDirector()
    proxies = urllib.request.ProxyHandler({} if is_loopback(url) else None)
    for handler in (
        proxies,
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _is_transient(error: Exception) -> bool:
    """True if a retry may help; it does not for a full disk or an invalid URL."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in RETRIED_STATUSES
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(
        cause, (ConnectionError, TimeoutError, http.client.IncompleteRead, http.client.RemoteDisconnected)
    )


def _download_failure(error: Exception, source: Mapping[str, str]) -> TransferFailed:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        codes = {
            401: "BlobAccessDenied",
            403: "BlobAccessDenied",
            404: "BlobNotFound",
            408: "BlobDownloadTimedOut",
        }
        details = {**source, "HttpStatusCode": str(error.code)}
        return TransferFailed(codes.get(error.code, "BlobDownloadMiscError"), f"HTTP status {error.code}", details)
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, str):  # from urllib: no host given
        return TransferFailed("BlobDownloadMiscError", cause, source)
    if isinstance(cause, TimeoutError):
        return TransferFailed("BlobDownloadTimedOut", "no response within the time limit", source)
    if isinstance(cause, OSError) and cause.strerror:
        return TransferFailed("BlobDownloadMiscError", cause.strerror, source)
    if isinstance(cause, http.client.IncompleteRead):
        return TransferFailed("BlobDownloadMiscError", "the connection ended before the file did", source)
    return TransferFailed("BlobDownloadMiscError", type(cause).__name__, source)


def _download_container(
    url: str, file: Mapping[str, Any], working_directory: Path, limits: Limits, token: str = ""
) -> None:
    prefix = file.get("blobPrefix")
    source = {"BlobSource": public_url(url)}
    with storage_errors("ResourceContainerAccessDenied", "BlobNotFound", "BlobDownloadMiscError", source):
        container = open_container(url, limits, token)
        for name in container.list_blob_names(name_starts_with=prefix):
            if name.endswith("/"):  # the marker of an empty directory
                continue
            path = "/".join(filter(None, (file.get("filePath", "").rstrip("/"), name)))
            blob_source = {"BlobSource": f"{public_url(url)}/{name}", "FilePath": path}
            with _new_file(working_directory, file, path, blob_source) as target:
                _copy(container.download_blob(name).chunks(), target, blob_source, limits)


@contextmanager
def _new_file(
    working_directory: Path, file: Mapping[str, Any], path: str, source: Mapping[str, str]
) -> Iterator[BinaryIO]:
    """A new file, which gets its name and mode once it is complete."""
    try:
        final = resolve_inside(working_directory, path)
        mode = int(file.get("fileMode") or DEFAULT_FILE_MODE, 8) & 0o777
    except (PathEscapes, ValueError) as error:
        raise TransferFailed("ResourceFileCreateFailed", str(error), source, category="UserError") from error
    with node_errors("ResourceDirectoryCreateFailed", source):
        make_private(final.parent)
    partial = final.parent / f".{uuid.uuid4().hex}.part"
    try:
        with node_errors("ResourceFileCreateFailed", source):
            target = open(partial, "xb")  # noqa: SIM115 (closed below, where errors of closing have another code)
        with target:
            yield target
            with node_errors("ResourceFileWriteFailed", source):
                target.flush()
        with node_errors("ResourceFileCreateFailed", source):
            partial.chmod(mode)
            partial.rename(final)
    finally:
        partial.unlink(missing_ok=True)


def _copy(chunks: Iterable[bytes], target: BinaryIO, source: Mapping[str, str], limits: Limits) -> None:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limits.file_bytes:
            reason = f"the file is larger than {limits.file_bytes} bytes"
            raise TransferFailed("ResourceFileWriteFailed", reason, source)
        with node_errors("ResourceFileWriteFailed", source):
            target.write(chunk)
