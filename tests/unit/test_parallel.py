"""Work on many things at once ends with its first error, and waits for nothing then."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from tasks.accounts.parallel import in_parallel
from tests.support.polling import LIMIT


def test_results_come_in_the_order_of_the_items() -> None:
    assert in_parallel(lambda number: number * number, range(100)) == [number * number for number in range(100)]


class Works:
    """Work on a thousand things, the first of which ends with an error, and the others when they are let go."""

    def __init__(self, error: type[BaseException]) -> None:
        self.begun, self.free = threading.Event(), threading.Event()
        self.under_way: set[int] = set()
        self.done: list[int] = []
        self._error = error
        self._ended: Future[None] = Future()
        threading.Thread(target=self._run, daemon=True).start()

    def _work(self, number: int) -> None:
        if number == 0:
            raise self._error("enough")
        self.under_way.add(number)
        self.begun.set()
        self.free.wait(LIMIT)
        self.done.append(number)
        self.under_way.remove(number)

    def _run(self) -> None:
        try:
            in_parallel(self._work, range(1000))
        except BaseException as raised:
            self._ended.set_exception(raised)

    def ended_with(self) -> BaseException | None:
        return self._ended.exception(timeout=LIMIT)


def test_a_signal_waits_for_nothing() -> None:
    works = Works(KeyboardInterrupt)
    assert isinstance(works.ended_with(), KeyboardInterrupt)
    assert works.done == []
    works.free.set()


def test_an_error_waits_for_what_is_under_way() -> None:
    works = Works(ValueError)
    assert works.begun.wait(LIMIT)
    works.free.set()
    assert isinstance(works.ended_with(), ValueError)
    assert works.under_way == set()


def test_meanwhile_is_called_until_all_is_done() -> None:
    calls: list[int] = []
    enough = threading.Event()

    def count() -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            enough.set()

    assert in_parallel(lambda _: enough.wait(LIMIT), [0, 1], meanwhile=count, every=0.01) == [True, True]
    assert len(calls) >= 3


def test_an_error_ends_what_is_called_meanwhile() -> None:
    calls: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise ValueError("enough")
        threading.Event().wait(0.1)

    with pytest.raises(ValueError, match="enough"):
        in_parallel(work, [0, 1], meanwhile=lambda: calls.append(1), every=30)
    assert calls == []
