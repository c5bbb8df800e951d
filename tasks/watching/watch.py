"""Watching the Batch tasks: what has become of them, what they wait for, and when waiting is given up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice

from azure.batch import BatchClient
from azure.batch.models import BatchTask, BatchTaskCounts
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.errors import (
    SERVICE_FAILURES,
    Cancelled,
    RunError,
    RunTimeout,
    ServiceError,
    Stalled,
    TasksFailed,
    error_code,
)
from tasks.reporting.artifacts import MOST_ROWS, TaskBoard
from tasks.reporting.events import PoolReady, Preempted, RunEvents
from tasks.reporting.events import Stalled as StalledEvent
from tasks.resources.pool import Pool, is_spot, node_count
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import OUTCOME_FIELDS, AddedTask, TaskOutcome
from tasks.run.polling import Pace
from tasks.run.settings import PoolSettings, TimeLimits
from tasks.watching.attempts import Attempts
from tasks.watching.cancellation import Cancellation
from tasks.watching.failures import Failures
from tasks.watching.obstacles import what_is_waited_for, why_ended
from tasks.watching.progress import Progress, estimate, is_due

_PREEMPTED = "state eq 'preempted'"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the run waits while nothing goes on, and with which pool."""

    limits: TimeLimits = field(default_factory=TimeLimits)
    pool: PoolSettings = field(default_factory=PoolSettings)


@dataclass(kw_only=True)
class LastSeen:
    """What has been seen of a run's Batch tasks so far; of very many, not of each."""

    outcomes: dict[str, TaskOutcome] = field(default_factory=dict)  # by the Batch tasks' ids
    succeeded: int = 0  # as the service counts them
    board: TaskBoard = field(default_factory=TaskBoard)


class Watch:
    """What is known of the tasks, and what has been said about it."""

    def __init__(
        self,
        batch: BatchClient,
        run: Run,
        pool: UsedPool,
        tasks: Sequence[AddedTask],
        patience: Patience,
        pace: Pace,
        events: RunEvents,
        failures: Failures,
        outputs: Callable[[], Collection[str]],
        seen: LastSeen | None = None,
    ) -> None:
        self.pool = pool
        self._batch = batch
        self._run = run
        self._tasks = tasks
        self._patience = patience
        self._pace = pace
        self._events = events
        self._failures = failures
        self._outputs = outputs
        self._in_job = sum(not task.earlier for task in tasks)
        self._logger = get_run_logger()
        self._earlier = len(tasks) - self._in_job
        self._said = ""
        self._said_at = self._changed = pace.now()
        self._next_look = 0.0  # seconds
        self._first: tuple[int, datetime] | None = None  # completed, when a task was first seen to run or to have ended
        self._added_at: datetime | None = None
        self._alive = pace.now()  # when a task was last seen to get further, or to have ended
        self._answered = pace.now()  # when the service last said how the tasks are
        self._completed = 0
        self._last_seen = seen or LastSeen()
        self._last = self._last_seen.outcomes
        self._board = self._last_seen.board
        # Such a loss, and the wait for another node, fit several times into the time after which a run has stalled.
        self._attempts = Attempts(soon=timedelta(minutes=patience.limits.stall_minutes) / 3)
        self._cancellation = Cancellation()
        self._preempted: set[str] = set()  # at the last look
        self._told_preempted: dict[str, datetime] = {}
        self._requeues = 0
        self._ready = False

    def until_all_have_completed(self) -> RunError | None:
        """Look until all tasks have completed; returns why not, where that is given up."""
        try:
            for waited in self._pace.beats():
                self._next_look = self._pace.delay(waited)
                self._cancellation.check(self._pace.now())
                try:
                    if self._look():
                        return None
                    self._answered = self._pace.now()
                except SERVICE_FAILURES as error:
                    self._bear(error)
        except (TasksFailed, RunTimeout, Stalled, Cancelled, ServiceError) as problem:
            return problem
        raise AssertionError("beats do not end")

    def settled(self, problem: RunError | None) -> tuple[list[TaskOutcome], RunError | None]:
        """What became of each task in the end, and the problem unless all of them have completed all the same."""
        outcomes: list[TaskOutcome] | None = None
        for _ in self._pace.beats():
            try:
                outcomes = self.outcomes()
                break
            except SERVICE_FAILURES as error:
                if problem is not None:  # enough has been waited
                    break
                try:
                    self._bear(error)
                except ServiceError as silence:
                    problem = problem or silence
                    break
        outcomes = outcomes or self._last_known()
        return outcomes, None if all(outcome.completed for outcome in outcomes) else problem

    def _bear(self, error: Exception) -> None:
        """Go on where the answer may still come: the Batch tasks need nobody to watch them. Else raise ServiceError."""
        failure = ServiceError.of(error)
        minutes = self._patience.limits.stall_minutes
        now = self._pace.now()
        said = str(failure)
        if failure.transient:
            if now < self._run.expires and now - self._answered < timedelta(minutes=minutes):
                self._logger.warning("Asking again how the Batch tasks are: %s", failure)
                return
            said = f"no answer since {self._answered:%Y-%m-%d %H:%M:%S %Z} (stall_minutes is {minutes}): {failure}"
        raise ServiceError(said, code=failure.code, transient=False) from None

    def outcomes(self) -> list[TaskOutcome]:
        """What became of each task; of a job that is gone, what was known last and what its outputs tell."""
        try:
            known = {task.id: task for task in self._batch.list_tasks(self._run.job_id, select=OUTCOME_FIELDS)}
        except ResourceNotFoundError:
            return self._last_known()
        return [self._outcome(added, known.get(added.id)) for added in self._tasks]

    def _outcome(self, added: AddedTask, task: BatchTask | None) -> TaskOutcome:
        """What became of the task; one that has completed stays so where a later list lacks it."""
        last = self._last.get(added.id)
        return last if task is None and last and last.completed else self._seen(TaskOutcome.of(added, task))

    def _seen(self, outcome: TaskOutcome) -> TaskOutcome:
        self._last[outcome.id] = seen = self._attempts.seen(outcome, self._pace.now())
        return seen

    def _last_known(self) -> list[TaskOutcome]:
        """What was known last of each task, where the service no longer tells; an output tells of a success."""
        try:
            outputs = self._outputs()
        except SERVICE_FAILURES:
            outputs = ()
        known = []
        for added in self._tasks:
            last = self._last.get(added.id) or TaskOutcome.of(added, None)
            if not last.completed and added.output_name in outputs:
                last = TaskOutcome.counted_before(added.id, added.file, added.output_name)
            known.append(last)
        return known

    def close(self, outcomes: Sequence[TaskOutcome], problem: RunError | None) -> None:
        """Log and show how it ended, by what became of each task: the service's counts may lag behind."""
        if any(outcome.started for outcome in outcomes):
            self._tell_ready()
        self._tell_lost(outcomes)
        said = self._progress(outcomes).at_the_end(str(problem).partition("\n")[0] if problem else "")
        self._logger.info(said)
        self._board.show(outcomes, sum(outcome.completed for outcome in outcomes), len(self._tasks), said)

    def _progress(self, outcomes: Sequence[TaskOutcome]) -> Progress:
        in_job = [outcome for task, outcome in zip(self._tasks, outcomes, strict=True) if not task.earlier]
        return Progress.of_outcomes(in_job, earlier=self._earlier)

    def _look(self) -> bool:
        """Look once, tell what changed, and return whether all tasks have completed."""
        if not self._in_job:
            return True
        try:
            counts = self._batch.get_job_task_counts(self._run.job_id).task_counts
        except ResourceNotFoundError:
            raise why_ended(self._batch, self._run.job_id, self._in_job) or TasksFailed("the job is gone") from None
        self._notice(counts)
        self._tell_preemptions()
        # The counts alone may be ahead of, or behind, the tasks.
        if counts.completed >= self._in_job and all(outcome.completed for outcome in self.outcomes()):
            return True
        waiting = not counts.running and counts.completed < self._in_job
        self._tell(counts, self._obstacle(counts) if waiting else "")
        if self._job_ended_with_all_completed(counts):
            return True
        self._check_limits(counts)
        return False

    def _obstacle(self, counts: BatchTaskCounts) -> str:
        may_help = self.pool.own and self._patience.pool.dedicated_after_minutes is not None
        try:
            return what_is_waited_for(self._batch, self.pool, self._run.job_id, self._tasks_added, helped=may_help)
        except TasksFailed:
            self._tell(counts, "")  # what has happened until then
            raise

    def _tasks_added(self) -> datetime:
        """When the first of the tasks was added to the job, by the service's clock."""
        if self._added_at is None:
            first = next(task.id for task in self._tasks if not task.earlier)
            try:
                task = self._batch.get_task(self._run.job_id, first, select=["id", "creationTime"])
            except ResourceNotFoundError:
                gone = TasksFailed(f"Batch task {first} of job {self._run.job_id} is gone: somebody deleted it")
                raise why_ended(self._batch, self._run.job_id, self._in_job) or gone from None
            assert task.creation_time
            self._added_at = task.creation_time
        return self._added_at

    def _notice(self, counts: BatchTaskCounts) -> None:
        if counts.completed > self._completed or (counts.running and self._gets_further()):
            self._alive = self._pace.now()
        if counts.completed or counts.running:
            self._first = self._first or (counts.completed, self._pace.now())
            self._tell_ready()
        self._completed = max(self._completed, counts.completed)
        self._last_seen.succeeded = max(self._last_seen.succeeded, counts.succeeded)

    def _gets_further(self) -> bool:
        """Whether the tasks that run do not only begin, to be lost with their nodes, over and over again."""
        if not self._attempts.in_vain:
            return True
        now = self._pace.now()
        return any(self._attempts.gets_further(outcome, now) for outcome in self._some("state eq 'running'"))

    def _tell_ready(self) -> None:
        if not self._ready:
            self._ready = True
            pool = self.pool
            self._events.emit(
                PoolReady(
                    pool_id=pool.id,
                    vm_size=pool.vm_size,
                    dedicated_nodes=pool.dedicated_nodes,
                    spot_nodes=pool.spot_nodes,
                )
            )

    def _tell(self, counts: BatchTaskCounts, waiting_for: str) -> None:
        now = self._pace.now()
        progress = Progress.of_counts(counts, total=self._in_job, earlier=self._earlier)
        said = progress.now(waiting_for)
        if changed := said != self._said:
            self._said, self._changed = said, now
        elif not is_due(
            silent=now - self._said_at, unchanged=now - self._changed, next_look=timedelta(seconds=self._next_look)
        ):
            return
        self._said_at = now
        since = "" if changed else f"No change since {self._changed:%H:%M:%S %Z}: "
        self._logger.info("%s%s%s", since, said, f"; {self._estimate(progress)}" if counts.running else "")
        outcomes = self._failures.tell(self._worth_showing(counts))
        self._board.show(outcomes, self._earlier + progress.completed, len(self._tasks), said)
        self._tell_lost(outcomes)

    def _estimate(self, progress: Progress) -> str:
        completed, since = self._first or (0, self._pace.now())
        return estimate(done=progress.completed - completed, left=progress.left, elapsed=self._pace.now() - since)

    def _worth_showing(self, counts: BatchTaskCounts) -> list[TaskOutcome]:
        """All tasks; of many only the running and the failed, for all would cost a request per thousand."""
        if len(self._tasks) <= MOST_ROWS:
            return self.outcomes()
        filters = ["state eq 'running'"] if counts.running else []
        return self._some(*filters, *(["executionInfo/result eq 'failure'"] if counts.failed else []))

    def _some(self, *filters: str) -> list[TaskOutcome]:
        """The tasks to which one of the filters applies, of many only so many as are shown; in their order."""
        found = {}
        for each in filters:
            listed = self._batch.list_tasks(self._run.job_id, filter=each, select=OUTCOME_FIELDS)
            found.update({task.id: task for task in islice(listed, MOST_ROWS)})
        return [self._seen(TaskOutcome.of(added, found[added.id])) for added in self._tasks if added.id in found]

    def _tell_lost(self, outcomes: Sequence[TaskOutcome]) -> None:
        """Log which tasks have lost their nodes, and the preemptions that were over before the nodes were looked at."""
        requeues = sum(outcome.requeues for outcome in outcomes)
        if requeues > self._requeues:
            self._logger.warning(
                "%d Batch tasks lost their node and are queued again; that uses up no retry", requeues - self._requeues
            )
            self._requeues = requeues
        self._say_preempted(
            {
                node
                for node, seen in self._attempts.take_lost()
                if is_spot(node) and self._told_preempted.get(node, seen) <= seen
            }
        )

    def _tell_preemptions(self) -> None:
        """Say which spot nodes have been taken away since the last look, and since there were tasks to run on them."""
        if not self.pool.spot_nodes:
            return
        try:
            found = self._batch.list_nodes(self.pool.id, filter=_PREEMPTED, select=["id", "stateTransitionTime"])
            nodes = {node.id: node.state_transition_time for node in found}
        except ResourceNotFoundError:  # the pool is gone, as the next look at it will tell
            return
        new = nodes.keys() - self._preempted
        self._preempted = set(nodes)
        if new:
            self._say_preempted({id for id in new if (gone := nodes[id]) is None or gone >= self._tasks_added()})

    def _say_preempted(self, nodes: set[str]) -> None:
        if not nodes:
            return
        self._logger.warning("%d spot nodes were preempted; their Batch tasks are queued again", len(nodes))
        self._events.emit(Preempted(pool_id=self.pool.id, nodes=len(nodes)))
        self._preempted |= nodes
        self._told_preempted |= dict.fromkeys(nodes, self._pace.now())

    def _job_ended_with_all_completed(self, counts: BatchTaskCounts) -> bool:
        """False where it goes on. Raises why it ended where it did with tasks not completed."""
        ended = why_ended(self._batch, self._run.job_id, self._in_job - counts.completed)
        if ended is None:
            return False
        if left := sum(not outcome.completed for outcome in self.outcomes()):
            raise why_ended(self._batch, self._run.job_id, left) or ended
        return True

    def _check_limits(self, counts: BatchTaskCounts) -> None:
        now = self._pace.now()
        if now >= self._run.expires:
            left = self._latest(counts).left
            raise RunTimeout(f"the run reached its limit of {self._run.lifetime} with {left} Batch tasks not completed")
        idle = now - self._alive
        self._help_spot(idle)
        since = max(self._alive, self.pool.added_at or self._alive)  # nodes that were added get their time, too
        if now - since < timedelta(minutes=self._patience.limits.stall_minutes):
            return
        latest = self._latest(counts)
        if latest.completed > self._completed:  # the counts lag behind
            self._completed, self._alive = latest.completed, now
            return
        reason = (
            f"no Batch task has got further since {self._alive:%Y-%m-%d %H:%M:%S %Z} "
            f"(stall_minutes is {self._patience.limits.stall_minutes}); {self._said}"
        )
        self._events.emit(StalledEvent(job_id=self._run.job_id, pool_id=self.pool.id, since=self._alive, reason=reason))
        raise Stalled(reason)

    def _latest(self, counts: BatchTaskCounts) -> Progress:
        """By the tasks themselves, where the service tells of them."""
        try:
            return self._progress(self.outcomes())
        except SERVICE_FAILURES:
            return Progress.of_counts(counts, total=self._in_job, earlier=self._earlier)

    def _help_spot(self, idle: timedelta) -> None:
        """Ask for dedicated nodes once spot nodes have brought nothing for as long as the caller would wait."""
        settings = self._patience.pool
        minutes = settings.dedicated_after_minutes
        if minutes is None or self.pool.added_at or not self.pool.own or idle < timedelta(minutes=minutes):
            return
        try:
            Pool(self._batch, self._run, settings).add_dedicated()
        except ResourceExistsError as error:
            if error_code(error) != "PoolBeingResized":
                raise
            return  # asked for again at the next look
        self.pool = replace(self.pool, added_nodes=settings.spot_nodes, added_at=self._pace.now())
        self._logger.warning(
            "Spot nodes have brought no Batch task further for %d minutes: %s added to pool %s",
            minutes,
            node_count(settings.spot_nodes, 0),
            self.pool.id,
        )
