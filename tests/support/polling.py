"""Wait for what must come. A generous limit costs nothing when it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

LIMIT = 180.0  # seconds, for machines that are busy with other things

T = TypeVar("T")


def eventually(what: str, found: Callable[[], T | None], limit: float = LIMIT, interval: float = 0.1) -> T:
    """What `found` returns once that is true; fails, naming `what`, after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {limit:g} s"
        time.sleep(interval)
    return value


def wait_until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Return once the condition, which is cheap to ask for, is true."""
    eventually("success of the condition", condition, limit, interval=0.02)
