"""Watching the Batch tasks: what has become of them, what they wait for, and when waiting is given up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice

from azure.batch import BatchClient
from azure.batch.models import BatchTask, BatchTaskCounts
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.artifacts import MOST_ROWS, TaskBoard
from tasks.attempts import Attempts
from tasks.cancellation import Cancellation
from tasks.errors import (
    SERVICE_FAILURES,
    Cancelled,
    RunTimeout,
    ServiceError,
    Stalled,
    TasksFailed,
    TopWordsError,
    error_code,
)
from tasks.events import PoolReady, Preempted, RunEvents
from tasks.events import Stalled as StalledEvent
from tasks.failures import Failures
from tasks.outcomes import OUTCOME_FIELDS, AddedTask, TaskOutcome
from tasks.pace import Pace
from tasks.pool import Pool, UsedPool, node_count
from tasks.settings import PoolSettings, Run, TimeLimits
from tasks.waiting import what_is_waited_for, why_ended

_PREEMPTED = "state eq 'preempted'"
_REPEAT = timedelta(minutes=5)  # after which the log says again that nothing has changed


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the run waits while nothing goes on, and with which pool."""

    limits: TimeLimits = field(default_factory=TimeLimits)
    pool: PoolSettings = field(default_factory=PoolSettings)


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
        self._board = TaskBoard()
        self._logger = get_run_logger()
        self._said = ("", pace.now())
        self._alive = pace.now()  # when a task was last seen to get further, or to have ended
        self._answered = pace.now()  # when the service last said how the tasks are
        self._completed = 0
        self._last: dict[str, TaskOutcome] = {}
        # Such a loss, and the wait for another node, fit several times into the time after which a run has stalled.
        self._attempts = Attempts(soon=timedelta(minutes=patience.limits.stall_minutes) / 3)
        self._cancellation = Cancellation()
        self._preempted: set[str] = set()
        self._requeues = 0
        self._ready = False

    def until_all_have_completed(self) -> TopWordsError | None:
        """Look until all tasks have completed; returns why not, where that is given up."""
        try:
            for _ in self._pace.beats():
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

    def settled(self, problem: TopWordsError | None) -> tuple[list[TaskOutcome], TopWordsError | None]:
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

    def show(self, outcomes: Sequence[TaskOutcome]) -> None:
        completed = sum(outcome.completed for outcome in outcomes)
        self._board.show(outcomes, completed, len(self._tasks), self._said[0])

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
        if counts.running or counts.completed >= self._in_job:
            self._tell(counts, "")
        else:
            self._tell(counts, self._obstacle(counts))
        # The counts alone may be ahead of, or behind, the tasks.
        if counts.completed >= self._in_job and all(outcome.completed for outcome in self.outcomes()):
            return True
        if self._job_ended_with_all_completed(counts):
            return True
        self._check_limits(self._in_job - counts.completed)
        return False

    def _obstacle(self, counts: BatchTaskCounts) -> str:
        may_help = self.pool.own and self._patience.pool.dedicated_after_minutes is not None
        try:
            return what_is_waited_for(self._batch, self.pool, self._run.job_id, helped=may_help)
        except TasksFailed:
            self._tell(counts, "")  # what has happened until then
            raise

    def _notice(self, counts: BatchTaskCounts) -> None:
        if counts.completed > self._completed or (counts.running and self._gets_further()):
            self._alive = self._pace.now()
        if counts.completed or counts.running:
            self._tell_ready()
        self._completed = counts.completed

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
        earlier = len(self._tasks) - self._in_job
        said = (
            f"{counts.completed} of {self._in_job} Batch tasks completed ({counts.succeeded} succeeded, "
            f"{counts.failed} failed), {counts.running} running, {counts.active} queued"
            + (f"; {earlier} files counted by an earlier try" if earlier else "")
            + (f"; {waiting_for}" if waiting_for else "")
        )
        before, since = self._said
        if said == before:
            if self._pace.now() - since >= _REPEAT:
                self._said = (said, self._pace.now())
                self._logger.info("still %s, since %s", said, f"{self._alive:%H:%M %Z}")
            return
        self._said = (said, self._pace.now())
        self._logger.info(said)
        outcomes = self._failures.tell(self._worth_showing(counts))
        self._board.show(outcomes, earlier + (counts.completed or 0), len(self._tasks), said)
        self._tell_requeues(sum(outcome.requeues for outcome in outcomes))

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

    def _tell_requeues(self, requeues: int) -> None:
        if requeues > self._requeues:
            self._logger.warning(
                "%d Batch tasks lost their node and are queued again; that uses up no retry", requeues - self._requeues
            )
            self._requeues = requeues

    def _tell_preemptions(self) -> None:
        """Say which spot nodes have been taken away since the last look."""
        if not self.pool.spot_nodes:
            return
        try:
            nodes = {node.id for node in self._batch.list_nodes(self.pool.id, filter=_PREEMPTED, select=["id"])}
        except ResourceNotFoundError:  # the pool is gone, as the next look at it will tell
            return
        if new := nodes - self._preempted:
            self._logger.warning("%d spot nodes were preempted; their Batch tasks are queued again", len(new))
            self._events.emit(Preempted(pool_id=self.pool.id, nodes=len(new)))
        self._preempted = nodes

    def _job_ended_with_all_completed(self, counts: BatchTaskCounts) -> bool:
        """False where it goes on. Raises why it ended where it did with tasks not completed."""
        ended = why_ended(self._batch, self._run.job_id, self._in_job - counts.completed)
        if ended is None:
            return False
        if left := sum(not outcome.completed for outcome in self.outcomes()):
            raise why_ended(self._batch, self._run.job_id, left) or ended
        return True

    def _check_limits(self, left: int) -> None:
        now = self._pace.now()
        if now >= self._run.expires:
            raise RunTimeout(f"the run reached its limit of {self._run.lifetime} with {left} Batch tasks not completed")
        idle = now - self._alive
        self._help_spot(idle)
        since = max(self._alive, self.pool.added_at or self._alive)  # nodes that were added get their time, too
        if now - since >= timedelta(minutes=self._patience.limits.stall_minutes):
            reason = (
                f"no Batch task has got further since {self._alive:%Y-%m-%d %H:%M:%S %Z} "
                f"(stall_minutes is {self._patience.limits.stall_minutes}); {self._said[0]}"
            )
            self._events.emit(
                StalledEvent(job_id=self._run.job_id, pool_id=self.pool.id, since=self._alive, reason=reason)
            )
            raise Stalled(reason)

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
