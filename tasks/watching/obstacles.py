"""Why queued Batch tasks are not running, and whether they ever will."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from azure.batch.models import (
    AllocationState,
    AutoScaleRun,
    BatchJob,
    BatchJobState,
    BatchNode,
    BatchNodeState,
    BatchPool,
    BatchPoolState,
    BatchTaskState,
)

from tasks.errors import RunError, RunTimeout, TasksFailed
from tasks.errors.advice import advice
from tasks.errors.codes import SPOT_QUOTAS, TEMPORARY_ALLOCATIONS, Code, Where
from tasks.resources.allocation import described
from tasks.resources.pool import LOST_NODES
from tasks.run.identity import UsedPool
from tasks.watching.limits import Limits
from tasks.watching.sizes import NextSize, next_size, no_size_left
from tasks.watching.snapshot import Part, Snapshot


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why queued tasks wait, as the end of a sentence.

    next_size: the VM size to try, of a pool that got no nodes.

    fewer: why the pool got only some of its nodes, with which the run goes on.
    """

    text: str = ""
    next_size: NextSize | None = None
    fewer: str = ""


def why_waiting(snapshot: Snapshot, used: UsedPool, limits: Limits) -> Waiting:
    """Why the queued tasks wait. Raises TasksFailed if they will never run."""
    pool, nodes = _pool(snapshot, used.id), snapshot.nodes
    lost = [node for node in nodes if node.state in LOST_NODES]
    # The formula of an existing pool may ask for nodes once it counts the tasks; until then no fact is final.
    scaled_by_others = bool(pool.enable_auto_scale) and not used.own
    final = not scaled_by_others or _scaled_since(pool, when_added(snapshot, limits))
    # While a pool still changes its size, others may come: all that exist need not be all there will be.
    if final and lost and len(lost) == len(nodes) and pool.allocation_state == AllocationState.STEADY:
        raise TasksFailed(_why_lost(snapshot, used.id, lost, limits.names))
    helped = used.own and limits.dedicated_after_minutes is not None
    found = _refused(pool, nodes, used, helped, limits.names) if final else Waiting(text=_resize_errors(pool))
    parts = [f"nodes: {_states(nodes)}" if nodes else f"pool {pool.id} is {_value(pool.allocation_state)}, no node yet"]
    parts += [f"VM size {used.vm_size} instead of {used.instead_of}"] if used.refused_sizes else []
    parts += [f"Azure could not allocate: {found.text}"] if found.text else []
    parts += [why for why in (_disabled(snapshot, limits.job_id), _busy(limits.job_id, nodes)) if why]
    return Waiting(text="; ".join(parts), next_size=found.next_size, fewer=_fewer(pool, nodes, used))


def when_added(snapshot: Snapshot, limits: Limits) -> datetime:
    """When the first Batch task was added, by the service's clock. Raises the reason if that is unknown."""
    snapshot.need(Part.TASKS_ADDED)
    if snapshot.tasks_added is not None:
        return snapshot.tasks_added
    snapshot.need(Part.JOB)
    gone = f"the first Batch task of job {limits.job_id} is gone: somebody deleted it{_gone(Code.TASK_NOT_FOUND)}"
    raise why_ended(snapshot.job, limits.job_id, limits.tasks) or TasksFailed(gone)


def _pool(snapshot: Snapshot, pool_id: str) -> BatchPool:
    snapshot.need(Part.POOL)
    if snapshot.pool is None:
        raise TasksFailed(
            f"pool {pool_id} is gone: somebody deleted it while Batch tasks were queued{_gone(Code.POOL_NOT_FOUND)}"
        )
    if snapshot.pool.state == BatchPoolState.DELETING:
        raise TasksFailed(f"pool {pool_id} is being deleted, and not by this run")
    return snapshot.pool


def _refused(
    pool: BatchPool,
    nodes: Sequence[BatchNode],
    used: UsedPool,
    helped: bool,
    names: Mapping[str, str] | None = None,
) -> Waiting:
    """Why the last allocation failed; empty if it did not. Raises TasksFailed if there will never be a node."""
    errors = pool.resize_errors or []
    reasons = Waiting(text=_resize_errors(pool))
    if nodes or pool.allocation_state != AllocationState.STEADY:
        return reasons
    scales = used.own and pool.enable_auto_scale  # by the run's own formula, unless somebody has switched it off
    run = _evaluation(pool) if scales else None
    if scales and (run is None or (errors and not _resized_since_change(pool))):
        return reasons  # these are old: no allocation has ended since the run's formula, or its VM size, was set
    if errors:
        following = next_size(used, errors, helped=helped) if scales else None
        if following:
            return replace(reasons, next_size=following)
        if not (pool.enable_auto_scale and all(_may_pass(error.code, helped) for error in errors)):
            raise TasksFailed(no_size_left(used, errors, names))
    if run and (run.error or not _asks_for_nodes(pool, run)):
        why = f"could not be computed: {run.error.message}" if run.error else "asks for no nodes any more"
        raise TasksFailed(f"pool {pool.id} has no nodes, and its autoscale formula {why}")
    if not pool.enable_auto_scale and not (pool.target_dedicated_nodes or 0) + (pool.target_low_priority_nodes or 0):
        raise TasksFailed(f"pool {pool.id} has no nodes and a target of 0; resize it, or use another")
    return reasons


def _fewer(pool: BatchPool, nodes: Sequence[BatchNode], used: UsedPool) -> str:
    """Why the run's own pool got only some of its nodes; empty where it got all, or none."""
    some = 0 < len(nodes) < used.nodes and pool.allocation_state == AllocationState.STEADY
    if not (used.own and some and pool.resize_errors):
        return ""
    return f"got {len(nodes)} of its {used.nodes} nodes and goes on with them: {_resize_errors(pool)}"


def _may_pass(code: str | None, helped: bool) -> bool:
    """Whether nodes may still come without any change; helped: dedicated ones will be added to spot nodes."""
    return code in TEMPORARY_ALLOCATIONS or (helped and code in SPOT_QUOTAS)


def _resized_since_change(pool: BatchPool) -> bool:
    """Whether an allocation has ended since the pool was changed. Both times are the service's own."""
    settled = pool.allocation_state_transition_time
    return settled is None or settled >= pool.last_modified


def _resize_errors(pool: BatchPool) -> str:
    return "; ".join(map(described, pool.resize_errors or ()))


def _scaled_since(pool: BatchPool, added: datetime) -> bool:
    """Whether the pool's formula was evaluated, and the resize finished, after the tasks were added.

    Both times are the service's own. An error of an earlier resize says nothing about the next one.
    """
    run, settled = pool.auto_scale_run, pool.allocation_state_transition_time
    return run is not None and settled is not None and min(run.timestamp, settled) > added


def _evaluation(pool: BatchPool) -> AutoScaleRun | None:
    """The last evaluation of the pool's current formula; None before the first: Azure evaluates every few minutes.

    All times are the service's own. The results of an evaluation may appear only when the pool is steady.
    """
    run = pool.auto_scale_run
    if run is None:
        return None
    settled = max(run.timestamp, pool.allocation_state_transition_time or run.timestamp)
    return run if pool.last_modified <= settled else None


def _asks_for_nodes(pool: BatchPool, run: AutoScaleRun) -> bool:
    """Whether the formula asks for nodes, even if the pool's targets do not show them yet."""
    asked = re.findall(r"\$Target(?:Dedicated|LowPriority)Nodes=(\d+)", run.results or "")
    there = (pool.target_dedicated_nodes or 0, pool.target_low_priority_nodes or 0)
    return any(map(int, asked)) or any(there)


def _disabled(snapshot: Snapshot, job_id: str) -> str:
    snapshot.need(Part.JOB)
    if snapshot.job and snapshot.job.state in (BatchJobState.DISABLED, BatchJobState.DISABLING):
        return f"job {job_id} is disabled; enable it with `az batch job enable --job-id {job_id}`"
    return ""


def _busy(job_id: str, nodes: Sequence[BatchNode]) -> str:
    ready = [node for node in nodes if node.state in (BatchNodeState.IDLE, BatchNodeState.RUNNING)]
    running = sum((node.running_tasks_count or 0) - _running_of(job_id, node) for node in ready)
    return f"they run {running} Batch tasks of other jobs first" if running > 0 else ""


def _running_of(job_id: str, node: BatchNode) -> int:
    """How many of the job's own tasks have begun on the node since they were counted as queued."""
    recent = [task for task in node.recent_tasks or () if task.job_id == job_id]
    return sum(task.task_state == BatchTaskState.RUNNING for task in recent)


def _why_lost(snapshot: Snapshot, pool_id: str, lost: Sequence[BatchNode], names: Mapping[str, str]) -> str:
    node = lost[0]
    why = f"no node of pool {pool_id} can run tasks: all {len(lost)} are {_value(node.state)}"
    info = node.start_task_info
    if info and info.failure_info:
        snapshot.need(Part.START_TASK_STDERR)
        failure = info.failure_info
        ended = f"ended with exit code {info.exit_code}" if info.exit_code is not None else f"failed: {failure.code}"
        why += f"; the start task {ended}: {failure.message}{advice(Where.TASK, failure.code, names=names)}"
        why += snapshot.start_task_stderr.get(str(node.id), "")
    elif node.errors:
        error = node.errors[0]
        why += f"; {error.code}: {error.message}{advice(Where.NODE, error.code, names=names)}"
    return why


def _states(nodes: Sequence[BatchNode]) -> str:
    return ", ".join(
        f"{count} {state}" for state, count in sorted(Counter(_value(node.state) for node in nodes).items())
    )


def _value(state: object) -> str:
    return str(getattr(state, "value", state))


def _gone(code: Code) -> str:
    return advice(Where.REQUEST, code)


def job_gone(job_id: str, left: int) -> TasksFailed:
    lost = f"{left} Batch tasks not completed{_gone(Code.JOB_NOT_FOUND)}"
    return TasksFailed(f"job {job_id} is gone: somebody deleted it with {lost}")


def why_ended(job: BatchJob | None, job_id: str, left: int) -> RunError | None:
    """Why a job will not run the remaining tasks; None if it still may."""
    if job is None:
        return job_gone(job_id, left)
    if job.state == BatchJobState.DELETING:
        return TasksFailed(f"job {job_id} is being deleted, and not by this run, with {left} Batch tasks not completed")
    if job.state not in (BatchJobState.TERMINATING, BatchJobState.COMPLETED):
        return None
    reason = (job.execution_info.termination_reason if job.execution_info else None) or _value(job.state)
    error = RunTimeout if reason == Code.JOB_TIME_LIMIT else TasksFailed
    return error(f"job {job_id} ended ({reason}) with {left} Batch tasks not completed{advice(Where.JOB, reason)}")
