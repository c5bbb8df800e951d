"""Operations on the files of tasks and nodes."""

from __future__ import annotations

import mimetypes
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from local_azure.batch.engine.service import Service
from local_azure.batch.rest.call import Call, Listing, Response, require_conditions
from local_azure.batch.rest.odata import Kind
from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.paths import PathEscapes, as_text, confine, remove_tree, resolve_inside
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import LAST, http_date, next_etag, timestamp

CHUNK = 1 << 16  # bytes per read


@dataclass(frozen=True, kw_only=True)
class Root:
    """A directory whose files are served, with its URL."""

    directory: Path
    url: str


def _task_root(service: Service, call: Call) -> Root:
    job = service.job(call.ids["jobId"])
    task = service.task(job.id, call.ids["taskId"])
    info = task.document.get("nodeInfo")
    if info is None:
        raise BatchError(Code.TaskFilesUnavailable)
    if task.private.get("cleaned"):
        raise BatchError(Code.TaskFilesCleanedup)
    if service.store.nodes.get(info["poolId"].lower(), info["nodeId"].lower()) is None:
        raise BatchError(Code.NodeNotFound)
    root = service.node_directory(info["poolId"].lower(), info["nodeId"].lower())
    url = call.url("jobs", job.document["id"], "tasks", task.document["id"], "files")
    return Root(directory=root / info["taskRootDirectory"], url=url)


def _node_root(service: Service, call: Call) -> Root:
    pool = service.pool(call.ids["poolId"])
    node = service.node(pool.id, call.ids["nodeId"])
    url = call.url("pools", pool.document["id"], "nodes", node.document["id"], "files")
    return Root(directory=service.node_directory(*node.keys), url=url)


def _find(root: Root, name: str) -> Path:
    """The path of a file; raises FileNotFound for names outside of the root, however they are written."""
    try:
        paths = [resolve_inside(root.directory, as_named.strip("/")) for as_named in (name, _unescaped(name))]
    except PathEscapes as error:
        raise BatchError(Code.FileNotFound, str(error)) from error
    for path in paths:
        if os.path.exists(path):
            return path
    raise BatchError(Code.FileNotFound)


def _unescaped(name: str) -> str:
    """The inverse of as_text(), so that every listed file is found by its name."""
    return os.fsdecode(re.sub(rb"\\x([89a-f][0-9a-f])", lambda match: bytes.fromhex(match[1].decode()), name.encode()))


@contextmanager
def _accessible(name: str) -> Iterator[None]:
    """Report a file that was just removed, or is not readable, as not found."""
    try:
        yield
    except OSError as error:
        raise BatchError(Code.FileNotFound, f"{name!r}: {error.strerror}.") from error


def _properties(status: os.stat_result, name: str) -> Document:
    return {
        "creationTime": timestamp(_moment(status.st_ctime)),
        "lastModified": timestamp(_moment(status.st_mtime)),
        "contentLength": str(status.st_size),
        "contentType": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "fileMode": f"0o{status.st_mode:o}",
    }


def _moment(seconds: float) -> datetime:
    """The time, or the nearest that can be written: a task may set any time."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return LAST if seconds > 0 else datetime.min.replace(tzinfo=timezone.utc)


# Listing


def list_task_files(service: Service, call: Call) -> Response:
    return _list(call, _task_root(service, call))


def list_node_files(service: Service, call: Call) -> Response:
    return _list(call, _node_root(service, call))


def _list(call: Call, root: Root) -> Response:
    recursive = call.query.get("recursive", "false").lower() == "true"
    paths = {as_text(path): path for path in _paths(root.directory, recursive)}
    listing = Listing(
        kind="files", filterable={"name": Kind.TEXT}, show=lambda row: _entry(root, row.id, paths[row.id])
    )
    names = sorted(paths)
    return listing.respond(call, lambda after: (Row(keys=(name,), document={}) for name in names if name > after))


def _paths(directory: Path, recursive: bool) -> Iterator[str]:
    """The paths of all files below the directory; iterative, as directories may be nested deeply."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            entries = list(os.scandir(directory / prefix))
        except OSError:  # it was just removed, or is not readable
            continue
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.is_symlink() and not _leads_inside(directory, path):
                continue
            yield path
            # Links to directories are listed but not followed: they may form a cycle.
            if recursive and entry.is_dir(follow_symlinks=False):
                pending.append(path + "/")


def _leads_inside(directory: Path, name: str) -> bool:
    try:
        return os.path.exists(confine(directory, directory / name))
    except PathEscapes:
        return False


def _entry(root: Root, name: str, path: str) -> Document:
    url = f"{root.url}/{quote(name)}"
    try:
        status = (root.directory / path).stat()
    except OSError:  # it was just removed
        return {"name": name, "url": url, "isDirectory": False}
    if stat.S_ISDIR(status.st_mode):
        return {"name": name, "url": url, "isDirectory": True}
    return {"name": name, "url": url, "isDirectory": False, "properties": _properties(status, name)}


# Reading


def get_task_file_properties(service: Service, call: Call) -> Response:
    return _head(call, _task_root(service, call))


def get_node_file_properties(service: Service, call: Call) -> Response:
    return _head(call, _node_root(service, call))


def _head(call: Call, root: Root) -> Response:
    name = call.ids["filePath"]
    path = _find(root, name)
    with _accessible(name):
        status = path.stat()
    _check_modified(call, status)
    headers = _file_headers(root, name, status)
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return Response(headers={**headers, "Content-Length": str(size)})


def download_task_file(service: Service, call: Call) -> Response:
    return _download(call, _task_root(service, call))


def download_node_file(service: Service, call: Call) -> Response:
    return _download(call, _node_root(service, call))


def _download(call: Call, root: Root) -> Response:
    name = call.ids["filePath"]
    path = _find(root, name)
    if os.path.isdir(path):
        raise BatchError(Code.InvalidInput, f"{name!r} is a directory.")
    with _accessible(name):
        # The path has no links; O_NOFOLLOW refuses one that was just put in its place.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BatchError(Code.FileNotFound, f"{name!r} is not a regular file.")
        _check_modified(call, status)
        wanted = call.headers.get("ocp-range") or call.headers.get("range")
        first, length = _range(wanted, status.st_size) if wanted else (0, status.st_size)
    except BaseException:
        os.close(descriptor)
        raise
    headers = {**_file_headers(root, name, status), "Content-Length": str(length)}
    if wanted:
        headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{status.st_size}"
    # Batch returns 200 for a range, too; its clients treat 206 as an error.
    return Response(headers=headers, stream=_read(descriptor, first, length))


async def _read(descriptor: int, first: int, length: int) -> AsyncIterator[bytes]:
    """Read exactly the announced range, even if the file grows."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(first)
        while length > 0 and (chunk := file.read(min(CHUNK, length))):
            length -= len(chunk)
            yield chunk


def _range(text: str, size: int) -> tuple[int, int]:
    """The first byte and the length of `bytes=a-b`, `bytes=a-` or `bytes=-n`."""
    unit, _, span = text.partition("=")
    start, dash, end = span.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or not re.fullmatch(r"[0-9]{1,40}", start + end):
        raise BatchError(Code.InvalidHeaderValue, HeaderName="ocp-range", HeaderValue=text)
    first = int(start) if start else max(0, size - int(end))
    last = min(int(end), size - 1) if start and end else size - 1
    if first > last:
        raise BatchError(Code.InvalidRange, f"The file has {size} bytes.")
    return first, last - first + 1


def _file_headers(root: Root, name: str, status: os.stat_result) -> dict[str, str]:
    properties = _properties(status, name)
    modified = _moment(status.st_mtime)
    return {
        "Content-Type": properties["contentType"],
        "ETag": next_etag(None, modified),
        "Last-Modified": http_date(modified),
        "ocp-batch-file-url": quote(f"{root.url}/{quote(name.strip('/'))}", safe=""),
        "ocp-batch-file-isdirectory": str(stat.S_ISDIR(status.st_mode)),
        "ocp-batch-file-mode": properties["fileMode"],
        "ocp-creation-time": http_date(_moment(status.st_ctime)),
    }


def _check_modified(call: Call, status: os.stat_result) -> None:
    modified = _moment(status.st_mtime)
    require_conditions(call, {"eTag": next_etag(None, modified), "lastModified": timestamp(modified)})


# Deleting


def delete_task_file(service: Service, call: Call) -> Response:
    return _delete(call, _task_root(service, call))


def delete_node_file(service: Service, call: Call) -> Response:
    return _delete(call, _node_root(service, call))


def _delete(call: Call, root: Root) -> Response:
    path = _find(root, call.ids["filePath"])
    recursive = call.query.get("recursive", "false").lower() == "true"
    if path == root.directory.resolve():
        raise BatchError(Code.InvalidInput, "The directory itself cannot be deleted.")
    try:
        if not path.is_dir():
            path.unlink()
            return Response(status=200)
        if recursive:
            remove_tree(path)
        if path.exists():
            path.rmdir()
    except OSError as error:
        raise BatchError(Code.OperationInvalidForCurrentState, f"{error.strerror}.") from error
    return Response(status=200)
