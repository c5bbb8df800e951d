"""What queued Batch tasks wait for, and which waits are in vain."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from azure.batch import BatchClient
from azure.batch.models import (
    AllocationState,
    AutoScaleRun,
    BatchJobState,
    BatchNode,
    BatchNodeState,
    BatchPool,
    BatchPoolState,
    BatchTaskState,
)
from azure.core.exceptions import ResourceNotFoundError

from tasks.errors import RunError, RunTimeout, TasksFailed
from tasks.resources.pool import LOST_NODES
from tasks.run.identity import UsedPool
from tasks.watching.logs import start_task_stderr

_NODE_FIELDS = ["id", "state", "startTaskInfo", "errors", "runningTasksCount", "recentTasks"]
# Allocations that Azure may still grant, at one of the formula's next evaluations. Others, such as a quota that is
# used up or an image that is gone, stay as they are.
_PASSING = {"AllocationFailed", "AllocationTimedOut", "AllocationTimedout", "ResizeStopped", "ReservedCapacityFailed"}
_SPOT_ONLY = {"AccountLowPriorityCoreQuotaReached", "AccountSpotCoreQuotaReached"}


def what_is_waited_for(
    batch: BatchClient, pool: UsedPool, job_id: str, tasks_added: Callable[[], datetime], *, helped: bool = False
) -> str:
    """What the queued tasks wait for, as the end of a sentence. Raises TasksFailed where it cannot come.

    `tasks_added` is asked when the tasks were added, by the service's clock, where that matters; `helped` says that
    dedicated nodes are added where spot nodes cannot be had.
    """
    present, nodes = _pool(batch, pool.id)
    lost = [node for node in nodes if node.state in LOST_NODES]
    # The formula of somebody else's pool may ask for nodes once it sees the tasks; until then no fact is final.
    scaled_by_others = bool(present.enable_auto_scale) and not pool.own
    final = not scaled_by_others or _scaled_since(present, tasks_added())
    # While a pool still changes its size, others may come: all that are there need not be all there will be.
    if final and lost and len(lost) == len(nodes) and present.allocation_state == AllocationState.STEADY:
        raise TasksFailed(_why_lost(batch, pool.id, lost))
    reasons = _refused(present, nodes, pool.own, helped) if final else _resize_errors(present)
    parts = [
        f"nodes: {_states(nodes)}" if nodes else f"pool {pool.id} is {_value(present.allocation_state)}, no node yet"
    ]
    parts += [f"Azure could not allocate: {reasons}"] if reasons else []
    parts += [why for why in (_paused(batch, job_id), _busy(job_id, nodes)) if why]
    return "; ".join(parts)


def _pool(batch: BatchClient, pool_id: str) -> tuple[BatchPool, list[BatchNode]]:
    """The pool and its nodes. Raises TasksFailed where it is gone or going, also between the two questions."""
    try:
        pool = batch.get_pool(pool_id)
        nodes = list(batch.list_nodes(pool_id, select=_NODE_FIELDS))
    except ResourceNotFoundError:
        raise TasksFailed(f"pool {pool_id} is gone: somebody deleted it while the tasks waited") from None
    if pool.state == BatchPoolState.DELETING:
        raise TasksFailed(f"pool {pool_id} is being deleted, and not by this run")
    return pool, nodes


def _refused(pool: BatchPool, nodes: Sequence[BatchNode], own: bool, helped: bool) -> str:
    """Why the last allocation failed, or nothing. Raises TasksFailed where there are no nodes and will be none."""
    reasons = _resize_errors(pool)
    if nodes or pool.allocation_state != AllocationState.STEADY:
        return reasons
    scales = own and pool.enable_auto_scale  # by the run's own formula, unless somebody has switched it off
    run = _evaluation(pool) if scales else None
    if scales and run is None:
        return reasons  # what they tell of is over: the run's formula has not been evaluated since it was set
    passing = _PASSING | (_SPOT_ONLY if helped else set())
    may_pass = pool.enable_auto_scale and all(error.code in passing for error in pool.resize_errors or ())
    if reasons and not may_pass:
        raise TasksFailed(f"pool {pool.id} got no nodes: {reasons}")
    if run and (run.error or not _asks_for_nodes(pool, run)):
        why = f"could not be computed: {run.error.message}" if run.error else "asks for none any more"
        raise TasksFailed(f"pool {pool.id} has no nodes, and its autoscale formula {why}")
    if not pool.enable_auto_scale and not (pool.target_dedicated_nodes or 0) + (pool.target_low_priority_nodes or 0):
        raise TasksFailed(f"pool {pool.id} has no nodes and is not to get any; resize it, or use another")
    return reasons


def _resize_errors(pool: BatchPool) -> str:
    return "; ".join(f"{error.code}: {error.message}" for error in pool.resize_errors or ())


def _scaled_since(pool: BatchPool, added: datetime) -> bool:
    """Whether the pool's formula was evaluated, and what that changed has ended, after the tasks were added.

    Both times are the service's own. An error of an older change of size tells nothing of what comes next.
    """
    run, settled = pool.auto_scale_run, pool.allocation_state_transition_time
    return run is not None and settled is not None and min(run.timestamp, settled) > added


def _evaluation(pool: BatchPool) -> AutoScaleRun | None:
    """That of the pool's present formula; None before there is one: Azure evaluates every few minutes, not at once.

    All times are the service's own. It may take until the pool is steady for what an evaluation changed to be written.
    """
    run = pool.auto_scale_run
    if run is None:
        return None
    settled = max(run.timestamp, pool.allocation_state_transition_time or run.timestamp)
    return run if pool.last_modified <= settled else None


def _asks_for_nodes(pool: BatchPool, run: AutoScaleRun) -> bool:
    """Whether the formula's result has nodes in it, also where the pool's targets do not show them yet."""
    asked = re.findall(r"\$Target(?:Dedicated|LowPriority)Nodes=(\d+)", run.results or "")
    there = (pool.target_dedicated_nodes or 0, pool.target_low_priority_nodes or 0)
    return any(map(int, asked)) or any(there)


def _paused(batch: BatchClient, job_id: str) -> str:
    """Why a job that is there starts no task."""
    try:
        state = batch.get_job(job_id).state
    except ResourceNotFoundError:  # deleted just now, as the next look will find
        return ""
    if state in (BatchJobState.DISABLED, BatchJobState.DISABLING):
        return f"job {job_id} is disabled; `az batch job enable --job-id {job_id}` lets it go on"
    return ""


def _busy(job_id: str, nodes: Sequence[BatchNode]) -> str:
    ready = [node for node in nodes if node.state in (BatchNodeState.IDLE, BatchNodeState.RUNNING)]
    running = sum((node.running_tasks_count or 0) - _running_of(job_id, node) for node in ready)
    return f"they run {running} Batch tasks of other jobs first" if running > 0 else ""


def _running_of(job_id: str, node: BatchNode) -> int:
    """How many of the job's own tasks have begun on the node since they were counted as queued."""
    recent = [task for task in node.recent_tasks or () if task.job_id == job_id]
    return sum(task.task_state == BatchTaskState.RUNNING for task in recent)


def _why_lost(batch: BatchClient, pool_id: str, lost: Sequence[BatchNode]) -> str:
    node = lost[0]
    why = f"no node of pool {pool_id} can run tasks: all {len(lost)} are {_value(node.state)}"
    info = node.start_task_info
    if info and info.failure_info:
        why += f"; the start task ended with exit code {info.exit_code}: {info.failure_info.message}"
        why += start_task_stderr(batch, pool_id, node.id)
    elif node.errors:
        why += f"; {node.errors[0].code}: {node.errors[0].message}"
    return why


def _states(nodes: Sequence[BatchNode]) -> str:
    return ", ".join(
        f"{count} {state}" for state, count in sorted(Counter(_value(node.state) for node in nodes).items())
    )


def _value(state: object) -> str:
    return str(getattr(state, "value", state))


def why_ended(batch: BatchClient, job_id: str, left: int) -> RunError | None:
    """Why a job will not run the tasks that are left, or None where it still may."""
    try:
        job = batch.get_job(job_id)
    except ResourceNotFoundError:
        return TasksFailed(f"job {job_id} is gone: somebody deleted it with {left} Batch tasks not completed")
    if job.state == BatchJobState.DELETING:
        return TasksFailed(f"job {job_id} is being deleted, and not by this run, with {left} Batch tasks not completed")
    if job.state not in (BatchJobState.TERMINATING, BatchJobState.COMPLETED):
        return None
    reason = (job.execution_info.termination_reason if job.execution_info else None) or _value(job.state)
    error = RunTimeout if reason == "MaxWallClockTimeExpiry" else TasksFailed
    return error(f"job {job_id} ended ({reason}) with {left} Batch tasks not completed")
