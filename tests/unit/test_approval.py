"""What is asked before the clean-up, and how long a Prefect server that is busy is asked again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import httpx
import pytest

from tasks.approval import Question, asked_again, form_of

HALF_AN_HOUR = timedelta(minutes=30)
WHY = "2 of 3 files without output (0 allowed): harbour.txt exited non-zero, exit code 3"


def question(failure: str = "") -> Question:
    return Question(
        things=("job", "pool"),
        summary="1 of 3 files have been counted; the summary is in results/x.",
        failure=failure,
        pool_cost="The pool costs $0.19 an hour while you decide.",
        limit=HALF_AN_HOUR,
        ends=datetime(2026, 11, 22, 10, 2, tzinfo=timezone.utc),
    )


OTHERS = [
    "1 of 3 files have been counted; the summary is in results/x.",
    "The pool costs $0.19 an hour while you decide.",
    "Without an answer by 10:02 UTC (after 30 minutes) the job and pool are deleted.",
]


def test_a_failed_run_says_first_why_it_failed() -> None:
    assert question(WHY).says() == [f"The run failed: {WHY}", *OTHERS]
    assert form_of(question(WHY))._description == "\n\n".join([f"**The run failed: {WHY}**", *OTHERS])


def test_a_run_that_completes_says_first_what_it_found() -> None:
    assert question().says() == OTHERS


class Server:
    """Answers like that, one after the other; its clock goes on while somebody waits."""

    def __init__(self, *answers: Exception | str) -> None:
        self._answers: Iterator[Exception | str] = iter(answers)
        self.asked = 0
        self.slept: list[float] = []

    def answer(self) -> str:
        self.asked += 1
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ask(self, seconds: float = 60) -> str:
        return asked_again(self.answer, seconds=seconds, sleep=self.slept.append, clock=lambda: sum(self.slept))


def status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1:4200/api/flow_runs/c0de/set_state")
    return httpx.HTTPStatusError(f"{code}", request=request, response=httpx.Response(code, request=request))


@pytest.mark.parametrize(
    "trouble",
    [status(503), status(500), status(429), status(408), httpx.ReadTimeout("slow"), httpx.ConnectError("away")],
    ids=str,
)
def test_a_server_that_is_busy_for_a_moment_is_asked_again(trouble: Exception) -> None:
    server = Server(trouble, trouble, "paused")
    assert server.ask() == "paused"
    assert server.slept == [1, 2]


def test_a_server_that_stays_away_is_given_up_after_a_minute() -> None:
    server = Server(*[status(503)] * 100)
    with pytest.raises(httpx.HTTPStatusError):
        server.ask()
    assert server.slept == [1, 2, 4, 8, 8, 8, 8, 8, 8]


def test_what_a_server_refuses_is_asked_once() -> None:
    server = Server(status(403), "paused")
    with pytest.raises(httpx.HTTPStatusError):
        server.ask()
    assert (server.asked, server.slept) == (1, [])
