"""Asks the Prefect server what it takes the run for: cancelled in a terminal, or Crashed for lack of heartbeats."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect.client.schemas.objects import FlowRun, StateType
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from tasks.errors import Cancelled, DeclaredCrashed
from tasks.reporting.prefect_api import prefect_client
from tasks.watching.heartbeats import is_silent, is_swept, take_back

_SHORTEST, _LONGEST = timedelta(seconds=10), timedelta(minutes=1)  # between two requests
_REQUEST = 5.0  # seconds for one of those requests
_CANCELLED = (StateType.CANCELLING, StateType.CANCELLED)


class Cancellation:
    """Checks what became of this flow run's state: after a tenth of the time so far, 10 to 60 seconds.

    A worker and `serve` end the process of a run that is cancelled. A run in a terminal only gets another state, and
    would otherwise go on and bill. One that the server has declared Crashed for lack of heartbeats, because the server
    was away, or the run's machine asleep or cut off, takes its state back, unless a sweep deletes what it created.
    """

    def __init__(self) -> None:
        self._first: datetime | None = None
        self._next: datetime | None = None

    def check(self, now: datetime) -> None:
        """Raises Cancelled or DeclaredCrashed. Continues if the server does not respond."""
        if self._next is not None and now < self._next:
            return
        self._first = self._first or now
        self._next = now + min(_LONGEST, max(_SHORTEST, (now - self._first) / 10))
        present = _read()
        if present is None:
            return
        if present.deployment_id is None and present.state_type in _CANCELLED:
            raise Cancelled("the flow run was cancelled in the Prefect UI")
        if is_silent(present.state):
            _take_back(present)
        elif crashed := _declared_crashed(present):
            raise crashed


def declared_crashed() -> DeclaredCrashed | None:
    """The cause of a failure that may be a consequence: the server takes this run for Crashed, and a sweep deletes."""
    present = _read()
    return _declared_crashed(present) if present else None


def _take_back(present: FlowRun) -> None:
    """Raises DeclaredCrashed if it is too late for that."""
    try:
        with prefect_client(seconds=_REQUEST) as client:
            taken = take_back(client, present)
    except Exception:
        return  # tried again at the next check
    if not taken:
        raise _crashed(present)
    get_run_logger().warning(
        "Flow run %s: the Prefect server had declared it Crashed (%s), but it runs, and is Running again",
        present.id,
        present.state and present.state.message,
    )


def _declared_crashed(present: FlowRun) -> DeclaredCrashed | None:
    state = present.state
    if state is None or state.type is not StateType.CRASHED or (is_silent(state) and not is_swept(present, state)):
        return None
    return _crashed(present)


def _crashed(present: FlowRun) -> DeclaredCrashed:
    reason = (present.state and present.state.message) or "it gives no reason"
    return DeclaredCrashed(
        "the Prefect server declared this flow run Crashed while it was running "
        f"({reason}). The machine was suspended or had no connection, "
        "or the server was away. The sweep then deletes the pool, job and containers of this run, so it has stopped. "
        "Retry it in the UI or with `prefect flow-run retry`"
    )


def _read() -> FlowRun | None:
    if get_current_settings().api.url is None:
        return None  # a temporary server ends with the run
    try:
        with prefect_client(seconds=_REQUEST) as client:
            return client.read_flow_run(flow_run.id)
    except Exception:
        return None
