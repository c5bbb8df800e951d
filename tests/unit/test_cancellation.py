"""What a run makes of the state that the Prefect server has for it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled as CancelledState
from prefect.states import Cancelling, Crashed, Failed, Running

import tasks.watching.cancellation
from tasks.errors import Cancelled, DeclaredCrashed
from tasks.watching.cancellation import Cancellation, declared_crashed

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


class Server:
    """It has one flow run, and counts how often that is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.run: FlowRun | None = None
        monkeypatch.setattr(tasks.watching.cancellation, "_read", self._read)

    def becomes(self, state: State[None], *, deployed: bool = False) -> None:
        deployment = uuid4() if deployed else None
        self.run = FlowRun(flow_id=uuid4(), state=state, state_type=state.type, deployment_id=deployment)

    def _read(self) -> FlowRun | None:
        self.asked += 1
        return self.run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def test_a_run_that_runs_goes_on_as_does_one_without_an_answer(server: Server) -> None:
    Cancellation().check(NOON)
    states: list[State[None]] = [Running(), Failed()]
    for state in states:
        server.becomes(state)
        Cancellation().check(NOON)
        assert declared_crashed() is None


@pytest.mark.parametrize("state", [Cancelling(), CancelledState()])
def test_only_a_run_without_a_deployment_ends_itself_when_cancelled(server: Server, state: State[None]) -> None:
    server.becomes(state, deployed=True)
    Cancellation().check(NOON)  # its worker ends it
    server.becomes(state)
    with pytest.raises(Cancelled, match="was cancelled in the Prefect UI"):
        Cancellation().check(NOON)


@pytest.mark.parametrize("deployed", [True, False])
def test_a_run_that_is_declared_crashed_stops_and_says_so(server: Server, deployed: bool) -> None:
    server.becomes(Crashed(message="set by hand"), deployed=deployed)
    with pytest.raises(DeclaredCrashed, match=r"declared this flow run Crashed .*\(set by hand\)"):
        Cancellation().check(NOON)
    assert isinstance(declared_crashed(), DeclaredCrashed)


def test_the_server_is_asked_every_ten_seconds_and_later_less_often(server: Server) -> None:
    server.becomes(Running(), deployed=True)
    cancellation = Cancellation()
    for second in range(100):
        cancellation.check(NOON + timedelta(seconds=second))
    assert server.asked == 10
    for second in range(3600, 4200):
        cancellation.check(NOON + timedelta(seconds=second))
    assert server.asked == 20
