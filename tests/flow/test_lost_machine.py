"""A run whose process, worker or machine is lost is declared Crashed; tests.support.lost_machine tries it for real."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prefect import flow
from prefect.events import Event, RelatedResource, Resource
from prefect.events.schemas.automations import AutomationCore
from prefect.states import Cancelling, Completed, Pending, Running
from prefect.types import DateTime
from pydantic import TypeAdapter

from flows.automations import FLOWS, HEARTBEAT, SILENCE, apply, lost_runs
from tests.support.deployed import Deployed
from tests.support.paths import ROOT
from tests.support.polling import eventually

QUICK = timedelta(seconds=10)  # the least of a proactive trigger


@flow(name="top-words")
def ours() -> None:
    """As far as an automation looks at it."""


@flow(name="of-somebody-else")
def another() -> None:
    """A run that is none of ours."""


@pytest.fixture
def quick(deployed: Deployed) -> Iterator[list[AutomationCore]]:
    """The automations beside those of `make deploy`, with names and a time of their own."""
    wanted = [each.model_copy(update={"name": f"quick {each.name}"}) for each in lost_runs(QUICK)]
    yield wanted
    for name in [each.name for each in wanted]:
        for each in deployed.client.read_automations_by_name(name):
            deployed.client.delete_automation(each.id)


def beat(deployed: Deployed, run: UUID, name: str) -> None:
    """The heartbeat as Prefect's flow engine emits it."""
    related = RelatedResource({"prefect.resource.id": "prefect.flow.x", "prefect.resource.role": "flow"})
    related.root["prefect.resource.name"] = name
    event = Event(
        event=HEARTBEAT,
        occurred=TypeAdapter(DateTime).validate_python(deployed.run(run).created),
        resource=Resource({"prefect.resource.id": f"prefect.flow-run.{run}"}),
        related=[related],
    )
    httpx.post(f"{deployed.api_url}/events", json=[event.model_dump(mode="json")]).raise_for_status()


def test_only_silent_runs_of_ours_are_declared_ended_and_swept(deployed: Deployed, quick: list[AutomationCore]) -> None:
    client = deployed.client
    assert [apply(client, each) for each in quick] == ["created"] * 3
    lost, stopping = client.create_flow_run(ours, state=Running()), client.create_flow_run(ours, state=Running())
    ended, of_others = client.create_flow_run(ours, state=Running()), client.create_flow_run(another, state=Running())
    waiting = client.create_flow_run(ours, state=Pending())  # no process has begun
    for run in (lost, stopping, ended):
        beat(deployed, run.id, "top-words")
    beat(deployed, of_others.id, "of-somebody-else")
    client.set_flow_run_state(stopping.id, Cancelling(), force=True)
    client.set_flow_run_state(ended.id, Completed(), force=True)

    for run, name in ((lost, "Crashed"), (stopping, "Cancelled")):
        state = deployed.wait(run.id, name)
        assert state.message
        assert state.message.startswith("no heartbeat for ")
    swept = {f"prefect.flow-run.{run.id}" for run in (lost, stopping)}
    eventually("sweeps", lambda: swept <= {run.parameters.get("flow_run_id") for run in deployed.runs("sweep")})
    now = [deployed.run(run.id).state_name for run in (ended, of_others, waiting)]
    assert now == ["Completed", "Running", "Pending"]


def test_deploying_again_renews_the_one_automation(deployed: Deployed, quick: list[AutomationCore]) -> None:
    client = deployed.client
    wanted = quick[0]
    assert apply(client, wanted) == "created"
    assert apply(client, wanted) == "unchanged"
    client.create_automation(wanted)  # by a deploy at the same time
    longer = lost_runs(SILENCE)[0].model_copy(update={"name": wanted.name})
    assert apply(client, longer) == "updated"
    (present,) = client.read_automations_by_name(wanted.name)
    assert getattr(present.trigger, "within", None) == SILENCE
    client.pause_automation(present.id)
    assert apply(client, longer).startswith("unchanged, and paused")
    assert apply(client, wanted).startswith("updated, and paused")
    assert [each.enabled for each in client.read_automations_by_name(wanted.name)] == [False]


def test_make_deploy_has_applied_the_automations(deployed: Deployed) -> None:
    assert [apply(deployed.client, each) for each in lost_runs()] == ["unchanged"] * 3


def test_the_automation_is_for_the_flows_that_the_sweep_is_triggered_by() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (for_runs, for_sweeps) = next(each["triggers"] for each in deployments if each["name"] == "sweep")
    assert for_runs["match_related"]["prefect.resource.name"] == list(FLOWS)
    assert for_sweeps["match_related"]["prefect.resource.name"] == "sweep"
