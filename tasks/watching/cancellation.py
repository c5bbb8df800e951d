"""Polls the Prefect server for the cancellation of a run that no worker has started."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from tasks.errors import Cancelled
from tasks.reporting.prefect_api import prefect_client

_SHORTEST, _LONGEST = timedelta(seconds=10), timedelta(minutes=1)  # between two requests
_REQUEST = 5.0  # seconds for one of those requests
_CANCELLED = (StateType.CANCELLING, StateType.CANCELLED)


class Cancellation:
    """Checks whether this flow run was cancelled: after a tenth of the time so far, 10 to 60 seconds.

    A worker and `serve` end the process of a run that is cancelled. A run in a terminal only gets another state, and
    would otherwise go on and bill.
    """

    def __init__(self) -> None:
        self._polls = get_current_settings().api.url is not None  # else the server ends with the run
        self._first: datetime | None = None
        self._next: datetime | None = None

    def check(self, now: datetime) -> None:
        """Raises Cancelled if the run was cancelled. Continues if the server does not respond."""
        if not self._polls or (self._next is not None and now < self._next):
            return
        self._first = self._first or now
        self._next = now + min(_LONGEST, max(_SHORTEST, (now - self._first) / 10))
        present = _read()
        if present is None:
            return
        self._polls = present.deployment_id is None
        if self._polls and present.state_type in _CANCELLED:
            raise Cancelled("the flow run was cancelled in the Prefect UI")


def _read() -> FlowRun | None:
    try:
        with prefect_client(seconds=_REQUEST) as client:
            return client.read_flow_run(flow_run.id)
    except Exception:
        return None
