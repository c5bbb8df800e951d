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
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.containers import create_containers
from tasks.errors import Stalled
from tasks.files import upload_files
from tasks.job import Work, add_tasks, create_job
from tasks.monitor import monitor_tasks
from tasks.pool import create_pool, delete_pool
from tasks.reporting.events import Payload, Preempted, RunEvents
from tasks.resources.tags import metadata
from tasks.run.identity import Run, UsedPool
from tasks.run.inputs import find_inputs
from tasks.run.outcomes import AddedTask
from tasks.run.settings import Disposal, PoolSettings, TimeLimits
from tasks.watching.watch import Patience
from tests.conftest import DATA
from tests.flow.conftest import accounts_of, azure_with_faults
from tests.flow.test_steps import in_flow, is_running, make_job, new_run, pace, wait_until
from tests.flow.test_waiting import Time, long_the_first_time, once, own_pool, said, watch, watched

pytestmark = pytest.mark.usefixtures("prefect_server")

ONE_SPOT = PoolSettings(dedicated_nodes=0, spot_nodes=1)
HELPED = PoolSettings(dedicated_nodes=0, spot_nodes=1, dedicated_after_minutes=10)


@pytest.fixture(autouse=True)
def no_start_task(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "troubled_run" in request.fixturenames:
        monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda script: None)


def job_without_retries(azure: Azure, run: Run, *scripts: str) -> list[AddedTask]:
    added = [
        AddedTask(id=f"topNtask{index}", file=f"{index}.txt", output_name=f"{index}_OUTPUT.txt")
        for index in range(len(scripts))
    ]
    with azure.batch() as batch:
        pool = BatchPoolInfo(pool_id=run.pool_id)
        batch.create_job(BatchJobCreateOptions(id=run.job_id, pool_info=pool, metadata=metadata(run.tags)))
        for task, script in zip(added, scripts, strict=True):
            line = f"/bin/sh -c '{script}'"
            once_only = BatchTaskConstraints(max_task_retry_count=0)
            batch.create_task(run.job_id, BatchTaskCreateOptions(id=task.id, command_line=line, constraints=once_only))
    return added


def test_a_preempted_batch_task_runs_again_without_a_retry_and_the_log_says_why_it_waits(
    troubled: Azure, troubled_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = own_pool(troubled, troubled_run, ONE_SPOT)
    marker = tmp_path / "began"
    added = job_without_retries(troubled, troubled_run, long_the_first_time(marker))
    preempt = once(marker.exists, lambda: faults.ask("preempt", {"poolId": pool.id}))
    (outcome,) = watch(troubled, troubled_run, pool, added, pace(preempt))
    assert (outcome.succeeded, outcome.exit_code, outcome.retries, outcome.failure) == (True, 0, 0, None)
    assert said(caplog, "0 running, 1 queued; nodes: 1 preempted")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_preemption_between_two_looks_is_a_requeue_a_log_line_and_an_event(
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

        seen = once(lambda: said(caplog, "1 running") and (tmp_path / "began").exists(), preempt)
        (outcome,) = watch(troubled, troubled_run, pool, added, pace(seen))
    assert (outcome.succeeded, outcome.requeues, outcome.retries) == (True, 1, 0)
    assert caplog.messages.count("1 Batch tasks lost their node and are requeued; no retry is used up") == 1
    assert caplog.messages.count("1 spot nodes were preempted; their Batch tasks are requeued") == 1
    assert [payload for payload in sent if isinstance(payload, Preempted)] == [Preempted(pool_id=pool.id, nodes=1)]


def test_a_preemption_is_said_also_while_other_nodes_work(
    troubled: Azure, troubled_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = own_pool(troubled, troubled_run, PoolSettings(dedicated_nodes=1, spot_nodes=1))
    done = tmp_path / "done"
    wait = f"until test -e {done}; do sleep 0.05; done"
    added = job_without_retries(troubled, troubled_run, wait, wait)
    with troubled.batch() as batch:

        def both_run() -> bool:
            return batch.get_job_task_counts(troubled_run.job_id).task_counts.running == 2

        def preempt() -> None:
            faults.ask("preempt", {"poolId": pool.id})

        let_go = once(lambda: said(caplog, "1 running, 1 queued"), done.touch)
        begin = once(both_run, preempt)

        def beat() -> None:
            begin()
            let_go()

        outcomes = watch(troubled, troubled_run, pool, added, pace(beat))
    assert [outcome.succeeded for outcome in outcomes] == [True, True]
    assert said(caplog, "preempt")


# Dedicated nodes in place of spot nodes that bring nothing.


def helped(pool: UsedPool) -> str:
    why = "no Batch task made progress on spot nodes for 10 minutes"
    return f"Pool {pool.id}: 1 dedicated node added, because {why}"


def targets(azure: Azure, pool: UsedPool) -> tuple[int | None, int | None]:
    with azure.batch() as batch:
        found = batch.get_pool(pool.id)
        return found.target_dedicated_nodes, found.target_low_priority_nodes


def preempted_spot_pool(azure: Azure, run: Run, settings: PoolSettings) -> UsedPool:
    """A pool whose one spot node was taken away and does not come back."""
    faults.ask("timings", {"preemption": 600})
    pool = own_pool(azure, run, settings)
    with azure.batch() as batch:
        wait_until(lambda: [node.state for node in batch.list_nodes(pool.id)] == ["idle"])
    faults.ask("preempt", {"poolId": pool.id})
    return pool


def unallocated_spot_pool(azure: Azure, run: Run, settings: PoolSettings) -> UsedPool:
    faults.ask("resizeerror", {"code": "AllocationFailed", "message": "No spot capacity."})
    return own_pool(azure, run, settings)


@pytest.mark.parametrize("why", [preempted_spot_pool, unallocated_spot_pool])
def test_spot_nodes_that_bring_nothing_get_dedicated_ones_beside_them_once_and_it_is_said(
    why: object, troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(why)
    pool = why(troubled, troubled_run, HELPED)
    faults.ask("timings", {"boot": 0.6})  # so that the time for more help passes before the first has come
    added = make_job(troubled, troubled_run, "true")
    time = Time()
    looks = time.pace(lambda: time.passes(1))
    monitored = in_flow(lambda: monitor_tasks(troubled, troubled_run, pool, added, Patience(pool=HELPED), looks))
    (outcome,) = monitored.outcomes
    assert outcome.succeeded
    assert (outcome.node or "").endswith("_d")
    assert (monitored.pool.added_nodes, monitored.pool.nodes) == (1, 1 + pool.nodes)
    assert [message for message in caplog.messages if "node added" in message] == [helped(pool)]
    assert targets(troubled, pool) == (1, 1)


def test_spot_nodes_that_are_taken_away_again_and_again_bring_nothing_though_tasks_run_on_them(
    troubled: Azure, troubled_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults.ask("timings", {"preemption": 0.1})
    pool = own_pool(troubled, troubled_run, HELPED)
    added_nodes = tmp_path / "added"
    added = make_job(troubled, troubled_run, f"until test -e {added_nodes}; do sleep 0.05; done")
    time = Time()
    runs: list[bool] = []
    with troubled.batch() as batch:

        def beat() -> None:
            time.passes(1)
            if said(caplog, "1 dedicated node added"):
                added_nodes.touch()
            elif is_running(batch, troubled_run):
                runs.append(True)
                faults.ask("preempt", {"poolId": pool.id})

        (outcome,) = watch(troubled, troubled_run, pool, added, time.pace(beat), Patience(pool=HELPED))
    assert outcome.succeeded
    assert len(runs) > 1
    assert said(caplog, helped(pool))


def test_a_spot_quota_that_is_used_up_is_helped_with_dedicated_nodes(troubled: Azure, troubled_run: Run) -> None:
    faults.ask("resizeerror", {"code": "AccountLowPriorityCoreQuotaReached", "message": "No more spot cores."})
    pool = own_pool(troubled, troubled_run, HELPED)
    added = make_job(troubled, troubled_run, "true")
    time = Time()
    (outcome,) = watch(troubled, troubled_run, pool, added, time.pace(lambda: time.passes(1)), Patience(pool=HELPED))
    assert outcome.succeeded


@pytest.mark.parametrize("own", [True, False], ids=["without being allowed", "to an existing pool"])
def test_no_dedicated_nodes_are_added(
    own: bool, troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    made = preempted_spot_pool(troubled, troubled_run, ONE_SPOT)
    pool = UsedPool(id=made.id, slots_per_node=1, own=own)
    added = make_job(troubled, troubled_run, "true")
    existing = PoolSettings(existing_pool_id=made.id, spot_nodes=1, dedicated_after_minutes=10)
    time = Time()
    patience = Patience(pool=ONE_SPOT if own else existing, limits=TimeLimits(stall_minutes=40))
    problem = watched(troubled, troubled_run, pool, added, time.pace(lambda: time.passes(5)), patience).problem
    assert isinstance(problem, Stalled)
    assert str(problem).endswith("nodes: 1 preempted")
    assert not said(caplog, "node added")
    assert targets(troubled, pool) == (0, 1)


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
def test_the_service_alone_ends_job_and_nodes_at_the_run_s_deadline(disposal: Disposal, alone: Azure) -> None:
    run = Run(
        workload="top-words", flow_run_id=new_run().flow_run_id, started=service_time(), lifetime=timedelta(hours=2)
    )
    settings = PoolSettings(dedicated_nodes=1, spot_nodes=1)
    work = Work(top_n=1, delay_seconds=600, limits=TimeLimits())

    def begin() -> None:
        create_containers(alone, run)
        uploads = upload_files(alone, run, find_inputs([str(DATA)]))
        pool = create_pool(alone, run, settings, uploads.node_script, disposal)
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
