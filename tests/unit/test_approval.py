"""What is asked before the clean-up, and how long a Prefect server that is busy is asked again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAcceptDetails
from prefect.input import RunInput
from prefect.states import Running

from tasks.approval import Question, _Pause, asked_again, form_of

HALF_AN_HOUR = timedelta(minutes=30)
WHY = "2 of 3 files without output (0 allowed): harbour.txt exited non-zero, exit code 3"


def question(failure: str = "") -> Question:
    return Question(
        things=("job", "pool"),
        summary="1 of 3 files have succeeded; the results are in results/x.",
        failure=failure,
        pool_cost="The pool costs $0.19 an hour while you decide.",
        limit=HALF_AN_HOUR,
        ends=datetime(2026, 11, 22, 10, 2, tzinfo=timezone.utc),
    )


OTHERS = [
    "1 of 3 files have succeeded; the results are in results/x.",
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


class LosesAnAnswer:
    """Stands for a Prefect server that pauses the run, and whose answer comes too late."""

    def __init__(self, *, arrives: bool) -> None:
        self.states: list[State[Any]] = [Running()]
        self.asked = 0
        self._arrives = arrives

    def set_flow_run_state(self, flow_run_id: UUID, state: State[Any]) -> OrchestrationResult[Any]:
        self.asked += 1
        if self.asked == 1 and not self._arrives:
            raise httpx.ConnectTimeout("busy")
        self.states.append(state)
        if self.asked == 1:
            self.states.append(Running())  # somebody has answered the question already
            raise httpx.ReadTimeout("busy")
        return OrchestrationResult(state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails())

    def read_flow_run_states(self, flow_run_id: UUID) -> list[State[Any]]:
        return self.states


@pytest.mark.parametrize("arrives", [True, False], ids=["arrived", "lost on the way"])
def test_a_pause_whose_answer_is_lost_is_made_once(arrives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid4()))
    monkeypatch.setattr(RunInput, "save", lambda keys: None)
    server = LosesAnAnswer(arrives=arrives)
    pause = _Pause(question(), cast(SyncPrefectClient, server))
    asked_again(pause.begin, sleep=lambda seconds: None)
    assert sum(state.is_paused() for state in server.states) == 1
    assert server.asked == (1 if arrives else 2)
