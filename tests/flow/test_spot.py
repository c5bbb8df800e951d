"""Spot nodes that Azure takes away cost time and no Batch task; and no node outlives its run's deadline."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from azure.batch import BatchClient
from azure.batch.models import (
    BatchJobCreateOptions,
    BatchPoolInfo,
    BatchTaskConstraints,
    BatchTaskCreateOptions,
)

import tasks.resources.pool
from flows.word_arguments import word_arguments
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.containers import create_containers
from tasks.files import upload_files
from tasks.inputs.files import find_inputs
from tasks.job import add_tasks, create_job
from tasks.pool import create_pool, delete_pool
from tasks.reporting.events import Payload, Preempted, RunEvents
from tasks.resources.batch_task import Work
from tasks.resources.tags import metadata
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask
from tasks.run.settings import Disposal, PoolSettings, TimeLimits
from tasks.watching.watch import Patience
from tests.support.accounts import accounts_of, azure_with_faults
from tests.support.monitoring import Time, is_logged, once, pace, watch, watched
from tests.support.paths import DATA
from tests.support.polling import wait_until
from tests.support.runs import APPLICATION, in_flow, is_running, long_the_first_time, make_job, new_run, own_pool

pytestmark = pytest.mark.usefixtures("prefect_server")

ONE_SPOT = PoolSettings(dedicated_nodes=0, spot_nodes=1)
HELPED = PoolSettings(dedicated_nodes=0, spot_nodes=1, dedicated_after_minutes=10)


@pytest.fixture(autouse=True)
def no_start_task(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "troubled_run" in request.fixturenames:
        monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda script: None)


def job_without_retries(azure: Azure, run: Run, *scripts: str) -> list[AddedTask]:
    added = [AddedTask(id=f"topNtask{index}", file=f"{index}.txt") for index in range(len(scripts))]
    with azure.batch() as batch:
        pool = BatchPoolInfo(pool_id=run.pool_id)
        batch.create_job(BatchJobCreateOptions(id=run.job_id, pool_info=pool, metadata=metadata(run.tags)))
        for task, script in zip(added, scripts, strict=True):
            line = f"/bin/sh -c '{script}'"
            once_only = BatchTaskConstraints(max_task_retry_count=0)
            batch.create_task(run.job_id, BatchTaskCreateOptions(id=task.id, command_line=line, constraints=once_only))
    return added


def test_a_preemption_between_looks_is_logged_and_an_event(
    troubled: Azure,
    troubled_run: Run,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Payload] = []
    monkeypatch.setattr(RunEvents, "emit", lambda self, payload: sent.append(payload))
    faults.ask("timings", {"preemption": 0.1})
    pool = own_pool(troubled, troubled_run, ONE_SPOT)
    added = job_without_retries(troubled, troubled_run, long_the_first_time(tmp_path / "began"))
    with troubled.batch() as batch:

        def preempt() -> None:
            faults.ask("preempt", {"poolId": pool.id})
            wait_until(lambda: batch.get_task(troubled_run.job_id, added[0].id).state == "completed")

        seen = once(lambda: is_logged(caplog, "1 running") and (tmp_path / "began").exists(), preempt)
        (outcome,) = watch(troubled, troubled_run, pool, added, pace(seen))
    assert (outcome.succeeded, outcome.requeues, outcome.retries) == (True, 1, 0)
    assert (outcome.exit_code, outcome.failure) == (0, None)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert caplog.messages.count("1 Batch tasks lost their node and are requeued; no retry is used up") == 1
    assert caplog.messages.count("1 spot nodes were preempted; their Batch tasks are requeued") == 1
    assert [payload for payload in sent if isinstance(payload, Preempted)] == [Preempted(pool_id=pool.id, nodes=1)]


# Dedicated nodes in place of spot nodes that bring nothing.


def helped(pool: UsedPool) -> str:
    why = "no Batch task made progress on spot nodes for 10 minutes"
    return f"Pool {pool.id}: 1 dedicated node added, because {why}"


def targets(azure: Azure, pool: UsedPool) -> tuple[int | None, int | None]:
    with azure.batch() as batch:
        found = batch.get_pool(pool.id)
        return found.target_dedicated_nodes, found.target_low_priority_nodes


def test_dedicated_nodes_are_added_once_for_missing_spot_nodes(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    faults.ask("resizeerror", {"code": "AllocationFailed", "message": "No spot capacity."})
    pool = own_pool(troubled, troubled_run, HELPED)
    faults.ask("timings", {"boot": 0.6})  # so that the time for more help passes before the first has come
    added = make_job(troubled, troubled_run, "true")
    time = Time()
    looks = time.pace(lambda: time.passes(1))
    monitored = watched(troubled, troubled_run, pool, added, looks, Patience(pool=HELPED))
    assert monitored.problem is None
    (outcome,) = monitored.outcomes
    assert outcome.succeeded
    assert (outcome.node or "").endswith("_d")
    assert (monitored.pool.added_nodes, monitored.pool.nodes) == (1, 1 + pool.nodes)
    assert [message for message in caplog.messages if "node added" in message] == [helped(pool)]
    assert targets(troubled, pool) == (1, 1)


# The deadline, when nobody is left to ask for it. The clock of this service is moved, so no other test uses it.


@pytest.fixture(scope="module")
def alone_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with azure_with_faults(tmp_path_factory.mktemp("alone")) as settings:
        yield settings


@pytest.fixture
def alone(no_azure: None, alone_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Azure:
    return accounts_of(alone_settings, monkeypatch)


def service_time() -> datetime:
    return datetime.fromisoformat(faults.ask("clock", {})["time"][:19] + "+00:00")


@pytest.mark.parametrize("disposal", [Disposal.DELETE, Disposal.KEEP])
def test_the_service_alone_ends_job_and_nodes_at_the_deadline(disposal: Disposal, alone: Azure) -> None:
    run = Run(
        workload="top-words", flow_run_id=new_run().flow_run_id, started=service_time(), lifetime=timedelta(hours=2)
    )
    settings = PoolSettings(dedicated_nodes=1, spot_nodes=1)
    work = Work(script="top_words.py", arguments=word_arguments(1, 600, None, TimeLimits()), limits=TimeLimits())

    def begin() -> None:
        create_containers(alone, run)
        uploads = upload_files(alone, run, find_inputs([str(DATA)]).files, APPLICATION)
        pool = create_pool(alone, run, settings, uploads.application, disposal)
        create_job(alone, run, pool, uploads, disposal)
        add_tasks(alone, run, pool, uploads, work)
        if disposal is Disposal.KEEP:
            delete_pool(alone, run, settings, disposal)  # what the flow does at its end with a pool that is kept

    in_flow(begin)
    with alone.batch() as batch:
        wait_until(lambda: batch.get_job_task_counts(run.job_id).task_counts.running == 2)
        faults.ask("clock", {"advance": "PT1H59M"})
        assert is_running(batch, run)
        assert len(list(batch.list_nodes(run.pool_id))) == 2
        faults.ask("clock", {"advance": "PT6M"})  # the deadline, and the formula's next evaluation
        wait_until(lambda: has_ended(batch, run))
        assert batch.get_job(run.job_id).execution_info.termination_reason == "MaxWallClockTimeExpiry"
        pool = batch.get_pool(run.pool_id)
        assert (pool.state, pool.target_dedicated_nodes, pool.target_low_priority_nodes) == ("active", 0, 0)


def has_ended(batch: BatchClient, run: Run) -> bool:
    return batch.get_job(run.job_id).state == "completed" and not list(batch.list_nodes(run.pool_id))
