"""The data directory of a local Azure: the user's, or a temporary one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from local_azure.batch.http.server import DataDirectoryInUse

_PREFIX = "local-azure-"
_LOCK = "lock"


@contextlib.contextmanager
def data_directory(wanted: Path | None) -> Iterator[Path]:
    """Hold the data directory exclusively while the context lasts.

    A temporary directory is removed at exit; those left behind by killed processes are removed first. Raises
    DataDirectoryInUse.
    """
    if wanted is None:
        remove_abandoned(Path(tempfile.gettempdir()))
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as temporary, _in_use(Path(temporary)):
            yield Path(temporary)
        return
    wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(wanted / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600)) as lock:
        if not _locked(lock.fileno()):
            raise DataDirectoryInUse(f"{wanted} is in use by another local Azure: stop it, or give another --data")
        yield wanted.resolve()


def remove_abandoned(folder: Path) -> None:
    """Remove this user's temporary data directories in the folder whose lock is free: their process has ended."""
    for directory in folder.glob(f"{_PREFIX}*"):
        # Another process may remove it first, it may have no lock yet, or be nested too deep for rmtree.
        with contextlib.suppress(OSError, RecursionError):
            if directory.is_symlink() or directory.stat().st_uid != os.getuid():
                continue
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _locked(lock):
                    _make_removable(directory)
                    shutil.rmtree(directory)
            finally:
                os.close(lock)


@contextlib.contextmanager
def _in_use(directory: Path) -> Iterator[None]:
    """Lock the directory. The lock file gets its name once it is locked, so that no other start finds it free."""
    with (directory / f".{_LOCK}").open("w") as lock:
        _locked(lock.fileno())
        (directory / f".{_LOCK}").rename(directory / _LOCK)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_removable(directory: Path) -> None:
    for parent, folders, _ in os.walk(directory):  # from the top: each is made readable before it is read
        for folder in folders:
            if not os.path.islink(path := os.path.join(parent, folder)):
                os.chmod(path, 0o700)
