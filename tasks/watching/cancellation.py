"""Cancel in the Prefect UI, as a run learns of it that no worker has started: by asking."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)

from tasks.errors import Cancelled

_EVERY = timedelta(seconds=10)
_REQUEST = 5.0  # seconds for one of those requests
_CANCELLED = (StateType.CANCELLING, StateType.CANCELLED)


class Cancellation:
    """Looks now and then whether somebody has cancelled the present flow run.

    A worker and `serve` end the process of a run that is cancelled. One that was started in a terminal only has another
    state then, and would go on, and bill.
    """

    def __init__(self) -> None:
        self._asks = get_current_settings().api.url is not None  # else the server ends with the run
        self._next: datetime | None = None

    def check(self, now: datetime) -> None:
        """Raises Cancelled where somebody has; a server that does not answer has not."""
        if not self._asks or (self._next is not None and now < self._next):
            return
        self._next = now + _EVERY
        present = _read()
        if present is None:
            return
        self._asks = present.deployment_id is None
        if self._asks and present.state_type in _CANCELLED:
            raise Cancelled("the flow run was cancelled in the Prefect UI")


def _read() -> FlowRun | None:
    quick = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: _REQUEST}
    try:
        with temporary_settings(quick), get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run.id)
    except Exception:
        return None
