"""Finds the files of tasks and nodes, none of them outside of its root."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.paths import PathEscapes, confine, resolve_inside
from local_azure.batch.state.store import Document
from local_azure.batch.state.wire import LAST, timestamp


@dataclass(frozen=True, kw_only=True)
class Root:
    """A directory whose files are served, with its URL."""

    directory: Path
    url: str


def find(root: Root, name: str) -> Path:
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
def accessible(name: str) -> Iterator[None]:
    """Report a file that was just removed, or is not readable, as not found."""
    try:
        yield
    except OSError as error:
        raise BatchError(Code.FileNotFound, f"{name!r}: {error.strerror}.") from error


def properties_of(status: os.stat_result, name: str) -> Document:
    return {
        "creationTime": timestamp(moment(status.st_ctime)),
        "lastModified": timestamp(moment(status.st_mtime)),
        "contentLength": str(status.st_size),
        "contentType": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "fileMode": f"0o{status.st_mode:o}",
    }


def moment(seconds: float) -> datetime:
    """The time, or the nearest that can be written: a task may set any time."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return LAST if seconds > 0 else datetime.min.replace(tzinfo=timezone.utc)


def paths_below(directory: Path, recursive: bool) -> Iterator[str]:
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
