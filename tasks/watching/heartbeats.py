"""Flow runs that the Prefect server declares Crashed for lack of heartbeats: which are lost, and which live.

To a server that was away itself every run looks lost when it is back. The sweep and the run agree as follows:

1. For GRACE the sweep deletes nothing, and nothing at all once a heartbeat was received or the state has changed.
2. Then it notes on the flow run, as a label, for which state it deletes; it deletes if the state is still that one.
3. The run takes its state back, and then stops if there is such a label.

Each writes before it reads what the other writes, so no run goes on while a sweep deletes what it created.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Running

HEARTBEAT = "prefect.flow-run.heartbeat"
NO_HEARTBEAT = "no heartbeat for "  # begins the message of such a state; prefect.yaml has it too
GRACE = 90.0  # seconds: three heartbeats of prefect.toml, of a run that has first to connect again
_LABEL = "azure-batch.swept"  # of the flow run; its value is the id of the state
_INTERVAL = 3.0  # seconds between two looks of the sweep
_CLOCKS = timedelta(hours=1)  # by which those of two machines may differ


def is_silent(state: State | None) -> bool:
    """Whether it is the state of a run that the server has declared Crashed for lack of heartbeats."""
    return state is not None and state.type is StateType.CRASHED and (state.message or "").startswith(NO_HEARTBEAT)


def is_swept(flow_run: FlowRun, state: State) -> bool:
    """Whether a sweep deletes what the run created, because of this state."""
    return flow_run.labels.get(_LABEL) == str(state.id)


def claim(client: SyncPrefectClient, flow_run: FlowRun, grace: float = GRACE) -> bool:
    """Whether a sweep may delete what this run created, whose state is silent; waits for a sign of life before.

    Args:
        client: Of the Prefect server.
        flow_run: As it was just read.
        grace: Seconds.
    """
    state = flow_run.state
    assert state is not None
    if is_swept(flow_run, state):
        return True
    end = time.monotonic() + grace
    while True:
        last = time.monotonic() >= end
        if _changed(client, flow_run.id, state) or _heartbeat_since(client, flow_run.id, state.timestamp):
            return False
        if last:
            break
        time.sleep(min(_INTERVAL, grace))
    client.update_flow_run_labels(flow_run.id, {_LABEL: str(state.id)})
    return not _changed(client, flow_run.id, state)


def take_back(client: SyncPrefectClient, flow_run: FlowRun) -> bool:
    """Make this run, which lives, Running again on the server; False where a sweep deletes what it created."""
    state = flow_run.state
    assert state is not None
    if is_swept(flow_run, state):
        return False
    # Not forced: the server refuses it where somebody cancels the run at this moment.
    client.set_flow_run_state(flow_run.id, Running(message=f"sends heartbeats again; it was Crashed: {state.message}"))
    return not is_swept(client.read_flow_run(flow_run.id), state)


def _changed(client: SyncPrefectClient, flow_run_id: UUID, state: State) -> bool:
    present = client.read_flow_run(flow_run_id).state
    return present is None or present.id != state.id


def _heartbeat_since(client: SyncPrefectClient, flow_run_id: UUID, moment: datetime) -> bool:
    """Whether the server has received a heartbeat since then, by its own clock; also one that was sent late."""
    events = client.read_events(
        EventFilter(
            event=EventNameFilter(name=[HEARTBEAT]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{flow_run_id}"]),
            occurred=EventOccurredFilter.model_validate(
                {"since": moment - _CLOCKS, "until": datetime.now(timezone.utc) + _CLOCKS}
            ),
        ),
        limit=1,  # the newest
    ).events
    return any(event.received > moment for event in events)
