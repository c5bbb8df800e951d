"""Watches the Batch tasks of a run: read a snapshot, decide, report, until all have completed or it gives up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from azure.core.exceptions import HttpResponseError, ResourceExistsError

from tasks.errors import Cancelled, DeclaredCrashed, RunError
from tasks.errors.codes import Code
from tasks.errors.service import SERVICE_FAILURES, ServiceError, error_code
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.node_time import NodeLog
from tasks.resources.allocation import NOT_OFFERED, is_size_refused
from tasks.run.identity import UsedPool
from tasks.run.outcomes import Monitored, TaskOutcome
from tasks.run.polling import Polling
from tasks.run.settings import PoolSettings, TimeLimits
from tasks.watching.cancellation import Cancellation, declared_crashed
from tasks.watching.cost import at_most, nodes_until, without_nodes
from tasks.watching.decide import Action, Decision, decide, outage_ends
from tasks.watching.limits import Limits
from tasks.watching.memory import Memory
from tasks.watching.narrator import Narrator
from tasks.watching.snapshot import Part, Snapshot, SnapshotReader


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The time limits of the run, and its pool, which can get further nodes."""

    limits: TimeLimits = field(default_factory=TimeLimits)
    pool: PoolSettings = field(default_factory=PoolSettings)


@dataclass(kw_only=True)
class LastSeen:
    """The latest outcomes, for a run that is stopped; not of every Batch task while they run."""

    outcomes: dict[str, TaskOutcome] = field(default_factory=dict)  # by the Batch tasks' ids; the memory fills it
    succeeded: int = 0  # as the service counts them
    board: TaskBoard = field(default_factory=TaskBoard)
    nodes: NodeLog = field(default_factory=NodeLog)  # of the pool, where they were read
    pool: UsedPool | None = None  # once its VM size, its nodes or its deadline have changed


@dataclass(kw_only=True)
class Watch:
    """The loop that looks at the job; `memory` has the findings of earlier looks, and `snapshot` the last of them."""

    reader: SnapshotReader
    narrator: Narrator
    limits: Limits
    polling: Polling
    memory: Memory
    seen: LastSeen
    set_nodes: Callable[[datetime, int], None]  # until when, and how many dedicated ones are added
    use_size: Callable[[str, datetime, int], bool]  # a VM size, and both of these
    snapshot: Snapshot = field(default_factory=Snapshot)

    def until_the_end(self) -> Monitored:
        """Look until all tasks have completed or there is a reason to give up."""
        earlier = [task for task in self.reader.tasks if task.earlier]
        self.memory.outcomes.update({task.id: TaskOutcome.of(task, None) for task in earlier})
        problem = self._settle(self._look_until_decided())
        outcomes = self.narrator.report_end(self.memory, problem)
        return Monitored(outcomes=outcomes, pool=self.memory.pool, problem=problem)

    def _look_until_decided(self) -> RunError | None:
        """Returns why watching is given up, None where all tasks have completed."""
        cancellation = Cancellation()
        for waited in self.polling.ticks(lambda: self.memory.seconds_left):
            next_look = timedelta(seconds=self.polling.delay(waited, self.memory.seconds_left))
            self.memory = replace(self.memory, next_look=next_look)
            self.snapshot = Snapshot()
            try:
                cancellation.check(self.polling.now())
                decision = self._look()
                if decision.action is Action.ADD_DEDICATED:
                    self._add_dedicated()
                elif decision.action is Action.NEXT_SIZE:
                    self._use_next_size()
                elif decision.action is Action.LATER_DEADLINE:
                    self._set_later_deadline()
            except (Cancelled, DeclaredCrashed) as ended:
                return ended
            except SERVICE_FAILURES as error:
                if ends := self._tolerate_outage(error):
                    return declared_crashed() or ends
                continue
            if decision.action in (Action.ALL_COMPLETED, Action.GIVE_UP):
                return decision.problem and (declared_crashed() or decision.problem)
            self.memory = replace(self.memory, last_response=self.polling.now())
        raise AssertionError("polling does not end")

    def _look(self) -> Decision:
        now = self.polling.now()
        while (decision := decide(self.snapshot, self.memory, self.limits, now)).part is not None:
            self.snapshot = self.reader.read(self.snapshot, decision.part)
            if counts := self.snapshot.counts:
                self.seen.succeeded = max(self.seen.succeeded, counts.succeeded)
        self.memory = decision.memory.settled()
        if self.snapshot.has(Part.POOL):
            self.memory = replace(self.memory, nodes=self.memory.nodes.noted(self.snapshot.nodes, now))
            self.seen.nodes = self.memory.nodes
        self.narrator.report(decision)
        return decision

    def _add_dedicated(self) -> None:
        added, now = self.limits.added_nodes, self.polling.now()
        until = nodes_until(self.memory, self.limits, now, added=added)
        if not self._set_nodes(until, added):
            self.memory = replace(self.memory, resize_refused=True)  # asked for again at the next look
            return
        if self.limits.budget:
            self.memory = replace(self.memory, spent=at_most(self.memory, self.limits.budget, now))
        self._remember_pool(self.memory.with_nodes_added(added, until, now))
        self.narrator.report_added_nodes(self.memory, self.limits.dedicated_after_minutes)

    def _set_later_deadline(self) -> None:
        until = nodes_until(self.memory, self.limits, self.polling.now())
        if self._set_nodes(until, self.memory.pool.added_nodes):
            self._remember_pool(self.memory.with_deadline(until, self.polling.now()))
            self.narrator.report_deadline(self.memory)

    def _set_nodes(self, until: datetime, added: int) -> bool:
        """False where the pool is just being resized."""
        try:
            self.set_nodes(until, added)
        except ResourceExistsError as error:
            if error_code(error) != Code.POOL_BEING_RESIZED:
                raise
            return False
        return True

    def _remember_pool(self, memory: Memory) -> None:
        self.memory = memory
        self.seen.pool = memory.pool

    def _use_next_size(self) -> None:
        """Give the pool its next VM size; where Batch does not offer that one, the next look decides without it."""
        assert self.memory.changing
        size = self.memory.changing.size
        self.memory = without_nodes(self.memory, self.limits.budget, self.polling.now())
        until = nodes_until(self.memory, self.limits, self.polling.now())
        try:
            given = self.use_size(size, until, self.memory.pool.added_nodes)
        except HttpResponseError as error:
            if not is_size_refused(error):
                raise
            self._remember_pool(self.memory.without_size(NOT_OFFERED, error_code(error)))
            self.narrator.report_size_not_offered(self.memory.pool)
            return
        if not given:  # nodes have come, or are being allocated
            self.memory = replace(self.memory, changing=None)
            return
        self._remember_pool(self.memory.with_size(until, self.polling.now()))
        self.narrator.report_size(self.memory.pool)

    def _tolerate_outage(self, error: Exception) -> ServiceError | None:
        """Log an outage that may pass; returns the error of one that ends watching."""
        failure = ServiceError.of(error)
        ends = outage_ends(failure, self.memory, self.limits, self.polling.now())
        if ends is None:
            self.narrator.report_outage(failure)
        return ends

    def _settle(self, problem: RunError | None) -> RunError | None:
        """Read what became of each task, unless the last look has; returns the problem unless all have completed."""
        if problem is None or (self.snapshot.tasks and self.snapshot.has(Part.TASKS)):
            return problem if self.memory.left else None
        try:
            tasks = self.reader.read(Snapshot(), Part.TASKS).tasks
        except SERVICE_FAILURES:
            tasks = None
        if tasks is None:
            self.memory = self.memory.with_records(self.reader.tasks, self.reader.records())
        else:
            self.memory = self.memory.with_tasks(tasks, self.polling.now()).settled()
        return problem if self.memory.left else None
