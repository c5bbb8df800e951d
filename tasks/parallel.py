"""Work on many things inside one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_AT_A_TIME = 8  # requests in flight; more gains nothing on one connection pool

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The work done on each item, several at a time; the first error ends it, once what is under way has ended.

    A signal waits for nothing: of a run that is cancelled only seconds are left, in which it has to delete.
    """
    pool = ThreadPoolExecutor(_AT_A_TIME)
    wait = False
    try:
        futures = [pool.submit(work, item) for item in items]
        return [future.result() for future in futures]
    except Exception:
        wait = True
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)  # after the last result there is nothing left to wait for
