"""Findings of earlier looks that later looks need, as a value; each look makes a new one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tasks.resources.pool import is_spot
from tasks.run.identity import UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.run.records import record_blob
from tasks.watching.node_losses import LostNode, NodeLosses
from tasks.watching.progress import Progress, estimate, is_due


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Outcomes of the Batch tasks so far, and what was last logged about them."""

    pool: UsedPool
    outcomes: Mapping[str, TaskOutcome]  # of every Batch task by its id, as last seen
    losses: NodeLosses
    last_progress: datetime
    last_response: datetime  # of the service, to a whole look
    status_since: datetime
    status_logged: datetime
    last_status: str = ""
    next_look: timedelta = timedelta()  # after the present one
    completed: int = 0
    first_active: tuple[int, datetime] | None = None  # tasks completed then, and when a task was first seen to run
    preempted: frozenset[str] = frozenset()  # spot nodes at the last look
    counted_preempted: Mapping[str, datetime] = field(default_factory=dict)  # spot nodes, and when they were counted
    preemptions: int = 0
    resize_refused: bool = False

    @classmethod
    def start(cls, pool: UsedPool, tasks: Sequence[AddedTask], stall_minutes: int, now: datetime) -> Memory:
        return cls(
            pool=pool,
            outcomes={task.id: TaskOutcome.of(task, None) for task in tasks},
            # Such a loss, and the wait for another node, fit several times into the time limit for stalled runs.
            losses=NodeLosses(short=timedelta(minutes=stall_minutes) / 3),
            last_progress=now,
            last_response=now,
            status_since=now,
            status_logged=now,
        )

    @property
    def left(self) -> int:
        """The Batch tasks that have not completed."""
        return sum(not outcome.completed for outcome in self.outcomes.values())

    @property
    def requeues(self) -> int:
        return sum(outcome.requeues for outcome in self.outcomes.values())

    def with_tasks(self, tasks: Mapping[str, TaskOutcome], now: datetime) -> Memory:
        """After tasks were listed; one that has completed stays so where a later list lacks it."""
        fresh = [each for each in tasks.values() if each.completed or not self.outcomes[each.id].completed]
        losses, seen, lost = self.losses.after(fresh, now)
        return replace(self, outcomes={**self.outcomes, **seen}, losses=losses)._with_lost(lost, now)

    def _with_lost(self, lost: Sequence[LostNode], now: datetime) -> Memory:
        """Count the preemptions that were over before the nodes were looked at."""
        counted = self.counted_preempted
        nodes = {node.id for node in lost if is_spot(node.id) and counted.get(node.id, node.seen) <= node.seen}
        return replace(self._with_counted(nodes, now), preempted=self.preempted | nodes)

    def with_preempted(self, nodes: Collection[str], new: Collection[str], now: datetime) -> Memory:
        """After the preempted nodes were listed; new are those that were preempted since the last look."""
        return replace(self._with_counted(new, now), preempted=frozenset(nodes))

    def _with_counted(self, nodes: Collection[str], now: datetime) -> Memory:
        counted = {**self.counted_preempted, **dict.fromkeys(nodes, now)}
        return replace(self, counted_preempted=counted, preemptions=self.preemptions + len(nodes))

    def with_counts(self, counts: Progress, now: datetime, *, running_makes_progress: bool) -> Memory:
        """After the tasks were counted; the counts may lag behind the tasks."""
        completed = max(self.completed, counts.completed, self._completed_in_job(counts))
        progress = completed > self.completed or (counts.running and running_makes_progress)
        active = counts.completed or counts.running
        return replace(
            self,
            completed=completed,
            last_progress=now if progress else self.last_progress,
            first_active=self.first_active or ((counts.completed, now) if active else None),
        )

    def _completed_in_job(self, counts: Progress) -> int:
        return len(self.outcomes) - self.left - counts.earlier

    def with_status(self, counts: Progress, waiting_for: str, now: datetime) -> tuple[Memory, str]:
        """The line to log, empty while the last one is recent and still true; and the memory of it."""
        status = counts.now(waiting_for)
        changed = status != self.last_status
        if not changed and not is_due(
            silent=now - self.status_logged, unchanged=now - self.status_since, next_look=self.next_look
        ):
            return self, ""
        since = "" if changed else f"No change since {self.status_since:%H:%M:%S %Z}: "
        rate = f"; {self._estimate(counts, now)}" if counts.running else ""
        memory = replace(
            self, last_status=status, status_logged=now, status_since=now if changed else self.status_since
        )
        return memory, f"{since}{status}{rate}"

    def _estimate(self, counts: Progress, now: datetime) -> str:
        completed, since = self.first_active or (0, now)
        return estimate(done=counts.completed - completed, left=counts.left, elapsed=now - since)

    def with_nodes_added(self, nodes: int, now: datetime) -> Memory:
        return replace(self, pool=replace(self.pool, added_nodes=nodes, added_at=now))

    def with_records(self, records: Collection[str]) -> Memory:
        """After the records were listed, where the service no longer lists the tasks; a record proves a success."""
        found = {
            id: TaskOutcome.done_before(each.id, each.file)
            for id, each in self.outcomes.items()
            if not each.completed and record_blob(each.file) in records
        }
        return replace(self, outcomes={**self.outcomes, **found})
