"""Step 6: watch the Batch tasks until each has completed, saying what they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from azure.batch import BatchClient
from azure.batch.models import (
    AllocationState,
    BatchJobState,
    BatchNode,
    BatchNodeState,
    BatchTaskCounts,
)
from azure.core.exceptions import AzureError
from prefect.logging import get_run_logger

from tasks.artifacts import MOST_ROWS, TaskBoard, short_node
from tasks.azure import Azure
from tasks.errors import RunTimeout, TasksFailed, without_secrets
from tasks.outcomes import AddedTask, TaskOutcome
from tasks.pool import UsedPool
from tasks.settings import Run
from tasks.steps import step

_TASK_FIELDS = ["id", "state", "executionInfo", "nodeInfo"]
_LOST_NODE_STATES = {BatchNodeState.START_TASK_FAILED, BatchNodeState.UNUSABLE}
_TAIL = 2000  # characters of a stderr.txt that go into the log
_MOST_READ = 100_000  # bytes of it that are looked at
_MOST_FAILURES_LOGGED = 10


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often to look, in seconds: after a tenth of the time waited so far, between the two bounds."""

    shortest: float = 0.2
    longest: float = 15.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def beats(self) -> Iterator[None]:
        start = self.clock()
        while True:
            yield
            self.sleep(min(self.longest, max(self.shortest, (self.clock() - start) / 10)))


@step("6 monitor tasks")
def monitor_tasks(
    azure: Azure,
    run: Run,
    pool: UsedPool,
    tasks: Sequence[AddedTask],
    pace: Pace = Pace(),
) -> list[TaskOutcome]:
    """Wait until all Batch tasks have completed; returns what became of each, in their order.

    A Batch task without success is reported, not raised. Raises TasksFailed when no node of the pool can ever run
    them, and RunTimeout when the job or the run reaches its time limit first.
    """
    with azure.batch() as batch:
        watch = _Watch(batch, run, pool, tasks)
        for _ in pace.beats():
            if watch.look():
                break
        outcomes = watch.outcomes()
        _report_failures(batch, run, outcomes)
    return outcomes


class _Watch:
    """What is known of the tasks, and what has been said about it."""

    def __init__(self, batch: BatchClient, run: Run, pool: UsedPool, tasks: Sequence[AddedTask]) -> None:
        self._batch = batch
        self._run = run
        self._pool = pool
        self._tasks = tasks
        self._board = TaskBoard()
        self._logger = get_run_logger()
        self._said = ""

    def look(self) -> bool:
        """Look once, tell what changed, and return whether all tasks have completed."""
        counts = self._batch.get_job_task_counts(self._run.job_id).task_counts
        waiting_for = "" if counts.running or counts.completed >= len(self._tasks) else self._obstacle()
        self._tell(counts, waiting_for)
        if counts.completed >= len(self._tasks) and all(outcome.completed for outcome in self.outcomes()):
            return True  # the counts alone may be ahead of, or behind, the tasks
        self._check_limits(counts)
        return False

    def outcomes(self) -> list[TaskOutcome]:
        known = {task.id: task for task in self._batch.list_tasks(self._run.job_id, select=_TASK_FIELDS)}
        return [TaskOutcome.of(added, known.get(added.id)) for added in self._tasks]

    def _tell(self, counts: BatchTaskCounts, waiting_for: str) -> None:
        said = (
            f"{counts.completed} of {len(self._tasks)} Batch tasks completed ({counts.succeeded} succeeded, "
            f"{counts.failed} failed), {counts.running} running, {counts.active} queued{waiting_for}"
        )
        if said == self._said:
            return
        self._said = said
        self._logger.info(said)
        few = len(self._tasks) <= MOST_ROWS  # more would cost a page of tasks per thousand, at every look
        if few or counts.completed >= len(self._tasks):
            self._board.show(self.outcomes(), counts.completed, len(self._tasks))

    def _obstacle(self) -> str:
        """What the queued tasks wait for, as the end of a sentence. Raises TasksFailed where waiting is in vain."""
        pool = self._batch.get_pool(self._pool.id)
        nodes = list(self._batch.list_nodes(self._pool.id, select=["id", "state", "startTaskInfo", "errors"]))
        lost = [node for node in nodes if node.state in _LOST_NODE_STATES]
        if lost and len(lost) == len(nodes):
            raise TasksFailed(self._why_lost(lost))
        if pool.resize_errors and not nodes and pool.allocation_state == AllocationState.STEADY:
            reasons = "; ".join(f"{error.code}: {error.message}" for error in pool.resize_errors)
            raise TasksFailed(f"pool {pool.id} got no nodes: {reasons}")
        wanted = (pool.target_dedicated_nodes or 0) + (pool.target_low_priority_nodes or 0)
        if not nodes and not wanted and not pool.enable_auto_scale and pool.allocation_state == AllocationState.STEADY:
            raise TasksFailed(f"pool {pool.id} has no nodes and is not to get any; resize it, or use another")
        if not nodes:
            return f"; pool {pool.id} is {_value(pool.allocation_state)}, no node yet"
        states = sorted(str(_value(node.state)) for node in nodes)
        return "; nodes: " + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))

    def _why_lost(self, lost: Sequence[BatchNode]) -> str:
        node = lost[0]
        why = f"no node of pool {self._pool.id} can run tasks: all {len(lost)} are {_value(node.state)}"
        info = node.start_task_info
        if info and info.failure_info:
            why += f"; the start task ended with exit code {info.exit_code}: {info.failure_info.message}"
            why += _tail(lambda: self._batch.download_node_file(self._pool.id, node.id, "startup/stderr.txt"))
        elif node.errors:
            why += f"; {node.errors[0].code}: {node.errors[0].message}"
        return why

    def _check_limits(self, counts: BatchTaskCounts) -> None:
        left = len(self._tasks) - (counts.completed or 0)
        job = self._batch.get_job(self._run.job_id)
        if job.state in (
            BatchJobState.TERMINATING,
            BatchJobState.COMPLETED,
            BatchJobState.DELETING,
        ) and not all(outcome.completed for outcome in self.outcomes()):
            reason = job.execution_info.termination_reason if job.execution_info else None
            raise RunTimeout(
                f"job {job.id} ended ({reason or _value(job.state)}) with {left} Batch tasks not completed"
            )
        if datetime.now(timezone.utc) >= self._run.expires:
            raise RunTimeout(f"the run reached its limit of {self._run.lifetime} with {left} Batch tasks not completed")


def _report_failures(batch: BatchClient, run: Run, outcomes: Sequence[TaskOutcome]) -> None:
    logger = get_run_logger()
    failed = [outcome for outcome in outcomes if not outcome.succeeded]
    for outcome in failed[:_MOST_FAILURES_LOGGED]:
        tail = _tail(lambda outcome=outcome: batch.download_task_file(run.job_id, outcome.id, "stderr.txt"))  # type: ignore[misc]
        logger.error(
            "Batch task %s (%s) failed with exit code %s on node %s after %d retries: %s%s",
            outcome.id,
            outcome.file,
            outcome.exit_code,
            short_node(outcome.node),
            outcome.retries,
            outcome.failure,
            tail,
        )
    if len(failed) > _MOST_FAILURES_LOGGED:
        logger.error("and %d more Batch tasks failed", len(failed) - _MOST_FAILURES_LOGGED)


def _tail(download: Callable[[], Iterator[bytes]]) -> str:
    """The end of a stderr.txt as further lines of a message; nothing where it is empty or cannot be had."""
    try:
        written = b"".join(download())[-_MOST_READ:]
    except AzureError:
        return ""
    text = without_secrets(written.decode(errors="replace").strip())[-_TAIL:]  # first blanked, then cut
    return "\n  stderr: " + text.replace("\n", "\n  stderr: ") if text else ""


def _value(state: object) -> object:
    return getattr(state, "value", state)
