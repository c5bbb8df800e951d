"""Watches the Batch tasks of a run: read a snapshot, decide, report, until all have completed or it gives up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from azure.core.exceptions import ResourceExistsError

from tasks.errors import Cancelled, DeclaredCrashed, RunError
from tasks.errors.service import SERVICE_FAILURES, ServiceError, error_code
from tasks.reporting.artifacts import TaskBoard
from tasks.run.outcomes import Monitored, TaskOutcome
from tasks.run.polling import Polling
from tasks.run.settings import PoolSettings, TimeLimits
from tasks.watching.cancellation import Cancellation, declared_crashed
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


@dataclass(kw_only=True)
class Watch:
    """The loop that looks at the job; `memory` has the findings of earlier looks, and `snapshot` the last of them."""

    reader: SnapshotReader
    narrator: Narrator
    limits: Limits
    polling: Polling
    memory: Memory
    seen: LastSeen
    add_nodes: Callable[[], None]
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
        self.narrator.report(decision)
        return decision

    def _add_dedicated(self) -> None:
        try:
            self.add_nodes()
        except ResourceExistsError as error:
            if error_code(error) != "PoolBeingResized":
                raise
            self.memory = replace(self.memory, resize_refused=True)  # asked for again at the next look
            return
        self.memory = self.memory.with_nodes_added(self.limits.added_nodes, self.polling.now())
        self.narrator.report_added_nodes(self.memory, self.limits.dedicated_after_minutes)

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
