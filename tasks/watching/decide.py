"""Decides what to do after a look, from its snapshot and from earlier looks: without a client, clock or logger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from azure.batch.models import BatchTaskState

from tasks.errors import CostLimit, RunError, RunTimeout, Stalled, TasksFailed
from tasks.errors.service import ServiceError
from tasks.resources.pool import EVALUATION_INTERVAL, FORMULAS_APART
from tasks.run.outcomes import TaskOutcome
from tasks.watching.cost import later_deadline, within_cost
from tasks.watching.due import Due, due
from tasks.watching.limits import Limits
from tasks.watching.memory import Memory
from tasks.watching.obstacles import Waiting, job_gone, when_added, why_ended, why_waiting
from tasks.watching.progress import Progress
from tasks.watching.sizes import NextSize
from tasks.watching.snapshot import NotRead, Part, Snapshot

CHANCE = EVALUATION_INTERVAL + timedelta(minutes=1)  # of a VM size for which Azure has no capacity


class Action(Enum):
    """What to do after a look."""

    READ = "read a further part, then decide again"
    GO_ON = "look again later"
    ADD_DEDICATED = "add dedicated nodes, then look again later"
    LATER_DEADLINE = "give the pool the later deadline that its budget allows, then look again later"
    NEXT_SIZE = "give the pool the VM size of the memory's `changing`, then look again later"
    ALL_COMPLETED = "end: all Batch tasks have completed"
    GIVE_UP = "end: the Batch tasks that are left will not complete"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The result of one look."""

    action: Action
    memory: Memory  # for the next look
    part: Part | None = None  # to read
    problem: RunError | None = None  # why watching is given up
    counts: Progress | None = None
    line: str = ""  # for the log
    outlook: str = ""  # rate and time left, as the end of a sentence
    late: str = ""  # that the run ends before its Batch tasks complete
    warns: bool = False  # of being late
    fewer: str = ""  # why the pool got only some of its nodes
    shown: Sequence[TaskOutcome] | None = None  # for the table of Batch tasks; None where it is not due


def decide(snapshot: Snapshot, memory: Memory, limits: Limits, now: datetime) -> Decision:
    """Decide what to do after this look; READ while the snapshot lacks a part that the decision needs."""
    if not limits.tasks:
        return Decision(action=Action.ALL_COMPLETED, memory=memory)
    try:
        counts = _counts(snapshot, limits)
        return _decide(snapshot, counts, memory, limits, now)
    except NotRead as missing:
        return Decision(action=Action.READ, memory=memory, part=missing.part)
    except (TasksFailed, RunTimeout) as problem:  # the job, or a task of it, is gone
        return Decision(action=Action.GIVE_UP, memory=memory, problem=problem)


def _counts(snapshot: Snapshot, limits: Limits) -> Progress:
    snapshot.need(Part.COUNTS)
    if snapshot.counts is None:
        snapshot.need(Part.JOB)
        raise why_ended(snapshot.job, limits.job_id, limits.tasks) or job_gone(limits.job_id, limits.tasks)
    return snapshot.counts


def _updated(snapshot: Snapshot, counts: Progress, memory: Memory, news: Due, limits: Limits, now: datetime) -> Memory:
    """The memory with what the snapshot adds to it."""
    if news.losses and memory.pool.spot_nodes:
        memory = _with_preempted(snapshot, memory, limits, now)
    if snapshot.tasks:
        memory = memory.with_tasks(snapshot.tasks, now)
    if snapshot.has(Part.SHOWN_TASKS):
        memory = replace(memory, table_read=now, failed_read=counts.failed)
    running_makes_progress = bool(counts.running) and _running_makes_progress(snapshot, memory, now)
    return memory.with_counts(counts, now, running_makes_progress=running_makes_progress)


def _with_preempted(snapshot: Snapshot, memory: Memory, limits: Limits, now: datetime) -> Memory:
    """Counts the spot nodes that were preempted since the last look, and since there were tasks to run on them."""
    snapshot.need(Part.PREEMPTED)
    preempted = snapshot.preempted
    if preempted is None:  # the pool is gone, which the decision finds once tasks wait for it
        return memory
    new = preempted.keys() - memory.preempted
    if new:
        added = when_added(snapshot, limits)
        new = {id for id in new if (since := preempted[id]) is None or since >= added}
    return memory.with_preempted(preempted.keys(), new, now)


def _running_makes_progress(snapshot: Snapshot, memory: Memory, now: datetime) -> bool:
    """Whether the running tasks make progress, and do not lose their nodes each time soon after they start."""
    if not memory.losses.keeps_losing_nodes:
        return True
    snapshot.need(Part.RUNNING_TASKS)
    running = (each for each in _listed(snapshot, memory) if each.state == BatchTaskState.RUNNING)
    return any(memory.losses.makes_progress(each, now) for each in running)


def _listed(snapshot: Snapshot, memory: Memory) -> list[TaskOutcome]:
    """The listed tasks, with what is known of them."""
    return [found for id in snapshot.tasks or () if (found := memory.outcome(id))]


def _decide(snapshot: Snapshot, counts: Progress, memory: Memory, limits: Limits, now: datetime) -> Decision:
    if snapshot.has(Part.TASKS) and snapshot.tasks is None:
        raise job_gone(limits.job_id, counts.left)
    if not counts.left:  # by the counts, which may be ahead of the tasks
        snapshot.need(Part.TASKS)
        last = _updated(snapshot, counts, memory, Due(), limits, now)
        if not last.left:
            return Decision(action=Action.ALL_COMPLETED, memory=last, counts=counts)
    # That none runs just now is no wait where some have completed since the last look.
    waits = not counts.running and counts.left > 0 and counts.completed <= memory.completed
    # While the pool is given another VM size, its state says nothing.
    looks = waits and memory.changing is None
    waiting, problem = _obstacle(snapshot, memory, limits) if looks else (Waiting(), None)
    waiting_for = waiting.text
    news = due(memory, counts, waiting_for, now)
    if news.table and problem is None:
        snapshot.need(Part.SHOWN_TASKS)
    memory = _updated(snapshot, counts, memory, news, limits, now)
    memory = _with_size(waiting.next_size, memory.with_offer(waiting.next_size, bool(counts.running), now), limits, now)
    memory, line = memory.with_line(counts, waiting_for, now) if news.line else (memory, "")
    memory, late, warns = memory.lateness(counts, limits, now) if counts.running else (memory, "", False)
    action = Action.GIVE_UP
    try:
        memory = within_cost(snapshot, memory, limits.budget, counts.left, now)
        # Only a job that has ended runs no task.
        ended = problem is None and (waits or news.stagnant) and _job_has_ended(snapshot, counts, memory, limits)
        if _gets_later_deadline(snapshot, memory, limits, now):
            problem = None  # it may be that the pool has reached its deadline
        if problem is None:
            action = Action.ALL_COMPLETED if ended else _within_limits(snapshot, counts, memory, limits, now)
    except (TasksFailed, RunTimeout, CostLimit, Stalled) as found:
        problem = found
    return Decision(
        action=action,
        memory=memory,
        problem=problem,
        counts=counts,
        line=line,
        outlook=memory.outlook(counts),
        late=late,
        warns=warns,
        fewer=waiting.fewer,
        shown=_listed(snapshot, memory) if snapshot.has(Part.SHOWN_TASKS) else None,
    )


def _obstacle(snapshot: Snapshot, memory: Memory, limits: Limits) -> tuple[Waiting, RunError | None]:
    """Why the queued tasks wait, or why they will never run."""
    try:
        return why_waiting(snapshot, memory.pool, limits), None
    except (TasksFailed, RunTimeout) as problem:
        return Waiting(), problem


def _with_size(offered: NextSize | None, memory: Memory, limits: Limits, now: datetime) -> Memory:
    """The memory with the VM size that the pool is to get, if the present one has had its chance.

    A lack of capacity may pass, so that the formula is evaluated once more before another size is tried.
    """
    if offered is None or memory.refused_since is None or _too_soon(memory, now):
        return memory
    chance = timedelta() if offered.at_once else min(CHANCE, limits.stall / 2)
    return replace(memory, changing=offered) if now - memory.refused_since >= chance else memory


def _too_soon(memory: Memory, now: datetime) -> bool:
    """Whether the service would refuse another formula."""
    return memory.formula_set is not None and now - memory.formula_set < FORMULAS_APART


def _job_has_ended(snapshot: Snapshot, counts: Progress, memory: Memory, limits: Limits) -> bool:
    """Whether the job has ended with all tasks completed. Raises the reason if it ended with tasks left."""
    snapshot.need(Part.JOB)
    if why_ended(snapshot.job, limits.job_id, counts.left) is None:
        return False
    snapshot.need(Part.TASKS)
    if memory.left and (ended := why_ended(snapshot.job, limits.job_id, memory.left)):
        raise ended
    return True


def _within_limits(snapshot: Snapshot, counts: Progress, memory: Memory, limits: Limits, now: datetime) -> Action:
    """Raises RunTimeout or Stalled if a limit is reached."""
    if now >= limits.expires:
        snapshot.need(Part.LATEST_TASKS)
        left = memory.left if snapshot.has(Part.TASKS) else counts.left
        raise RunTimeout(f"the run reached its limit of {limits.lifetime} with {left} Batch tasks not completed")
    if memory.changing:
        return Action.NEXT_SIZE
    # Nodes that were added, or are of another size, get their time, too.
    stalled = now - max(memory.last_progress, memory.nodes_asked or memory.last_progress) >= limits.stall
    if _needs_dedicated(memory, limits, now) and not (stalled and memory.resize_refused):
        return Action.ADD_DEDICATED
    if stalled:
        snapshot.need(Part.LATEST_TASKS)  # the counts may lag behind
        raise Stalled(
            f"no Batch task has made progress since {_time(memory.last_progress)} "
            f"(stall_minutes is {limits.stall_minutes}); {memory.last_status}"
        )
    return Action.LATER_DEADLINE if _gets_later_deadline(snapshot, memory, limits, now) else Action.GO_ON


def _gets_later_deadline(snapshot: Snapshot, memory: Memory, limits: Limits, now: datetime) -> bool:
    """Whether the pool is to get another deadline, and the service would take it now."""
    return later_deadline(snapshot, memory, limits, now) is not None and not _too_soon(memory, now)


def _needs_dedicated(memory: Memory, limits: Limits, now: datetime) -> bool:
    """Whether spot nodes made no progress for dedicated_after_minutes."""
    minutes = limits.dedicated_after_minutes
    if minutes is None or memory.pool.added_at or not memory.pool.own:
        return False
    return now - memory.last_progress >= timedelta(minutes=minutes) and not _too_soon(memory, now)


def outage_ends(failure: ServiceError, memory: Memory, limits: Limits, now: datetime) -> ServiceError | None:
    """Why an outage of the service ends watching; None to wait: the Batch tasks continue without being watched."""
    message = str(failure)
    if failure.transient:
        if now < limits.expires and now - memory.last_response < limits.stall:
            return None
        since = f"no response since {_time(memory.last_response)} (stall_minutes is {limits.stall_minutes})"
        message = f"{since}: {failure}"
    return ServiceError(message, code=failure.code, transient=False)


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"
