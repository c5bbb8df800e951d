"""Flow runs without heartbeat: which are lost, and which live.

To a server that was away itself every run looks lost when it is back. The sweep and the run agree as follows:

1. For GRACE the sweep deletes nothing, and nothing at all once a heartbeat was received, the run has given its sign of
   life in Azure, or its state has changed. Then it declares the run Crashed, if the server has not done so.
2. It notes on the flow run, as a label, for which state it deletes; it deletes if the state is still that one.
3. The run takes its state back, and then stops if there is such a label.

Each writes before it reads what the other writes, so no run goes on while a sweep deletes what it created.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Cancelled, Crashed, Running

HEARTBEAT = "prefect.flow-run.heartbeat"
NO_HEARTBEAT = "no heartbeat for "  # begins the message of such a state; prefect.yaml has it too
# Eight heartbeats of prefect.toml. More than Prefect's default of 180 seconds between two, for runs that are started
# elsewhere; less than half of the ten minutes in which nothing may be left of a lost run.
SILENCE = timedelta(minutes=4)
MESSAGE = NO_HEARTBEAT + "{minutes:g} minutes: the process, the worker or the machine of this run is lost"
GRACE = 90.0  # seconds: three heartbeats of prefect.toml, of a run that has first to connect again
_LABEL = "azure-batch.swept"  # of the flow run; its value is the id of the state
_INTERVAL = 3.0  # seconds between two looks of the sweep
_CLOCKS = timedelta(hours=1)  # by which those of two machines may differ
# A process sends heartbeats in them, or is about to be started. One that waits for an answer is Paused.
ALIVE = (StateType.RUNNING, StateType.CANCELLING, StateType.PENDING)


def is_silent(state: State | None) -> bool:
    """Whether it is the state of a run that the server has declared Crashed for lack of heartbeats."""
    return state is not None and state.type is StateType.CRASHED and (state.message or "").startswith(NO_HEARTBEAT)


def is_swept(flow_run: FlowRun, state: State) -> bool:
    """Whether a sweep deletes what the run created, because of this state."""
    return flow_run.labels.get(_LABEL) == str(state.id)


def is_missing(client: SyncPrefectClient, flow_run: FlowRun, now: datetime) -> bool:
    """Whether the server takes it for alive, but it will have been silent for too long after the time for a sign."""
    state = flow_run.state
    if state is None or not (state.type in ALIVE or state.name == "Paused"):
        return False
    since = now + timedelta(seconds=GRACE) - SILENCE
    return state.timestamp < since and _last_sign(client, flow_run.id, state) < since


def state_if_lost(
    client: SyncPrefectClient, flow_run: FlowRun, sign: Callable[[], str | None], grace: float
) -> State | None:
    """The state with which the server, or else this, has declared a run lost; None if it lives. Waits before.

    Args:
        client: Of the Prefect server.
        flow_run: As it was just read: silent or missing.
        sign: Reads its sign of life in Azure.
        grace: Seconds in which it has time for a sign of life.
    """
    state = flow_run.state
    assert state is not None
    if is_swept(flow_run, state):
        return state
    heard = state.timestamp if is_silent(state) else _last_sign(client, flow_run.id, state)
    seen = sign()
    end = time.monotonic() + grace
    while True:
        last = time.monotonic() >= end
        present = client.read_flow_run(flow_run.id).state
        # No sign of life: the server declares it Crashed meanwhile, or another sweep has deleted the blob.
        alive = present is None or (present.id != state.id and not is_silent(present))
        if alive or _last_sign(client, flow_run.id, state) > heard or sign() not in (seen, None):
            return None
        if last:
            assert present is not None
            return present if present.is_final() else _declare(client, flow_run.id, present)
        time.sleep(min(_INTERVAL, grace))


def claim(client: SyncPrefectClient, flow_run: FlowRun, state: State) -> bool:
    """Whether a sweep may delete what this run created, which is lost according to that state."""
    if is_swept(flow_run, state):
        return True
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


def _declare(client: SyncPrefectClient, flow_run_id: UUID, state: State) -> State | None:
    """Its new state; None where it has ended, or somebody has changed it, at this moment."""
    ended = Cancelled if state.type is StateType.CANCELLING else Crashed  # the server takes nothing else
    message = MESSAGE.format(minutes=SILENCE.total_seconds() / 60)
    client.set_flow_run_state(flow_run_id, ended(message=message))
    present = client.read_flow_run(flow_run_id).state
    return present if present and (present.message or "") == message else None


def _last_sign(client: SyncPrefectClient, flow_run_id: UUID, state: State) -> datetime:
    """When the server received its last heartbeat, also one that was sent late; else since when it has its state."""
    events = client.read_events(
        EventFilter(
            event=EventNameFilter(name=[HEARTBEAT]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{flow_run_id}"]),
            occurred=EventOccurredFilter.model_validate(
                {"since": state.timestamp - _CLOCKS, "until": datetime.now(timezone.utc) + _CLOCKS}
            ),
        ),
        limit=1,  # the newest
    ).events
    return max([state.timestamp, *(event.received for event in events)])
