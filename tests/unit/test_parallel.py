"""Work on many things at once ends with its first error, and waits for nothing then."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from tasks.parallel import in_parallel


def test_results_come_in_the_order_of_the_items() -> None:
    assert in_parallel(lambda number: number * number, range(100)) == [number * number for number in range(100)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_or_a_signal_waits_neither_for_what_is_under_way_nor_for_what_is_queued(
    error: type[BaseException],
) -> None:
    free = threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        if number == 0:
            raise error("enough")
        free.wait(60)
        done.append(number)

    ended: Future[None] = Future()

    def run() -> None:
        try:
            in_parallel(work, range(1000))
        except BaseException as raised:
            ended.set_exception(raised)

    threading.Thread(target=run, daemon=True).start()
    assert isinstance(ended.exception(timeout=30), error)
    assert done == []
    free.set()
