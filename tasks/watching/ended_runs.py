"""Which runs have left something behind and have ended, also those that are lost while nobody has noticed.

The automations notice a lost run by its events, which the Prefect server keeps in memory: where the server is stopped,
some are gone, or count 15 minutes later. So this looks at the runs themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.resources.resource import Found
from tasks.resources.sign_of_life import read_sign
from tasks.run.identity import Run
from tasks.run.settings import TimeLimits
from tasks.watching.heartbeats import ALIVE, GRACE, claim, is_missing, is_silent, state_if_lost

_GONE = (StateType.CRASHED, StateType.CANCELLED)  # others have cleaned up themselves, or say what they could not


def ended_runs(
    client: SyncPrefectClient,
    azure: Azure,
    found: Sequence[Found],
    only: UUID | None,
    *,
    flows: Iterable[str],
    deletes: bool,
) -> dict[str, FlowRun]:
    """The runs that have ended, by their ids.

    Args:
        client: Of the Prefect server.
        azure: The accounts.
        found: What there is in them.
        only: The one run that is asked for, in whatever state it has ended; else all that were Crashed or Cancelled.
        flows: The names of those of which runs that have left nothing are looked at, too.
        deletes: Whether what they left is to be deleted now. Only then a run is declared lost.
    """
    left = {each.tags.flow_run: each.tags.workload for each in found}
    runs = list(_runs(client, left, flows, only))
    now = datetime.now(timezone.utc)
    silent = [run for run in runs if _is_silent(run, left) or is_missing(client, run, now)]
    ended = [run for run in runs if run not in silent and _has_ended(run, only)]
    if deletes and silent:
        ended += _lost(client, azure, silent, left)
    elif not deletes:
        ended += [run for run in silent if _is_silent(run, left)]
    if only and (run := runs[0]) not in ended:
        state = run.state.name if run.state else "not begun"
        get_run_logger().warning("Flow run %s: has not ended (%s), leaving what it created", only, state)
    return {str(run.id): run for run in ended}


def _runs(
    client: SyncPrefectClient, left: Mapping[str, str], flows: Iterable[str], only: UUID | None
) -> Iterator[FlowRun]:
    """Those of this server that have left something, and others that it takes for alive."""
    known = set()
    for id in [str(only)] if only else left:
        with suppress(ValueError, ObjectNotFound):
            run = client.read_flow_run(UUID(id))
            known.add(run.id)
            yield run
    if only is None:
        named = FlowFilter(name=FlowFilterName(any_=list(flows)))
        alive = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ALIVE))))
        runs = client.read_flow_runs(flow_filter=named, flow_run_filter=alive, limit=200)
        yield from (run for run in runs if run.id not in known)


def _is_silent(run: FlowRun, left: Mapping[str, str]) -> bool:
    """Whether the server has declared it Crashed, but it may live, and would lose what it has created."""
    return str(run.id) in left and is_silent(run.state)


def _has_ended(run: FlowRun, only: UUID | None) -> bool:
    state = run.state
    return state is not None and (state.is_final() if only else state.type in _GONE)


def _lost(client: SyncPrefectClient, azure: Azure, silent: Sequence[FlowRun], left: Mapping[str, str]) -> list[FlowRun]:
    """Those that are lost; waits for a sign of life of each."""
    logger = get_run_logger()
    for run in silent:
        logger.info("Flow run %s: waiting %.0f s for a sign of life: %s", run.id, GRACE, run.state)
    with azure.blobs() as blobs:

        def is_lost(run: FlowRun) -> bool:
            workload = left.get(str(run.id))
            if workload is None:  # there is nothing that a sweep could delete
                return state_if_lost(client, run, lambda: None, GRACE) is not None
            names = Run.start(str(run.id), workload, TimeLimits())
            state = state_if_lost(client, run, partial(read_sign, blobs, names), GRACE)
            return state is not None and claim(client, run, state)

        verdicts = in_parallel(is_lost, silent, at_a_time=len(silent))
    for run, lost in zip(silent, verdicts, strict=True):
        logger.warning("Flow run %s: %s", run.id, "is lost" if lost else "lives, leaving what it created")
    return [run for run, lost in zip(silent, verdicts, strict=True) if lost]
