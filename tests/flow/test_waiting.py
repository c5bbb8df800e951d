"""While a run waits it says for what; what cannot come ends it within seconds, what may come has a limit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch.models import (
    BatchJobCreateOptions,
    BatchJobDisableOptions,
    BatchPoolEnableAutoScaleOptions,
    BatchPoolInfo,
    BatchPoolResizeOptions,
    BatchStartTask,
    BatchTaskCreateOptions,
)
from azure.batch.models._models import BatchJobTerminateOptions  # 15.1 leaves it out of its public names
from azure.core.pipeline.transport import HttpTransport
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelling
from pydantic import ValidationError

import tasks.resources.pool
import tasks.watching.snapshot
from flows.top_words import top_words
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.errors import InputError, RunError, RunTimeout, ServiceError, Stalled, TasksFailed
from tasks.monitor import how_it_ended, monitor_tasks
from tasks.resources.pool import Pool
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask, Cause, Monitored, TaskOutcome
from tasks.run.polling import Polling
from tasks.run.settings import PoolSettings, TimeLimits
from tasks.watching.watch import Patience
from tests.flow.conftest import clear, monitor_at
from tests.flow.test_steps import SCRIPT, in_flow, is_running, make_job, make_pool, new_run, pace, wait_until
from tests.flow.test_top_words import artifact
from tests.flow.test_truth import fates_of, only_job, shell, write_texts

pytestmark = pytest.mark.usefixtures("prefect_server")

ONE_NODE = PoolSettings(dedicated_nodes=1)
AT_ONCE = 20.0  # seconds, on a busy machine

Beat = Callable[[], None]


class Time:
    """The time that monitoring sees, which a test can let pass."""

    def __init__(self) -> None:
        self._passed = timedelta()

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + self._passed

    def passes(self, minutes: float) -> None:
        self._passed += timedelta(minutes=minutes)

    def pace(self, beat: Beat = lambda: None) -> Polling:
        return Polling(sleep=pace(beat).sleep, now=self.now)


def own_pool(azure: Azure, run: Run, settings: PoolSettings = ONE_NODE) -> UsedPool:
    """The run's own pool, with its autoscale formula; where no test asks for one, without a start task."""
    with azure.batch() as batch:
        Pool(batch, run, settings, SCRIPT).create()
    return UsedPool(id=run.pool_id, slots_per_node=1, own=True, spot_nodes=settings.spot_nodes)


@pytest.fixture(autouse=True)
def no_start_task(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "troubled_run" in request.fixturenames:
        monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda script: None)


def watched(
    azure: Azure, run: Run, pool: UsedPool, added: list[AddedTask], looks: Polling, patience: Patience = Patience()
) -> Monitored:
    return in_flow(lambda: how_it_ended(monitor_tasks(azure, run, pool, added, patience, looks, return_state=True)))


def watch(
    azure: Azure, run: Run, pool: UsedPool, added: list[AddedTask], looks: Polling, patience: Patience = Patience()
) -> Sequence[TaskOutcome]:
    monitored = watched(azure, run, pool, added, looks, patience)
    assert monitored.problem is None, monitored.problem
    return monitored.outcomes


def said(log: pytest.LogCaptureFixture, part: str) -> bool:
    return any(part in message for message in log.messages)


def shown() -> list[str]:
    """What the artifacts of the present flow run say of themselves."""
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    with get_client(sync_client=True) as client:
        return [str(each.description) for each in client.read_artifacts(artifact_filter=only)]


def once(happens: Callable[[], object], act: Callable[[], object]) -> Beat:
    """Something that is done at the first beat at which the other is true."""
    done: list[bool] = []

    def beat() -> None:
        if not done and happens():
            done.append(True)
            act()

    return beat


# What is waited for is said.


def test_while_nodes_come_it_is_said_how_far_they_are(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = BatchStartTask(command_line="sleep 0.5", wait_for_success=True)
    monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda script: slow)
    faults.ask("timings", {"allocation": 0.5, "boot": 0.5})
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "true")
    seen: list[str] = []
    watch(
        troubled,
        troubled_run,
        pool,
        added,
        pace(once(lambda: said(caplog, "1 starting"), lambda: seen.extend(shown()))),
    )
    queued = "0 of 1 Batch tasks completed (0 succeeded, 0 failed), 0 running, 1 queued; nodes: 1 "
    log = [message.removeprefix(queued) for message in caplog.messages if message.startswith(queued)]
    states = ["creating", "starting", "waitingforstarttask"]
    assert [state for state in log if state in states[-2:]] == states[-2:], log
    assert set(log) <= {*states, "idle", "running"}
    assert seen
    assert all("nodes: 1 starting" in description for description in seen), seen


def test_behind_the_batch_tasks_of_other_jobs_the_run_says_that_it_waits_for_them(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    other = new_run()
    team = make_pool(troubled, troubled_run, nodes=1)
    with troubled.batch() as batch:
        batch.create_job(BatchJobCreateOptions(id=other.job_id, pool_info=BatchPoolInfo(pool_id=team.id)))
        batch.create_task(other.job_id, BatchTaskCreateOptions(id="theirs", command_line="sleep 600"))
        wait_until(lambda: is_running(batch, other))
        added = make_job(troubled, troubled_run, "true")
        behind = "nodes: 1 running; they run 1 Batch tasks of other jobs first"
        leave = once(lambda: said(caplog, behind), lambda: batch.begin_delete_job(other.job_id))
        (outcome,) = watch(troubled, troubled_run, team, added, pace(leave))
    assert outcome.succeeded
    clear(troubled, other.name)


def test_a_disabled_job_is_named_with_what_lets_it_go_on(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(troubled, troubled_run, nodes=0)
    added = make_job(troubled, troubled_run, "true")
    job = troubled_run.job_id
    with troubled.batch() as batch:
        options = BatchJobDisableOptions(disable_tasks="requeue")
        batch.begin_disable_job(job, options, polling_interval=0.02).wait()  # type: ignore[arg-type]
        batch.begin_resize_pool(pool.id, BatchPoolResizeOptions(target_dedicated_nodes=1), polling_interval=0.02).wait()  # type: ignore[arg-type]
        told = f"job {job} is disabled; enable it with `az batch job enable --job-id {job}`"
        enable = once(lambda: said(caplog, told), lambda: batch.begin_enable_job(job))
        (outcome,) = watch(troubled, troubled_run, pool, added, pace(enable))
    assert outcome.succeeded


def test_an_allocation_that_azure_may_still_grant_is_waited_for_and_said(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    faults.ask("timings", {"allocation": 2})
    faults.ask("resizeerror", {"code": "AllocationFailed", "message": "No more of these today."})
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "true")
    told = "no node yet; Azure could not allocate: AllocationFailed: No more of these today."
    with troubled.batch() as batch:

        def grant() -> None:
            batch.disable_pool_auto_scale(pool.id)
            batch.begin_resize_pool(pool.id, BatchPoolResizeOptions(target_dedicated_nodes=1))

        (outcome,) = watch(troubled, troubled_run, pool, added, pace(once(lambda: said(caplog, told), grant)))
    assert outcome.succeeded
    assert said(caplog, f"pool {pool.id} is resizing, no node yet")


def test_what_does_not_change_is_said_again(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    faults.ask("timings", {"boot": 600})
    pool = make_pool(troubled, troubled_run, nodes=1)
    added = make_job(troubled, troubled_run, "true")
    time = Time()
    patience = Patience(limits=TimeLimits(stall_minutes=12))
    looks = time.pace(lambda: time.passes(0.25))
    assert isinstance(watched(troubled, troubled_run, pool, added, looks, patience).problem, Stalled)
    line = "0 of 1 Batch tasks completed (0 succeeded, 0 failed), 0 running, 1 queued; nodes: 1 starting"
    again = [message for message in caplog.messages if message.startswith("No change since ")]
    assert 15 <= len(again) <= 18  # of what has not changed for long, fewer
    assert all(re.fullmatch(rf"No change since \d\d:\d\d:\d\d UTC: {re.escape(line)}", message) for message in again)
    assert caplog.messages.count(line) == 1


# What cannot come ends the run within seconds.


def ended(azure: Azure, run: Run, pool: UsedPool, added: list[AddedTask], beat: Beat = lambda: None) -> Monitored:
    """How monitoring ended, which it did at once and not at a limit."""
    began = time.monotonic()
    monitored = watched(azure, run, pool, added, pace(beat))
    assert time.monotonic() - began < AT_ONCE
    assert isinstance(monitored.problem, TasksFailed)
    last = monitored.outcomes[-1]
    assert last.cause is (Cause.NOT_RUN if last.requeues else Cause.NOT_STARTED)
    return monitored


def test_a_start_task_that_fails_on_every_node_is_told_with_its_stderr(
    troubled: Azure, troubled_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = BatchStartTask(command_line="/bin/sh -c 'echo no such disk >&2; exit 5'", wait_for_success=True)
    monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda script: failing)
    pool = own_pool(troubled, troubled_run, PoolSettings(dedicated_nodes=2))
    monitored = ended(troubled, troubled_run, pool, make_job(troubled, troubled_run, "true"))
    message, stderr = str(monitored.problem).split("\n")
    assert message.startswith(
        f"no node of pool {pool.id} can run tasks: all 2 are starttaskfailed; the start task ended with exit code 5: "
    )
    assert stderr == "  stderr: no such disk"


def test_nodes_that_are_all_unusable_are_named(troubled: Azure, troubled_run: Run) -> None:
    pool = make_pool(troubled, troubled_run, nodes=2)
    with troubled.batch() as batch:
        wait_until(lambda: [node.state for node in batch.list_nodes(pool.id)] == ["idle"] * 2)
    faults.ask("unusable", {"poolId": pool.id})
    monitored = ended(troubled, troubled_run, pool, make_job(troubled, troubled_run, "true"))
    assert str(monitored.problem) == (
        f"no node of pool {pool.id} can run tasks: all 2 are unusable; NodeUnusable: The node has been made unusable."
    )


@pytest.mark.parametrize(
    "fault",
    [
        ("quota", {"nodes": 0}, "AccountCoreQuotaReached: The specified account has reached core quota"),
        ("resizeerror", {"code": "ImageNotFound", "message": "It is gone."}, "ImageNotFound: It is gone."),
    ],
    ids=["quota", "image"],
)
def test_a_pool_that_can_get_no_nodes_is_named_with_azure_s_reason(
    fault: tuple[str, dict[str, Any], str], troubled: Azure, troubled_run: Run
) -> None:
    operation, properties, reason = fault
    faults.ask(operation, properties)
    pool = own_pool(troubled, troubled_run)
    monitored = ended(troubled, troubled_run, pool, make_job(troubled, troubled_run, "true"))
    assert str(monitored.problem) == f"pool {pool.id} got no nodes: {reason}"


def has_a_node(batch: BatchClient, pool: UsedPool, state: str) -> bool:
    return any(node.state == state for node in batch.list_nodes(pool.id))


POOL_GONE = r"pool \S+ is (gone: somebody deleted it while Batch tasks were queued|being deleted, and not by this run)"


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_pool_that_somebody_deletes_is_named(state: str, troubled: Azure, troubled_run: Run) -> None:
    faults.ask("timings", {"boot": 1 if state == "queued" else 0.03})
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "sleep 600")
    with troubled.batch() as batch:
        happens = (lambda: has_a_node(batch, pool, "starting")) if state == "queued" else (
            lambda: is_running(batch, troubled_run)
        )  # fmt: skip
        monitored = ended(troubled, troubled_run, pool, added, once(happens, lambda: batch.begin_delete_pool(pool.id)))
    assert re.fullmatch(POOL_GONE, str(monitored.problem))


@pytest.mark.parametrize("removal", [0.03, 1.0], ids=["at once", "slowly"])
def test_a_job_that_somebody_deletes_is_named(removal: float, troubled: Azure, troubled_run: Run) -> None:
    faults.ask("timings", {"removal": removal})
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "sleep 600", "sleep 600")
    job = troubled_run.job_id
    with troubled.batch() as batch:
        delete = once(lambda: is_running(batch, troubled_run), lambda: batch.begin_delete_job(job))
        monitored = ended(troubled, troubled_run, pool, added, delete)
    gone, going = "is gone: somebody deleted it", "is being deleted, and not by this run,"
    assert re.fullmatch(rf"job {job} ({gone}|{going}) with [12] Batch tasks not completed", str(monitored.problem))


def test_a_pool_that_somebody_resizes_to_no_node_is_named(troubled: Azure, troubled_run: Run) -> None:
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "sleep 600")
    with troubled.batch() as batch:

        def resize() -> None:
            batch.disable_pool_auto_scale(pool.id)
            batch.begin_resize_pool(pool.id, BatchPoolResizeOptions(target_dedicated_nodes=0))

        monitored = ended(troubled, troubled_run, pool, added, once(lambda: is_running(batch, troubled_run), resize))
    assert str(monitored.problem) == f"pool {pool.id} has no nodes and a target of 0; resize it, or use another"


def test_a_formula_that_asks_for_no_node_any_more_is_named(troubled: Azure, troubled_run: Run) -> None:
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "sleep 600")
    with troubled.batch() as batch:

        def change() -> None:
            formula = BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes = 0;")
            batch.enable_pool_auto_scale(pool.id, formula)

        monitored = ended(troubled, troubled_run, pool, added, once(lambda: is_running(batch, troubled_run), change))
    assert (
        str(monitored.problem) == f"pool {pool.id} has no nodes, and its autoscale formula asks for no nodes any more"
    )
    assert [(outcome.requeues, outcome.retries) for outcome in monitored.outcomes] == [(1, 0)]


def long_the_first_time(marker: Path) -> str:
    return f"test -e {marker} || {{ touch {marker}; sleep 600; }}"


def test_a_node_that_somebody_removes_costs_its_batch_task_no_retry_and_is_said(
    troubled: Azure, troubled_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(troubled, troubled_run, nodes=1)
    marker = tmp_path / "began"
    added = make_job(troubled, troubled_run, long_the_first_time(marker))
    with troubled.batch() as batch:

        def replace_nodes() -> None:
            for nodes in (0, 1):
                size = BatchPoolResizeOptions(target_dedicated_nodes=nodes)
                batch.begin_resize_pool(pool.id, size, polling_interval=0.02).wait()  # type: ignore[arg-type]

        once_it_runs = once(marker.exists, replace_nodes)
        (outcome,) = watch(troubled, troubled_run, pool, added, pace(once_it_runs))
    assert (outcome.succeeded, outcome.requeues, outcome.retries) == (True, 1, 0)
    assert said(caplog, "1 Batch tasks lost their node and are requeued; no retry is used up")


def test_an_old_error_of_a_pool_that_scales_itself_does_not_end_the_run(
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
        told = "no node yet; Azure could not allocate: AccountCoreQuotaReached"
        (outcome,) = watch(troubled, troubled_run, theirs, added, pace(once(lambda: said(caplog, told), scale)))
    assert outcome.succeeded


# Refused before anything exists.


def test_a_task_that_needs_more_slots_than_a_new_node_has_is_refused(troubled: Azure, tmp_path: Path) -> None:
    with pytest.raises(
        ValidationError, match=r"slots_per_task is 3, but a node has 2 \(slots_per_node\); no node could"
    ):
        PoolSettings(slots_per_node=2, slots_per_task=3)


def test_a_task_that_needs_more_slots_than_a_node_of_an_existing_pool_has_is_refused(
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


def test_a_pool_that_azure_refuses_ends_the_run_with_azure_s_answer_and_leaves_nothing(
    troubled: Azure, tmp_path: Path
) -> None:
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


def test_a_service_that_does_not_say_for_a_while_how_the_tasks_are_is_asked_again(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, duration: None)
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "true")
    tries = 4  # of the SDK for one look
    faults.ask("requests", {"operation": "get_job_task_counts", "status": 503, "times": 3 * tries})
    (outcome,) = watch(troubled, troubled_run, pool, added, pace())
    assert outcome.succeeded
    asked_again = [message for message in caplog.messages if message.startswith("Could not read task states, retrying")]
    assert len(asked_again) == 3


def test_of_a_job_that_is_gone_the_outputs_are_looked_at_once_however_many_tasks_it_had(
    troubled: Azure, troubled_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def outputs(azure: Azure, run: Run) -> set[str]:
        looks.append(run.name)
        return {"0_OUTPUT.txt", "2_OUTPUT.txt"}

    monkeypatch.setattr(tasks.watching.snapshot, "outputs_there", outputs)
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, *["sleep 600"] * 4)
    with troubled.batch() as batch:
        delete = once(
            lambda: is_running(batch, troubled_run), lambda: batch.begin_delete_job(troubled_run.job_id).wait()
        )
        monitored = ended(troubled, troubled_run, pool, added, delete)
    assert [outcome.succeeded for outcome in monitored.outcomes] == [True, False, True, False]
    assert looks == [troubled_run.name]


def test_a_job_that_vanishes_once_all_is_counted_fails_nothing(
    troubled: Azure, troubled_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.watching.snapshot, "outputs_there", lambda azure, run: {"0_OUTPUT.txt"})
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "sleep 600")
    with troubled.batch() as batch:
        delete = once(
            lambda: is_running(batch, troubled_run), lambda: batch.begin_delete_job(troubled_run.job_id).wait()
        )
        (outcome,) = watch(troubled, troubled_run, pool, added, pace(delete))
    assert (outcome.succeeded, outcome.earlier) == (True, True)


def test_counts_that_stay_behind_neither_keep_a_run_waiting_nor_have_the_last_word(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    pool = own_pool(troubled, troubled_run)
    added = make_job(troubled, troubled_run, "true")
    with troubled.batch() as batch:
        wait_until(lambda: batch.get_task(troubled_run.job_id, added[0].id).state == "completed")
        options = BatchJobTerminateOptions(termination_reason="AllTasksComplete")
        batch.begin_terminate_job(troubled_run.job_id, options, polling_interval=0.02).wait()  # type: ignore[arg-type]
    faults.ask("taskcounts", {"stale": 100_000})
    monitored, descriptions = in_flow(
        lambda: (monitor_tasks(troubled, troubled_run, pool, added, Patience(), pace()), shown())
    )
    assert [outcome.succeeded for outcome in monitored.outcomes] == [True]
    last_word = "1 of 1 Batch tasks completed (1 succeeded, 0 failed)"
    assert descriptions == [last_word] * 2
    assert [message for message in caplog.messages if " Batch tasks " in message][-1] == last_word


# Cancelled in the UI, although no worker has started it.


def test_a_run_in_a_terminal_that_is_cancelled_in_the_ui_ends_and_leaves_nothing(
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


# Whole runs that are given up: the file that was counted is there, and nothing else is left.


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
    "run limit": (
        lambda batch, job, time: time.passes(61),
        RunTimeout,
        "the run reached its limit of 1:00:00 with 2 Batch tasks not completed",
    ),
    "pool deleted": (lambda batch, job, time: batch.begin_delete_pool(job), TasksFailed, POOL_GONE),
    "job terminated": (
        lambda batch, job, time: batch.begin_terminate_job(job, BatchJobTerminateOptions(termination_reason="Enough")),
        TasksFailed,
        r"job \S+ ended \(Enough\) with [12] Batch tasks not completed",
    ),
    "job deleted": (lambda batch, job, time: batch.begin_delete_job(job), TasksFailed, r"job \S+ is .*"),
    "right taken away": (
        lambda batch, job, time: faults.ask("requests", {"operation": "get_job_task_counts", "status": 403}),
        ServiceError,
        "Azure Batch answered 403 AuthenticationFailed: .*",
    ),
    "service silent": (
        silence,
        ServiceError,
        r"no response since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC \(stall_minutes is 9\): "
        "Azure Batch answered 503 ServerBusy: .*",
    ),
}


@pytest.mark.parametrize("trouble", sorted(TROUBLES))
def test_a_run_that_is_given_up_has_what_was_counted_and_leaves_nothing(
    trouble: str, troubled: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trouble, kind, message = TROUBLES[trouble]
    time = Time()
    fates_of(monkeypatch, {name: shell("sleep 600") for name in ("slow", "tail")})
    with troubled.batch() as batch:

        def one_is_counted() -> bool:
            job = only_job(batch)
            found = {task.id: task.state for task in batch.list_tasks(job)} if job else {}
            return found == {"topNtask0": "completed", "topNtask1": "running", "topNtask2": "active"}

        happened: list[bool] = []

        def beat() -> None:
            if not happened and one_is_counted():
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
    assert (results / "good_OUTPUT.txt").exists()
    wait_until(lambda: left_of_runs(troubled) == [])
