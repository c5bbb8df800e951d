"""Lets one process at a time work in a results folder: a run, or a clean-up that saves outputs of the one before."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.run.polling import Polling

_LOOKS = Polling(longest=0.2)


@contextmanager
def working_in(folder: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Whether no other process works in the folder, which this one then does; waits so long for the other to end.

    The lock ends with its process, however that ends. True also where there is no folder, or its file system has no
    such locks.
    """
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield True
        return
    try:
        yield _locked(place, seconds)
    finally:
        os.close(place)


def _locked(place: int, seconds: float) -> bool:
    for waited in _LOOKS.ticks():
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return True
        if waited >= seconds:
            return False
    raise AssertionError("polling does not end")
