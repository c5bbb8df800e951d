"""Automations that declare a flow run ended whose process, worker or machine is gone, as code.

python -m flows.automations      # creates them on the Prefect server, or updates them: part of `make deploy`

The sweep's trigger in prefect.yaml then deletes what that run created. Runs of a temporary server have no heartbeats,
and so nothing here concerns them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from tasks.watching.heartbeats import HEARTBEAT, MESSAGE, SILENCE

FLOWS = ("top-words", "run-script")  # the sweep's trigger has them too
SWEEP = ("sweep",)
SWEEP_ALL = ("sweep-all",)  # the deployment with the schedule
CANCELLING = "prefect.flow-run.Cancelling"
STARTING = {"prefect.flow-run.Pending", "prefect.flow-run.Submitting"}  # by a worker
LATE = "prefect.flow-run.Late"
RUNNING = "prefect.flow-run.Running"
# Of a run that ended, or was suspended, no further heartbeat is due. One that waits for an answer (Paused) still has a
# process, and a pool that bills.
ENDED = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled", "Suspended"))


def lost_runs(silence: timedelta = SILENCE) -> list[AutomationCore]:
    """The automations, as they are to be on the server.

    The second is needed because Prefect's server lets a Cancelling run become nothing but Cancelled. A heartbeat ends
    its attention; at most one follows the request, because a worker ends the run's process after 30 seconds. The others
    are for a worker that was lost between taking a run and starting its process: of a sweep, which prefect.yaml then
    starts again, and of a run, which would stay Pending. The last is for the time without a worker: its sweeps would
    all begin together with the next one. A concurrency limit is not for that, because a server that was killed may keep
    its slot for ever, and no sweep would begin any more.
    """
    runs, sweeps, both = _named("flow", FLOWS), _named("flow", SWEEP), _named("flow", FLOWS + SWEEP)
    scheduled, no_longer_late = _named("deployment", SWEEP_ALL), tuple(sorted(STARTING))
    automations = {
        "azure-batch: a run without heartbeat has crashed": ({HEARTBEAT}, both, StateType.CRASHED, ()),
        "azure-batch: a cancelled run without heartbeat is gone": ({CANCELLING}, runs, StateType.CANCELLED, ()),
        "azure-batch: a sweep that does not start has crashed": (STARTING, sweeps, StateType.CRASHED, ()),
        # Once it runs, it is the business of the first, which leaves a run alone whose heartbeats are switched off.
        "azure-batch: a run that does not start has crashed": (STARTING, runs, StateType.CRASHED, (RUNNING,)),
        "azure-batch: a late sweep is dropped": ({LATE}, scheduled, StateType.CANCELLED, no_longer_late),
    }
    return [_automation(name, *what, silence) for name, what in automations.items()]


def _named(role: str, names: tuple[str, ...]) -> ResourceSpecification:
    return ResourceSpecification.model_validate({"prefect.resource.role": role, "prefect.resource.name": list(names)})


def _automation(
    name: str, after: set[str], of: ResourceSpecification, state: StateType, also: tuple[str, ...], silence: timedelta
) -> AutomationCore:
    return AutomationCore(
        name=name,
        description="Of the repository's `make deploy`, which renews it. The sweep then deletes what the run created.",
        enabled=True,
        tags=["azure-batch"],
        trigger=EventTrigger(
            type="event",
            after=after,
            expect={HEARTBEAT, *ENDED, *also},
            match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=of,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        # Not forced: a run that has ended meanwhile stays what it is.
        actions=[
            ChangeFlowRunState(
                type="change-flow-run-state",
                name=state.value.capitalize(),
                state=state,
                message=MESSAGE.format(minutes=silence.total_seconds() / 60),
                force=False,
            )
        ],
        actions_on_trigger=[],
        actions_on_resolve=[],
    )


def apply(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    """Make it the one automation of its name on the server, and say in a word what that took.

    One that is as wanted is left alone, because the server forgets the heartbeats seen so far of one that is updated.
    One that somebody has paused stays paused.
    """
    named = client.read_automations_by_name(wanted.name)
    if not named:
        client.create_automation(wanted)
        return "created"
    present, *doubles = named
    for double in doubles:
        client.delete_automation(double.id)
    paused = "" if present.enabled else ", and paused: no lost run is noticed until it is resumed"
    if _definition(present) == _definition(wanted):
        return f"unchanged{paused}"
    client.update_automation(present.id, wanted.model_copy(update={"enabled": present.enabled}))
    return f"updated{paused}"


def _definition(automation: Automation | AutomationCore) -> dict[str, Any]:
    """What both sides know of it; the sets of the trigger in one order."""
    trigger = automation.trigger.model_dump(mode="json", exclude={"id"})
    return {
        "description": automation.description,
        "tags": sorted(automation.tags),
        "trigger": {key: sorted(value) if isinstance(value, list) else value for key, value in trigger.items()},
        "actions": [action.model_dump(mode="json", exclude_none=True) for action in automation.actions],
    }


def main() -> None:
    with get_client(sync_client=True) as client:
        for automation in lost_runs():
            print(f"Automation '{automation.name}': {apply(client, automation)}")


if __name__ == "__main__":
    main()
