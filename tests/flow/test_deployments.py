"""prefect.yaml on a real server: what it deploys is as it says, and each deployment runs on a real worker."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml  # type: ignore[import-untyped]
from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import SignatureMismatchError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.templating import apply_values
from pydantic import BaseModel

from tasks.accounts.clients import Azure
from tasks.run.identity import Run
from tasks.run.settings import TimeLimits
from tests.support.deployed import Deployed
from tests.support.paths import ROOT
from tests.support.polling import LIMIT, eventually

FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {each["name"]: each for each in FILE["deployments"]}
NAMES = {
    "top-words": "top-words/top-words",
    "top-words-check": "top-words/top-words-check",
    "top-words-nightly": "top-words/top-words-nightly",
    "sweep": "sweep/sweep",
    "sweep-all": "sweep/sweep-all",
}


def flow_of(name: str) -> Flow[Any, Any]:
    return load_flow_from_entrypoint(str(ROOT / DEPLOYMENTS[name]["entrypoint"]))


def parameters_of(name: str) -> dict[str, Any]:
    """The parameters as `prefect deploy` fills them in where TOP_WORDS_ACCOUNTS is not set."""
    return apply_values(DEPLOYMENTS[name]["parameters"], {}, remove_notset=True)


@pytest.fixture
def no_block_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOP_WORDS_ACCOUNTS", raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_suit_the_flow(no_block_named: None, name: str) -> None:
    flow = flow_of(name)
    assert flow.validate_parameters(parameters_of(name))
    for trigger in DEPLOYMENTS[name].get("triggers", ()):
        assert flow.validate_parameters(trigger["parameters"])
    with pytest.raises(SignatureMismatchError):
        flow.validate_parameters({**parameters_of(name), "no_such_parameter": 1})


@pytest.mark.parametrize("name", ["top-words", "top-words-nightly"])
def test_the_parameters_of_the_file_are_the_defaults_of_the_flow(no_block_named: None, name: str) -> None:
    flow = flow_of(name)
    given = parameters_of(name)
    assert given.pop("inputs") == ["data/*.txt"]
    values = flow.validate_parameters(parameters_of(name))
    values["accounts"] = values["accounts"] or None  # what is not set in the environment is deployed as ""
    signature = inspect.signature(flow.fn).parameters
    assert {key: values[key] for key in given} == {key: signature[key].default for key in given}
    for key, value in given.items():
        default = signature[key].default
        if isinstance(default, BaseModel):  # an optional field may be left out, but nothing that has a value
            valued = {field for field, held in default.model_dump().items() if held is not None}
            assert set(value) == valued


def test_a_block_named_at_deployment_is_a_parameter_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOP_WORDS_ACCOUNTS", "production")
    for name in NAMES:
        assert parameters_of(name)["accounts"] == "production"
        assert flow_of(name).validate_parameters(parameters_of(name))


@pytest.fixture(scope="module")
def on_server(deployed: Deployed) -> dict[str, DeploymentResponse]:
    return {name: deployed.client.read_deployment_by_name(full) for name, full in NAMES.items()}


def test_every_deployment_is_on_the_server_as_the_file_says(
    no_block_named: None, on_server: dict[str, DeploymentResponse]
) -> None:
    for name, found in on_server.items():
        written = DEPLOYMENTS[name]
        assert found.description == written["description"]
        assert found.tags == written["tags"]
        assert found.work_pool_name == "local-process"
        assert found.parameters == parameters_of(name)
    nightly = on_server["top-words-nightly"]
    assert nightly.global_concurrency_limit
    assert nightly.global_concurrency_limit.limit == 1
    assert nightly.concurrency_options
    assert nightly.concurrency_options.collision_strategy.value == "CANCEL_NEW"


def test_deploying_starts_nothing_that_bills(on_server: dict[str, DeploymentResponse]) -> None:
    schedules = {name: [(each.slug, each.active) for each in found.schedules] for name, found in on_server.items()}
    assert schedules == {
        "top-words": [],
        "top-words-check": [],
        "top-words-nightly": [("nightly", False)],
        "sweep": [],
        "sweep-all": [("every-5-minutes", False)],  # for these tests; in the file it is on
    }
    assert [each["active"] for each in DEPLOYMENTS["sweep-all"]["schedules"]] == [True]


def test_the_check_has_the_parameters_of_the_run_that_it_checks(no_block_named: None) -> None:
    assert parameters_of("top-words-check") == {**parameters_of("top-words"), "check": True}


def test_without_a_server_the_command_says_where_it_looked() -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    for made in [make(target, environment) for target in ("deploy", "worker")]:
        _, said = made.communicate(timeout=LIMIT)
        assert made.returncode == 2
        assert "No Prefect server answers at http://127.0.0.1:9/api" in said
        assert "make ui" in said
        assert "Traceback" not in said


@pytest.fixture(scope="module")
def runs(deployed: Deployed) -> dict[str, UUID]:
    """A run of each kind, all at once: on demand, one whose process is to be killed, and by a schedule."""
    started = {"on demand": deployed.start("top-words"), "killed": deployed.start("top-words", delay_seconds=600)}
    nightly = deployed.client.read_deployment_by_name(NAMES["top-words-nightly"])
    often = DeploymentScheduleCreate(
        schedule=IntervalSchedule(interval=timedelta(seconds=10)), active=True, parameters={"delay_seconds": 3}
    )
    schedule = deployed.client.create_deployment_schedules(nightly.id, [often])[0]

    def begun() -> list[FlowRun]:
        return [run for run in deployed.runs("top-words-nightly") if run.state_name != "Scheduled"]

    started["scheduled"] = eventually("a scheduled run", begun)[0].id
    deployed.client.delete_deployment_schedule(nightly.id, schedule.id)  # and with it the runs that it planned
    started["too early"] = deployed.start("top-words-nightly")
    return started


def test_deploying_again_changes_nothing_and_keeps_the_work_pool(deployed: Deployed, runs: dict[str, UUID]) -> None:
    before = [each.id for each in deployed.client.read_deployments()]
    pool = deployed.client.read_work_pool("local-process")
    deployed.deploy()
    assert sorted(each.id for each in deployed.client.read_deployments()) == sorted(before)
    assert deployed.client.read_work_pool("local-process").id == pool.id


def test_a_run_on_demand_completes(deployed: Deployed, runs: dict[str, UUID]) -> None:
    deployed.wait(runs["on demand"], "Completed")
    assert deployed.run(runs["on demand"]).name.startswith("top-words 3 files ")


def test_a_run_by_its_schedule_completes(deployed: Deployed, runs: dict[str, UUID]) -> None:
    deployed.wait(runs["scheduled"], "Completed")
    run = deployed.run(runs["scheduled"])
    assert run.auto_scheduled
    assert run.parameters["inputs"] == ["data/*.txt"]


def test_a_night_that_begins_during_another_is_cancelled(deployed: Deployed, runs: dict[str, UUID]) -> None:
    state = deployed.wait(runs["too early"], "Cancelled")
    assert state.message
    assert "concurrency limit" in state.message
    swept = eventually("a sweep", lambda: [run for run in deployed.runs("sweep") if of(run) == runs["too early"]])
    assert swept[0].parameters["delete"] is True


def test_a_run_whose_process_was_killed_is_swept_at_once(
    deployed: Deployed, runs: dict[str, UUID], azure: Azure
) -> None:
    killed = runs["killed"]
    deployed.wait_for_log(killed, "3 Batch tasks added")
    deployed.kill(killed)
    deployed.wait(killed, "Crashed")
    sweep = eventually("a sweep", lambda: [run for run in deployed.runs("sweep") if of(run) == killed])[0]
    deployed.wait(sweep.id, "Completed")
    assert sweep.parameters["delete"] is True
    name = Run.start(str(killed), "top-words", TimeLimits()).name
    with azure.batch() as batch, azure.blobs() as blobs:
        eventually("the pool being gone", lambda: name not in [pool.id for pool in batch.list_pools()])
        eventually("the job being gone", lambda: name not in [job.id for job in batch.list_jobs()])
        assert [each.name for each in blobs.list_containers(name_starts_with=name)] == []


def test_runs_that_ended_well_trigger_no_sweep(deployed: Deployed, runs: dict[str, UUID]) -> None:
    for kind in ("on demand", "scheduled"):
        deployed.wait(runs[kind], "Completed")
        assert [run for run in deployed.runs("sweep") if of(run) == runs[kind]] == []


def test_a_schedule_that_is_switched_on_plans_the_next_night(deployed: Deployed, runs: dict[str, UUID]) -> None:
    nightly = deployed.client.read_deployment_by_name(NAMES["top-words-nightly"])
    schedule = next(each for each in nightly.schedules if each.slug == "nightly")
    deployed.client.update_deployment_schedule(nightly.id, schedule.id, active=True)
    try:
        times = eventually("a planned night", lambda: nights(deployed))
    finally:
        deployed.client.update_deployment_schedule(nightly.id, schedule.id, active=False)
    assert min(times) - datetime.now(timezone.utc) <= timedelta(days=1)


def nights(deployed: Deployed) -> list[datetime]:
    planned = [run.expected_start_time for run in deployed.runs("top-words-nightly") if run.state_name == "Scheduled"]
    return [time for time in planned if time and (time.hour, time.minute) == (2, 30)]


def of(sweep: FlowRun) -> UUID | None:
    """The flow run whose event started the sweep."""
    given = sweep.parameters.get("flow_run_id")
    return UUID(given.removeprefix("prefect.flow-run.")) if given else None


def make(target: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = ["make", "--old-file=.venv/installed", f"BIN={Path(sys.executable).parent}", target]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
