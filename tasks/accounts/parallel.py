"""Work in threads: on many things inside one step, and within a limit of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

AT_A_TIME = 8  # requests in flight; more gains nothing on one connection pool

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    meanwhile: Callable[[], None] | None = None,
    every: float = 20.0,
    at_a_time: int = AT_A_TIME,
) -> list[R]:
    """The work done on each item, several at a time; the first error ends it, once what is under way has ended.

    A signal waits for nothing: of a run that is cancelled only seconds are left, in which it has to delete.
    `meanwhile` is called at this interval, in seconds.
    """
    pool = ThreadPoolExecutor(at_a_time)
    wait = False
    try:
        futures = [pool.submit(work, item) for item in items]
        while meanwhile and (state := wait_for(futures, every, FIRST_EXCEPTION)).not_done:
            if any(future.exception() for future in state.done):
                break
            meanwhile()
        return [future.result() for future in futures]
    except Exception:
        wait = True
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)  # after the last result there is nothing left to wait for


def within(seconds: float, act: Callable[[], None]) -> bool:
    """Whether the act was done in that time; if not it goes on, but does not keep the process from ending."""
    thread = Thread(target=copy_context().run, args=(act,), daemon=True)  # Prefect's loggers need the context
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
