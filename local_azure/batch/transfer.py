"""Bring a task's resource files to its node, and its output files from there to Blob Storage.

Blocking: call it in a thread. A failure is told as the `failureInfo` that Azure Batch would give. No URL is ever told
with its query string, which is where the SAS signature is.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import ipaddress
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit

from local_azure.batch.paths import PathEscapes, resolve_inside
from local_azure.batch.patterns import Match, expand_variables, is_wild, matches

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

DEFAULT_FILE_MODE = "0770"  # Azure Batch's own, for Linux nodes
CHUNK = 1 << 20  # bytes
# https://learn.microsoft.com/rest/api/storageservices/put-blob, both spellings, and the SDK's names for them
CONTENT_HEADERS = {
    prefix + name: f"{'' if name == 'cache-control' else 'content_'}{field}"
    for prefix in ("", "x-ms-blob-")
    for name, field in {
        "content-type": "type",
        "content-encoding": "encoding",
        "content-language": "language",
        "content-disposition": "disposition",
        "cache-control": "cache_control",
    }.items()
}
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

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
# https://learn.microsoft.com/rest/api/batchservice/batch-status-and-error-codes: what the user's own URLs and
# permissions cause is the user's error, the rest is the service's.
USER_ERRORS = frozenset(
    {"BlobAccessDenied", "BlobNotFound", "FileUploadAccessDenied", "FileUploadContainerNotFound"}
)


class TransferFailed(Exception):
    """One file could not be brought to or from the node; the fields are those of a task's `failureInfo`."""

    def __init__(
        self, code: str, reason: str, details: Mapping[str, str], *, category: str | None = None
    ) -> None:
        self.code = code
        self.category = category or ("usererror" if code in USER_ERRORS else "servererror")
        self.message = MESSAGES[code]
        self.details = {**details, "Reason": reason}
        super().__init__(f"{code}: {self.message}: {reason}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long and how much a transfer may try."""

    timeout: float = 60.0  #: seconds for a connection, and between two pieces of data
    file_bytes: int = 16 << 30  #: of one resource file
    retry_delays: tuple[float, ...] = (0.5, 1.0, 2.0)  #: seconds before each repetition
    sleep: Callable[[float], None] = time.sleep


def stage_in(
    resource_files: Sequence[Mapping[str, Any]], working_directory: Path, *, limits: Limits | None = None
) -> None:
    """Download resource files, given as on the wire, into the working directory. Raises TransferFailed."""
    limits = limits or Limits()
    for file in resource_files:
        if "httpUrl" in file:
            source = {"BlobSource": public_url(file["httpUrl"]), "FilePath": file["filePath"]}
            with _file_to_be(working_directory, file, file["filePath"], source) as target:
                _download(file["httpUrl"], target, source, limits)
        elif "storageContainerUrl" in file:
            _download_container(file, working_directory, limits)
        else:
            reason = (
                "the local Batch service has no auto storage account: give storageContainerUrl or httpUrl"
            )
            raise TransferFailed("BlobDownloadMiscError", reason, {}, category="usererror")


def stage_out(
    output_files: Sequence[Mapping[str, Any]],
    working_directory: Path,
    *,
    succeeded: bool,
    environment: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> None:
    """Upload output files, given as on the wire, whose upload condition fits the task's result.

    `environment` is what patterns like `$AZ_BATCH_TASK_ID*.txt` take their variables from. Every output file is
    tried, so that the logs get out even if the result is missing; then TransferFailed is raised for the first
    that failed.
    """
    failures = []
    for file in output_files:
        if _wanted(file, succeeded=succeeded):
            try:
                _upload(file, working_directory, environment or {}, limits or Limits())
            except TransferFailed as failure:
                failures.append(failure)
    if failures:
        raise failures[0]


def public_url(url: str) -> str:
    """The URL without what may be secret in it: query, fragment, user and password."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


# Resource files from a URL


def _download(url: str, target: BinaryIO, source: Mapping[str, str], limits: Limits) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise TransferFailed(
            "BlobDownloadMiscError", "the URL is neither http nor https", source, category="usererror"
        )
    delays = iter(limits.retry_delays)
    while True:
        try:
            return _fetch(url, target, source, limits)
        except (OSError, ValueError, http.client.HTTPException) as error:
            delay = next(delays, None) if _is_passing(error) else None
            if delay is None:
                raise _download_failure(error, source) from None  # its text may hold the whole URL
            limits.sleep(delay)


def _fetch(url: str, target: BinaryIO, source: Mapping[str, str], limits: Limits) -> None:
    request = urllib.request.Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"))
    with _opener(url).open(request, timeout=limits.timeout) as response:
        target.seek(0)
        target.truncate()
        _copy(iter(lambda: response.read(CHUNK), b""), target, source, limits)
        if response.length:  # what is still missing of the announced length
            raise http.client.IncompleteRead(b"", response.length)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Speaks HTTP only, after redirects, too: a resource file must not be a way to read the node's own files."""
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


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _is_passing(error: Exception) -> bool:
    """Whether another try may help. A full disk or a bad URL does not pass."""
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
        return TransferFailed(
            codes.get(error.code, "BlobDownloadMiscError"), f"HTTP status {error.code}", details
        )
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return TransferFailed("BlobDownloadTimedOut", "no answer within the time limit", source)
    if isinstance(cause, OSError) and cause.strerror:
        return TransferFailed("BlobDownloadMiscError", cause.strerror, source)
    if isinstance(cause, http.client.IncompleteRead):
        return TransferFailed("BlobDownloadMiscError", "the connection ended before the file did", source)
    return TransferFailed("BlobDownloadMiscError", type(cause).__name__, source)


# Resource files from a container


def _download_container(file: Mapping[str, Any], working_directory: Path, limits: Limits) -> None:
    url, prefix = file["storageContainerUrl"], file.get("blobPrefix")
    source = {"BlobSource": public_url(url)}
    with _storage_errors("ResourceContainerAccessDenied", "BlobNotFound", "BlobDownloadMiscError", source):
        container = _container(url, limits)
        for name in container.list_blob_names(name_starts_with=prefix):
            if name.endswith("/"):  # the marker of an empty directory
                continue
            path = "/".join(filter(None, (file.get("filePath", "").rstrip("/"), name)))
            blob_source = {"BlobSource": f"{public_url(url)}/{name}", "FilePath": path}
            with _file_to_be(working_directory, file, path, blob_source) as target:
                _copy(container.download_blob(name).chunks(), target, blob_source, limits)


def _container(url: str, limits: Limits) -> ContainerClient:
    from azure.core.pipeline.transport import RequestsTransport  # takes half a second to import
    from azure.storage.blob import ContainerClient, ExponentialRetry

    first = limits.retry_delays[0] if limits.retry_delays else 0
    return ContainerClient.from_container_url(
        url,
        transport=RequestsTransport(
            use_env_settings=not is_loopback(url)
        ),  # no proxy on the way to this machine
        retry_policy=ExponentialRetry(
            initial_backoff=first,
            increment_base=2,
            retry_total=len(limits.retry_delays),
            random_jitter_range=0,
        ),
        connection_timeout=limits.timeout,
        read_timeout=limits.timeout,
        max_block_size=8 << 20,
    )


@contextmanager
def _storage_errors(denied: str, missing: str, other: str, details: Mapping[str, str]) -> Iterator[None]:
    from azure.core.exceptions import AzureError, HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        code = {401: denied, 403: denied, 404: missing}.get(error.status_code or 0, other)
        more = {**details, "HttpStatusCode": str(error.status_code)}
        reason = str(getattr(error, "error_code", None) or error.reason or f"HTTP status {error.status_code}")
        raise TransferFailed(code, reason, more) from None
    except (AzureError, ValueError) as error:  # its text may hold the whole URL
        raise TransferFailed(other, type(error).__name__, details) from None


# Files on the node


@contextmanager
def _file_to_be(
    working_directory: Path, file: Mapping[str, Any], path: str, source: Mapping[str, str]
) -> Iterator[BinaryIO]:
    """A new file that gets its name, and its mode, once it is complete."""
    try:
        final = resolve_inside(working_directory, path)
        mode = int(file.get("fileMode") or DEFAULT_FILE_MODE, 8) & 0o777
    except (PathEscapes, ValueError) as error:
        raise TransferFailed("ResourceFileCreateFailed", str(error), source, category="usererror") from error
    with _node_errors("ResourceDirectoryCreateFailed", source):
        final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.parent / f".{uuid.uuid4().hex}.part"
    try:
        with _node_errors("ResourceFileCreateFailed", source):
            target = open(partial, "xb")  # noqa: SIM115 (closed below, with the errors of closing told apart)
        with target:
            yield target
            with _node_errors("ResourceFileWriteFailed", source):
                target.flush()
        with _node_errors("ResourceFileCreateFailed", source):
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
        with _node_errors("ResourceFileWriteFailed", source):
            target.write(chunk)


@contextmanager
def _node_errors(code: str, source: Mapping[str, str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise TransferFailed("DiskFull" if full else code, error.strerror or str(error), source) from error


# Output files


def _wanted(file: Mapping[str, Any], *, succeeded: bool) -> bool:
    condition = file.get("uploadOptions", {}).get("uploadCondition", "taskcompletion").lower()
    return condition in ("taskcompletion", "tasksuccess" if succeeded else "taskfailure")


def _upload(
    file: Mapping[str, Any], working_directory: Path, environment: Mapping[str, str], limits: Limits
) -> None:
    destination = file["destination"]["container"]
    pattern = expand_variables(file["filePattern"], environment)
    details = {"FilePattern": pattern, "Destination": public_url(destination["containerUrl"])}
    try:
        found = matches(pattern, working_directory)
        settings = _upload_settings(destination.get("uploadHeaders", []))
    except ValueError as error:
        raise TransferFailed("FileUploadMiscError", str(error), details, category="usererror") from error
    if not found and not is_wild(pattern):
        # Azure does not document this case. A named file that is missing is an output the task owes; a wildcard
        # that finds nothing is an answer.
        reason = "there is no such file in the task's directory"
        raise TransferFailed("FileUploadMiscError", reason, details, category="usererror")
    with _storage_errors(
        "FileUploadAccessDenied", "FileUploadContainerNotFound", "FileUploadMiscError", details
    ):
        container = _container(destination["containerUrl"], limits) if found else None
        for match in found:
            assert container is not None
            _upload_file(
                container, match, _blob_name(match, pattern, destination.get("path")), settings, details
            )


def _blob_name(match: Match, pattern: str, path: str | None) -> str:
    """`path` is the blob's name, or with a wildcard in the pattern, the virtual directory of the blobs."""
    if is_wild(pattern):
        return f"{path.rstrip('/')}/{match.name}" if path else match.name
    return path or match.name


def _upload_settings(headers: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The SDK's arguments for an output file's uploadHeaders; ValueError for what Put Blob does not take."""
    from azure.storage.blob import ContentSettings

    content: dict[str, str] = {}
    metadata: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for header in headers:
        name, value = header["name"].lower(), header.get("value", "")
        if name in CONTENT_HEADERS:
            content[CONTENT_HEADERS[name]] = value
        elif name.startswith("x-ms-meta-"):
            metadata[header["name"][len("x-ms-meta-") :]] = value
        elif name == "x-ms-access-tier":
            settings["standard_blob_tier"] = value
        else:
            raise ValueError(f"the upload header {header['name']!r} is not one that an output file may set")
    return {**settings, "content_settings": ContentSettings(**content), "metadata": metadata}


def _upload_file(
    container: ContainerClient,
    match: Match,
    blob: str,
    settings: Mapping[str, Any],
    details: Mapping[str, str],
) -> None:
    with _node_errors("FileUploadMiscError", {**details, "FilePath": match.path.name}):
        descriptor = os.open(match.path, os.O_RDONLY | os.O_NOFOLLOW)  # no link when it was found
    with open(descriptor, "rb") as file:
        container.upload_blob(blob, file, length=os.fstat(descriptor).st_size, overwrite=True, **settings)
