"""What monitoring waits for is logged; what will never come ends it at once, what may come has a limit.

Which is which, `tests/unit/test_decide.py` has; here is what only a service can show.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch.models import (
    BatchJobDisableOptions,
    BatchPoolEnableAutoScaleOptions,
    BatchStartTask,
)
from azure.core.pipeline.transport import HttpTransport
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelling

import tasks.resources.pool
import tasks.watching.snapshot
from flows.top_words import top_words
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.errors import InputError, RunError, Stalled, TasksFailed
from tasks.errors.service import ServiceError
from tasks.monitor import how_it_ended, monitor_tasks
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import Cause, Monitored
from tasks.run.settings import PoolSettings, TimeLimits
from tasks.watching.watch import Patience
from tests.support.flow_runs import artifact, fates_of, only_job, shell, write_texts
from tests.support.monitoring import Time, is_logged, monitor_at, once, pace, watch, watched
from tests.support.polling import wait_until
from tests.support.runs import ONE_NODE, in_flow, make_job, make_pool, own_pool

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def no_start_task(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "troubled_run" in request.fixturenames:
        monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda script: None)


def shown() -> list[str]:
    """The descriptions of the artifacts of the present flow run."""
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    with get_client(sync_client=True) as client:
        return [str(each.description) for each in client.read_artifacts(artifact_filter=only)]


# What is waited for.


def test_the_states_of_nodes_on_their_way_are_logged_and_shown(
    troubled: Azure,
    troubled_run: Run,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"
    until = f"/bin/sh -c 'until [ -e {go} ]; do sleep 0.05; done'"
    slow = BatchStartTask(command_line=until, wait_for_success=True)
    monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda script: slow)
    faults.ask("timings", {"allocation": 0.5, "boot": 1.5})
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "true")
    seen: list[str] = []
    on_starting = once(lambda: is_logged(caplog, "1 starting"), lambda: seen.extend(shown()))
    on_start_task = once(lambda: is_logged(caplog, "1 waitingforstarttask"), go.touch)

    def beat() -> None:
        on_starting()
        on_start_task()

    watch(troubled, troubled_run, pool, added, pace(beat))
    queued = "0 of 1 Batch tasks completed (0 succeeded, 0 failed), 0 running, 1 queued; nodes: 1 "
    log = [message.removeprefix(queued) for message in caplog.messages if message.startswith(queued)]
    states = ["creating", "starting", "waitingforstarttask"]
    assert [state for state in log if state in states[-2:]] == states[-2:], log
    assert set(log) <= {*states, "idle", "running"}
    assert seen
    assert all("nodes: 1 starting" in description for description in seen), seen


# What will never come.


def test_a_start_task_that_fails_ends_the_run_with_its_stderr(
    troubled: Azure, troubled_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = BatchStartTask(command_line="/bin/sh -c 'echo no such disk >&2; exit 5'", wait_for_success=True)
    monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda script: failing)
    pool = own_pool(troubled, troubled_run, PoolSettings(dedicated_nodes=2))
    monitored = watched(troubled, troubled_run, pool, make_job(troubled, troubled_run, "true"), pace())
    assert isinstance(monitored.problem, TasksFailed)
    assert [outcome.cause for outcome in monitored.outcomes] == [Cause.NOT_STARTED]
    message, stderr = str(monitored.problem).split("\n")
    assert message.startswith(
        f"no node of pool {pool.id} can run tasks: all 2 are starttaskfailed; the start task ended with exit code 5: "
    )
    assert stderr == "  stderr: no such disk"


def test_given_up_the_prefect_task_fails_without_retry_or_traceback(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    faults.ask("quota", {"nodes": 0})
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "true")
    states: list[State[Monitored]] = []

    def monitor() -> None:
        states.append(monitor_tasks(troubled, troubled_run, pool, added, Patience(), pace(), return_state=True))

    in_flow(monitor)
    (state,) = states
    quota = "AccountCoreQuotaReached: The specified account has reached core quota (NodeQuota: 0)"
    reason = f"pool {pool.id} got no nodes: {quota}"
    assert state.name == "Failed"
    assert (state.message or "").startswith(f"{reason}; ask for a higher quota in the Azure portal, or use ")
    monitored = how_it_ended(state)
    assert isinstance(monitored.problem, TasksFailed)
    assert str(monitored.problem) == state.message
    assert [outcome.cause for outcome in monitored.outcomes] == [Cause.NOT_STARTED]
    task_run_id = state.state_details.task_run_id
    assert task_run_id
    with get_client(sync_client=True) as client:
        wait_until(lambda: client.read_task_run(task_run_id).state_name == "Failed")
        assert client.read_task_run(task_run_id).run_count == 1
    assert not [record for record in caplog.records if record.exc_info]


def test_an_old_error_of_an_existing_autoscale_pool_is_not_final(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    faults.ask("quota", {"nodes": 0})
    own_pool(troubled, troubled_run)
    with troubled.batch() as batch:
        wait_until(lambda: bool(batch.get_pool(troubled_run.pool_id).resize_errors))
        added = make_job(troubled, troubled_run, "true")
        faults.ask("quota", {"nodes": 100})

        def scale() -> None:
            """As the service does every few minutes."""
            formula = BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes = 1; $seen = 1;")
            batch.enable_pool_auto_scale(troubled_run.pool_id, formula)

        theirs = UsedPool(id=troubled_run.pool_id, slots_per_node=1, own=False)
        obstacle = "no node yet; Azure could not allocate: AccountCoreQuotaReached"
        (outcome,) = watch(
            troubled, troubled_run, theirs, added, pace(once(lambda: is_logged(caplog, obstacle), scale))
        )
    assert outcome.succeeded


# Refused before anything exists.


def test_more_slots_than_a_node_of_an_existing_pool_are_refused(
    troubled: Azure, troubled_run: Run, tmp_path: Path
) -> None:
    make_pool(troubled, troubled_run, nodes=0)
    pool = PoolSettings(existing_pool_id=troubled_run.pool_id, slots_per_task=2)
    texts = write_texts(tmp_path / "texts", ["a"])
    state = top_words(inputs=texts, pool=pool, output_folder=str(tmp_path / "results"), return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, InputError), error
    assert "slots_per_task is 2" in str(error)
    assert troubled_run.pool_id in str(error)
    assert left_of_runs(troubled) == [f"pool {troubled_run.pool_id}"]


def left_of_runs(azure: Azure) -> list[str]:
    with azure.batch() as batch, azure.blobs() as blobs:
        found = [f"pool {pool.id}" for pool in batch.list_pools() if pool.state != "deleting"]
        found += [f"job {job.id}" for job in batch.list_jobs() if job.state != "deleting"]
        return found + [f"container {container.name}" for container in blobs.list_containers()]


def test_a_refused_pool_ends_the_run_and_leaves_nothing(troubled: Azure, tmp_path: Path) -> None:
    faults.ask("requests", {"operation": "create_pool", "status": 400})
    texts = write_texts(tmp_path / "texts", ["a"])
    state = top_words(inputs=texts, output_folder=str(tmp_path / "results"), return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ServiceError)
    assert str(error).startswith("Azure Batch answered 400 ")
    assert left_of_runs(troubled) == []
    report = artifact(state, "run-report")
    assert "**1 file: 0 succeeded, 0 failed, 1 did not finish**" in report
    assert "\n> Azure Batch answered 400 " in report
    assert "| deleted | containers, job, pool |" in report


# Cancelled in the UI, although no worker has started it.


def test_a_terminal_run_cancelled_in_the_ui_leaves_nothing(
    troubled: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fates_of(monkeypatch, {"slow": shell("sleep 600")})
    time = Time()

    def cancel() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelling())

    with troubled.batch() as batch:
        began = once(lambda: (job := only_job(batch)) and has_running(batch, job), cancel)

        def beat() -> None:
            began()
            time.passes(1)

        monitor_at(monkeypatch, time.pace(beat))
        state: State[Any] = top_words(
            inputs=write_texts(tmp_path / "texts", ["slow"]),
            pool=ONE_NODE,
            output_folder=str(tmp_path / "results"),
            return_state=True,
        )
    assert state.is_cancelled()
    assert (state.message or "").startswith("the flow run was cancelled in the Prefect UI\nTherefore the summary in ")
    wait_until(lambda: left_of_runs(troubled) == [])


def has_running(batch: BatchClient, job: str) -> bool:
    return batch.get_job_task_counts(job).task_counts.running > 0


# Whole runs that are given up: the file that was done is there, and nothing else is left.


def stall(batch: BatchClient, job: str, time: Time) -> None:
    options = BatchJobDisableOptions(disable_tasks="requeue")
    batch.begin_disable_job(job, options, polling_interval=0.02).wait()  # type: ignore[arg-type]


def silence(batch: BatchClient, job: str, time: Time) -> None:
    faults.ask("requests", {"operation": "get_job_task_counts", "status": 503, "times": 1000})
    time.passes(10)


TROUBLES: dict[str, tuple[Callable[[BatchClient, str, Time], object], type[RunError], str]] = {
    "stalled": (
        stall,
        Stalled,
        r"no Batch task has made progress since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC \(stall_minutes is 9\); "
        r"1 of 3 Batch tasks completed \(1 succeeded, 0 failed\), 0 running, 2 queued; "
        r"nodes: 1 idle; job \S+ is disabled.*",
    ),
    "job deleted": (lambda batch, job, time: batch.begin_delete_job(job), TasksFailed, r"job \S+ is .*"),
    "service silent": (
        silence,
        ServiceError,
        r"no response since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC \(stall_minutes is 9\): "
        "Azure Batch answered 503 ServerBusy: .*",
    ),
}


@pytest.mark.parametrize("trouble", sorted(TROUBLES))
def test_a_run_given_up_has_what_was_done_and_leaves_nothing(
    trouble: str, troubled: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trouble, kind, message = TROUBLES[trouble]
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, duration: None)  # between the SDK's retries
    time = Time()
    fates_of(monkeypatch, {name: shell("sleep 600") for name in ("slow", "tail")})
    with troubled.batch() as batch:

        def one_is_done() -> bool:
            job = only_job(batch)
            found = {task.id: task.state for task in batch.list_tasks(job)} if job else {}
            return found == {"topNtask0": "completed", "topNtask1": "running", "topNtask2": "active"}

        happened: list[bool] = []

        def beat() -> None:
            if not happened and one_is_done():
                happened.append(True)
                make_trouble(batch, str(only_job(batch)), time)
            elif happened:
                time.passes(1)

        monitor_at(monkeypatch, time.pace(beat))
        state: State[Any] = top_words(
            inputs=write_texts(tmp_path / "texts", ["good", "slow", "tail"]),
            top_n=1,
            pool=ONE_NODE,
            limits=TimeLimits(run_minutes=60, stall_minutes=9),
            output_folder=str(tmp_path / "results"),
            return_state=True,
        )
    error = state.result(raise_on_failure=False)
    assert isinstance(error, kind), error
    first, *others = str(error).split("\n")
    assert re.fullmatch(message, first)
    (results,) = (tmp_path / "results").iterdir()
    assert f"Therefore the summary in {results} lacks slow.txt, tail.txt" in others
    assert error.summary
    assert error.summary.by_file[["file", "word", "count"]].values.tolist() == [["good.txt", "good", 2]]
    assert (results / "good.txt" / "good_OUTPUT.txt").exists()
    wait_until(lambda: left_of_runs(troubled) == [])
