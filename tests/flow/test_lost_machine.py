"""A run whose process, worker or machine is lost is declared Crashed; tests.support.lost_machine tries it for real."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event, RelatedResource, Resource
from prefect.logging.loggers import disable_run_logger
from prefect.states import Cancelling, Completed, Crashed, Late, Pending, Running, Scheduled
from prefect.types import DateTime
from pydantic import TypeAdapter

import flows.nine_steps
from flows.automations import FLOWS, apply, lost_runs
from flows.top_words import top_words
from tasks.accounts.clients import Azure
from tasks.errors import DeclaredCrashed
from tasks.files import upload_files
from tasks.run.identity import Run
from tasks.watching.cancellation import Cancellation, declared_crashed
from tasks.watching.heartbeats import HEARTBEAT, MESSAGE, SILENCE, claim, state_if_lost, take_back
from tests.support.deployed import Deployed
from tests.support.flow_runs import write_texts
from tests.support.paths import ROOT
from tests.support.polling import eventually

QUICK = timedelta(seconds=10)  # the least of a proactive trigger


@flow(name="top-words")
def ours() -> None:
    """As far as an automation looks at it."""


@flow(name="sweep")
def lost_sweep(flow_run_id: str) -> None:
    """A sweep whose worker is lost."""


@flow(name="of-somebody-else")
def another() -> None:
    """A run that is none of ours."""


def beat(deployed: Deployed, run: UUID, name: str, ago: timedelta = timedelta()) -> None:
    """The heartbeat as Prefect's flow engine emits it; one of long ago is as if the server had been away since."""
    related = RelatedResource({"prefect.resource.id": "prefect.flow.x", "prefect.resource.role": "flow"})
    related.root["prefect.resource.name"] = name
    event = Event(
        event=HEARTBEAT,
        occurred=TypeAdapter(DateTime).validate_python(datetime.now(timezone.utc) - ago),
        resource=Resource({"prefect.resource.id": f"prefect.flow-run.{run}"}),
        related=[related],
    )
    httpx.post(f"{deployed.api_url}/events", json=[event.model_dump(mode="json")]).raise_for_status()


def late(deployed: Deployed, deployment: str) -> UUID:
    """A sweep that is late, but for a time at which no worker of these tests takes it."""
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    found = deployed.client.read_deployment_by_name(f"sweep/{deployment}")
    return deployed.client.create_flow_run_from_deployment(found.id, state=Late(scheduled_time=tomorrow)).id


@pytest.fixture(scope="module")
def runs(deployed: Deployed) -> Iterator[dict[str, UUID]]:
    """Runs that have just sent their last heartbeat, and quicker automations beside those of `make deploy`."""
    client = deployed.client
    wanted = [each.model_copy(update={"name": f"quick {each.name}"}) for each in lost_runs(QUICK)]
    created = [client.create_automation(each) for each in wanted]
    names = ("lost", "stopping", "ended")
    runs = {name: client.create_flow_run(ours, state=Running()).id for name in names}
    runs["of others"] = client.create_flow_run(another, state=Running()).id
    runs["starting"] = client.create_flow_run(ours, state=Pending()).id
    runs["waiting"] = client.create_flow_run(
        ours, state=Scheduled(scheduled_time=datetime.now(timezone.utc) + timedelta(days=1))
    ).id
    for name in names:
        beat(deployed, runs[name], "top-words")
    runs["late"], runs["late for one run"] = (late(deployed, name) for name in ("sweep-all", "sweep"))
    runs["lost in an outage"] = client.create_flow_run(ours, state=Running()).id
    beat(deployed, runs["lost in an outage"], "top-words", ago=timedelta(minutes=5))
    beat(deployed, runs["of others"], "of-somebody-else")
    client.set_flow_run_state(runs["stopping"], Cancelling(), force=True)
    client.set_flow_run_state(runs["ended"], Completed(), force=True)
    sweep = client.create_flow_run(lost_sweep, parameters={"flow_run_id": str(runs["ended"])}, state=Running())
    client.set_flow_run_state(sweep.id, Crashed(message=MESSAGE.format(minutes=4)))
    yield runs
    for id in created:
        client.delete_automation(id)


@pytest.mark.usefixtures("runs")
def test_make_deploy_has_applied_the_automations(deployed: Deployed) -> None:
    assert [apply(deployed.client, each) for each in lost_runs()] == ["unchanged"] * 5


@pytest.fixture
def silent(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlowRun]:
    """This process as that of a run that the server has declared Crashed for lack of heartbeats."""
    run = deployed.client.create_flow_run(another, state=Running())  # no trigger is for this flow
    deployed.client.set_flow_run_state(run.id, Crashed(message=MESSAGE.format(minutes=4)))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(run.id))
    with deployed.settings(), disable_run_logger():
        yield deployed.run(run.id)


def is_lost(deployed: Deployed, run: FlowRun, grace: float = 0) -> bool:
    """Whether a sweep may delete what the run created, which gives no sign of life in Azure."""
    state = state_if_lost(deployed.client, run, lambda: None, grace)
    return state is not None and claim(deployed.client, run, state)


def test_a_live_run_takes_its_state_back_and_is_not_swept(deployed: Deployed, silent: FlowRun) -> None:
    assert declared_crashed() is None  # of whatever fails meanwhile it is not the cause
    Cancellation().check(datetime.now(timezone.utc))
    state = deployed.run(silent.id).state
    assert state
    assert (state.name, "Crashed: no heartbeat for 4 minutes" in (state.message or "")) == ("Running", True)
    assert not is_lost(deployed, silent)  # of a sweep that has read the run before


def test_a_run_that_sends_a_heartbeat_again_is_not_swept(deployed: Deployed, silent: FlowRun) -> None:
    beat(deployed, silent.id, "of-somebody-else")
    assert not is_lost(deployed, silent, grace=90)
    Cancellation().check(datetime.now(timezone.utc))
    assert deployed.run(silent.id).state_name == "Running"


def test_a_run_that_is_swept_stops_when_it_wakes_up(deployed: Deployed, silent: FlowRun) -> None:
    assert is_lost(deployed, silent)
    assert is_lost(deployed, deployed.run(silent.id), grace=90)  # by a second sweep, at once
    with pytest.raises(DeclaredCrashed, match="no heartbeat for 4 minutes"):
        Cancellation().check(datetime.now(timezone.utc))
    assert isinstance(declared_crashed(), DeclaredCrashed)
    assert deployed.run(silent.id).state_name == "Crashed"
    assert not take_back(deployed.client, silent)  # also if it read its state just before the sweep did


def test_what_the_server_or_a_sweep_does_is_no_sign_of_life(deployed: Deployed) -> None:
    run = deployed.client.create_flow_run(another, state=Running())
    deployed.client.set_flow_run_state(run.id, Crashed(message=MESSAGE.format(minutes=4)))  # while a sweep looks at it
    deleted_meanwhile = iter(["tag", None])
    state = state_if_lost(deployed.client, run, lambda: next(deleted_meanwhile), grace=0)
    assert state == deployed.run(run.id).state


@pytest.mark.usefixtures("prefect_server")
def test_a_step_that_fails_because_of_a_sweep_says_so(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sweep_then_upload(azure: Azure, run: Run, *rest: Any) -> Any:
        with get_client(sync_client=True) as client, azure.blobs() as blobs:
            client.set_flow_run_state(UUID(run.flow_run_id), Crashed(message="its machine was asleep"))
            for container in list(blobs.list_containers(name_starts_with=run.name)):
                blobs.delete_container(container.name)
        return upload_files(azure, run, *rest)

    monkeypatch.setattr(flows.nine_steps, "upload_files", sweep_then_upload)
    with pytest.raises(DeclaredCrashed, match="its machine was asleep"):
        top_words(write_texts(tmp_path / "in", ["a"]), output_folder=str(tmp_path / "results"))


def test_deploying_again_renews_the_one_automation(deployed: Deployed) -> None:
    client = deployed.client
    wanted = lost_runs(QUICK)[0].model_copy(update={"name": "deployed again"})
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
    client.delete_automation(present.id)


def test_the_automation_is_for_the_flows_that_the_sweep_is_triggered_by() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (for_runs, for_sweeps) = next(each["triggers"] for each in deployments if each["name"] == "sweep")
    assert for_runs["match_related"]["prefect.resource.name"] == list(FLOWS)
    assert for_sweeps["match_related"]["prefect.resource.name"] == "sweep"


def test_only_silent_runs_and_late_sweeps_are_declared_ended(deployed: Deployed, runs: dict[str, UUID]) -> None:
    crashed = ("lost", "lost in an outage", "starting")
    for name in (*crashed, "stopping", "late"):
        state = deployed.wait(runs[name], "Crashed" if name in crashed else "Cancelled")
        assert state.message
        assert state.message.startswith("no heartbeat for ")
    swept = {f"prefect.flow-run.{runs[name]}" for name in (*crashed, "stopping")}
    swept.add(str(runs["ended"]))  # again, by the sweep that follows one that was lost
    eventually("sweeps", lambda: swept <= {run.parameters.get("flow_run_id") for run in deployed.runs("sweep")})
    assert all("accounts" in run.parameters for run in deployed.runs("sweep"))  # of their deployment
    now = [deployed.run(runs[name]).state_name for name in ("ended", "of others", "waiting", "late for one run")]
    assert now == ["Completed", "Running", "Scheduled", "Late"]
