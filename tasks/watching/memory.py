"""Findings of earlier looks that later looks need, as a value; each look makes a new one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tasks.reporting.node_time import NodeLog
from tasks.reporting.text import rough_span
from tasks.resources.pool import is_spot
from tasks.run.budget import Spent
from tasks.run.identity import UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.run.records import record_blob
from tasks.watching.limits import Limits
from tasks.watching.node_losses import LostNode, NodeLosses
from tasks.watching.progress import Progress
from tasks.watching.rate import Rate, is_late, is_much_later
from tasks.watching.sizes import NextSize


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What was found of the Batch tasks so far, and what was last logged about them.

    `outcomes` is one dict for all looks, so that none copies it: what a look has found is in `fresh` until it is
    settled.
    """

    pool: UsedPool
    tasks: int  # of the job
    outcomes: dict[str, TaskOutcome]  # by id, as last listed; not of every Batch task
    fresh: Mapping[str, TaskOutcome] = field(default_factory=dict)
    losses: NodeLosses
    began: datetime  # the first look
    last_progress: datetime
    last_response: datetime  # of the service, to a whole look
    status_since: datetime
    status_logged: datetime
    last_status: str = ""
    kinds: frozenset[str] = frozenset()  # what was logged: that tasks run, or what they wait for
    logged: Progress | None = None
    table_read: datetime | None = None
    failed_read: int = 0  # failed tasks when their table was read
    next_look: timedelta = timedelta()  # after the present one
    completed: int = 0  # as counted or listed
    listed_completed: int = 0
    requeues: int = 0
    rate: Rate = field(default_factory=Rate)
    warned: datetime | None = None  # when the tasks would complete, by the last warning that the run ends sooner
    preempted: frozenset[str] = frozenset()  # spot nodes at the last look
    counted_preempted: Mapping[str, datetime] = field(default_factory=dict)  # spot nodes, and when they were counted
    preemptions: int = 0
    resize_refused: bool = False
    nodes: NodeLog = field(default_factory=NodeLog)  # that were seen, where they were read
    spent: Spent | None = None  # on nodes, where that was read
    refused_since: datetime | None = None  # the first look at which Azure had no nodes of the present VM size
    changing: NextSize | None = None  # the VM size that the pool is being given
    sized_at: datetime | None = None  # when it got its present VM size, if not from the beginning
    deadline_set: datetime | None = None  # when it got a later deadline

    @classmethod
    def start(
        cls, pool: UsedPool, limits: Limits, now: datetime, outcomes: dict[str, TaskOutcome] | None = None
    ) -> Memory:
        """Before the first look. outcomes: the dict that is filled with what is found."""
        return cls(
            pool=pool,
            tasks=limits.tasks,
            outcomes={} if outcomes is None else outcomes,
            # Such a loss, and the wait for another node, fit several times into the time limit for stalled runs.
            losses=NodeLosses(short=limits.stall / 3),
            began=now,
            last_progress=now,
            last_response=now,
            status_since=now,
            status_logged=now,
        )

    @property
    def left(self) -> int:
        """The Batch tasks of the job that were not listed as completed."""
        return self.tasks - self.listed_completed

    def outcome(self, id: str) -> TaskOutcome | None:
        """The Batch task as last listed; None if it never was."""
        return self.fresh.get(id) or self.outcomes.get(id)

    def settled(self) -> Memory:
        """The same once nothing more is read in this look."""
        self.outcomes.update(self.fresh)
        return replace(self, fresh={})

    def with_tasks(self, tasks: Mapping[str, TaskOutcome], now: datetime) -> Memory:
        """After tasks were listed; one that has completed stays so where a later list lacks it."""
        listed = [(self.outcomes.get(each.id), each) for each in tasks.values()]
        new = [each for known, each in listed if each.completed or not (known and known.completed)]
        losses, seen, lost = self.losses.after(new, now)
        return replace(self, losses=losses)._with_found(seen)._with_lost(lost, now)

    def _with_found(self, found: Mapping[str, TaskOutcome]) -> Memory:
        """With outcomes that are as new as those before, or newer."""
        completed = requeues = 0
        for id, outcome in found.items():
            known = self.outcomes.get(id)
            completed += outcome.completed and not (known and known.completed)
            requeues += outcome.requeues - (known.requeues if known else 0)
        return replace(
            self,
            fresh=found,
            listed_completed=self.listed_completed + completed,
            requeues=self.requeues + requeues,
        )

    def _with_lost(self, lost: Sequence[LostNode], now: datetime) -> Memory:
        """Count the preemptions that were over before the nodes were looked at."""
        counted = self.counted_preempted
        nodes = {node.id for node in lost if is_spot(node.id) and counted.get(node.id, node.seen) <= node.seen}
        return replace(self._with_counted(nodes, now), preempted=self.preempted | nodes)

    def with_preempted(self, nodes: Collection[str], new: Collection[str], now: datetime) -> Memory:
        """After the preempted nodes were listed; new are those that were preempted since the last look."""
        return replace(self._with_counted(new, now), preempted=frozenset(nodes))

    def _with_counted(self, nodes: Collection[str], now: datetime) -> Memory:
        if not nodes:
            return self
        counted = {**self.counted_preempted, **dict.fromkeys(nodes, now)}
        return replace(self, counted_preempted=counted, preemptions=self.preemptions + len(nodes))

    def with_counts(self, counts: Progress, now: datetime, *, running_makes_progress: bool) -> Memory:
        """After the tasks were counted; the counts may lag behind the tasks."""
        completed = max(self.completed, counts.completed, self.listed_completed)
        progress = completed > self.completed or (counts.running and running_makes_progress)
        return replace(
            self,
            completed=completed,
            last_progress=now if progress else self.last_progress,
            rate=self.rate.after(completed=counts.completed, running=counts.running, now=now),
        )

    def kind_is_new(self, waiting_for: str) -> bool:
        """Whether no line of the log has shown so far that tasks run, or that they wait for this."""
        return waiting_for not in self.kinds

    def with_line(self, counts: Progress, waiting_for: str, now: datetime) -> tuple[Memory, str]:
        """The line to log, and the memory of it."""
        status = counts.now(waiting_for)
        changed = status != self.last_status
        since = "" if changed else f"No change since {self.status_since:%H:%M:%S %Z}: "
        memory = replace(
            self,
            last_status=status,
            status_logged=now,
            status_since=now if changed else self.status_since,
            kinds=self.kinds | {waiting_for},
            logged=counts,
        )
        return memory, f"{since}{status}{self.outlook(counts)}"

    def outlook(self, counts: Progress) -> str:
        """Rate and time left, as the end of a sentence; empty while no task runs."""
        if not counts.running:
            return ""
        return f"; {self.rate.estimate(counts.left) or 'time left not known until one completes'}"

    @property
    def seconds_left(self) -> float | None:
        """About how long the tasks that are left need; None where that is not known."""
        found = self.rate.estimate(self.tasks - self.completed)
        return found.time_left.total_seconds() if found else None

    def lateness(self, counts: Progress, limits: Limits, now: datetime) -> tuple[Memory, str, bool]:
        """That the run ends before its tasks complete at the speed so far, else ""; and whether to warn of it now."""
        found, ends_in = self.rate.estimate(counts.left), limits.expires - now
        if found is None or not is_late(found, known_for=self.rate.elapsed, ends_in=ends_in, lifetime=limits.lifetime):
            return self, "", False
        late = (
            f"at the speed so far the Batch tasks that are left need {rough_span(found.time_left)}, but the run ends "
            f"in {rough_span(ends_in)} (run_minutes is {limits.lifetime / timedelta(minutes=1):.0f})"
        )
        if not is_much_later(found, warned_of=self.warned - now if self.warned else None):
            return self, late, False
        return replace(self, warned=now + found.time_left), late, True

    def with_offer(self, offered: NextSize | None, running: bool, now: datetime) -> Memory:
        """After a look that found another VM size to try, or none."""
        if running:
            return replace(self, refused_since=None)
        return replace(self, refused_since=self.refused_since or now) if offered else self

    def with_size(self, until: datetime, now: datetime) -> Memory:
        """The pool was given the VM size that it was to get, until then; waiting for its nodes begins anew."""
        assert self.changing
        pool = replace(self.changing.applied(self.pool, now), nodes_until=until)
        return replace(self, pool=pool, changing=None, refused_since=None, sized_at=now)

    def without_size(self, why: str, brief: str) -> Memory:
        """Batch does not offer the size that the pool was to get; it keeps the present one for now."""
        assert self.changing
        return replace(self, pool=self.changing.withdrawn(self.pool, why, brief), changing=None)

    @property
    def nodes_asked(self) -> datetime | None:
        """When the pool was last asked for nodes while it was watched."""
        return max(filter(None, [self.sized_at, self.pool.added_at]), default=None)

    @property
    def formula_set(self) -> datetime | None:
        """When the pool was last given a formula while it was watched."""
        return max(filter(None, [self.nodes_asked, self.deadline_set]), default=None)

    def with_nodes_added(self, nodes: int, until: datetime, now: datetime) -> Memory:
        return replace(self, pool=replace(self.pool, added_nodes=nodes, added_at=now, nodes_until=until))

    def with_deadline(self, until: datetime, now: datetime) -> Memory:
        return replace(self, pool=replace(self.pool, nodes_until=until), deadline_set=now)

    def with_records(self, tasks: Sequence[AddedTask], records: Collection[str]) -> Memory:
        """After the records were listed, where the service no longer lists the tasks; a record proves a success."""
        found = {}
        for task in tasks:
            known = self.outcome(task.id)
            if not (known and known.completed) and not task.earlier and record_blob(task.file) in records:
                found[task.id] = TaskOutcome.done_before(task.id, task.file)
        return self._with_found(found).settled()
