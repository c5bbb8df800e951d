"""Step 6: watch the Batch tasks until each has completed, saying what they wait for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice

from azure.batch import BatchClient
from azure.batch.models import BatchTaskCounts
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from tasks.artifacts import MOST_ROWS, TaskBoard
from tasks.attempts import Attempts
from tasks.azure import Azure
from tasks.earlier import outputs_there
from tasks.errors import RunTimeout, ServiceError, Stalled, TasksFailed, TopWordsError, error_code
from tasks.events import BatchTaskFailed, PoolReady, Preempted, RunEvents
from tasks.events import Stalled as StalledEvent
from tasks.logs import as_lines, with_stderr
from tasks.outcomes import OUTCOME_FIELDS, AddedTask, Cause, TaskOutcome
from tasks.pace import Pace
from tasks.pool import Pool, UsedPool
from tasks.settings import PoolSettings, Run, TimeLimits
from tasks.steps import step
from tasks.waiting import what_is_waited_for, why_ended

_MOST_FAILURES_LOGGED = 10
_PREEMPTED = "state eq 'preempted'"
_REPEAT = timedelta(minutes=5)  # after which the log says again that nothing has changed


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the run waits while nothing goes on, and with which pool."""

    limits: TimeLimits = field(default_factory=TimeLimits)
    pool: PoolSettings = field(default_factory=PoolSettings)


@step("6 monitor tasks")
def monitor_tasks(
    azure: Azure,
    run: Run,
    pool: UsedPool,
    tasks: Sequence[AddedTask],
    patience: Patience = Patience(),
    pace: Pace = Pace(),
) -> list[TaskOutcome]:
    """Wait until all Batch tasks have completed; returns what became of each, in their order.

    A Batch task without success is reported, not raised. Raises a TopWordsError whose `outcomes` are what became of
    each task until then: TasksFailed where those that are left can never run, RunTimeout when the job or the run
    reaches its time limit first, and Stalled when none has run or ended for too long.
    """
    with azure.batch() as batch:
        events = RunEvents(account=azure.batch_account.name, flow_run_id=run.flow_run_id)
        watch = _Watch(batch, run, pool, tasks, patience, pace, events, lambda: outputs_there(azure, run))
        problem = watch.until_all_have_completed()
        outcomes = with_stderr(azure, batch, run, watch.outcomes())
    if problem is not None:
        outcomes = [_given_up(outcome, problem) for outcome in outcomes]
    watch.show(outcomes)
    _report_failures([outcome for outcome in outcomes if outcome.failed], run, events)
    if problem is not None:
        problem.outcomes = outcomes
        raise problem
    return outcomes


def outcomes_of(monitored: State[list[TaskOutcome]]) -> list[TaskOutcome]:
    """What became of each task, also where waiting was given up. Raises what the step did where that is not known."""
    result = monitored.result(raise_on_failure=False)
    if isinstance(result, TopWordsError) and result.outcomes:
        return list(result.outcomes)
    return monitored.result()


def given_up(monitored: State[list[TaskOutcome]]) -> TopWordsError | None:
    """Why waiting ended before all tasks had completed, or None where it did not."""
    result = monitored.result(raise_on_failure=False)
    return result if isinstance(result, TopWordsError) else None


class _Watch:
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
        outputs: Callable[[], Collection[str]],
    ) -> None:
        self._batch = batch
        self._run = run
        self._pool = pool
        self._tasks = tasks
        self._patience = patience
        self._pace = pace
        self._events = events
        self._outputs = outputs
        self._in_job = sum(not task.earlier for task in tasks)
        self._board = TaskBoard()
        self._logger = get_run_logger()
        self._said = ("", pace.now())
        self._alive = pace.now()  # when a task was last seen to run or to have ended
        self._answered = pace.now()  # when the service last said how the tasks are
        self._completed = 0
        self._last: dict[str, TaskOutcome] = {}
        self._attempts = Attempts()
        self._preempted: set[str] = set()
        self._requeues = 0
        self._ready = False
        self._helped: datetime | None = None  # when dedicated nodes were asked for

    def until_all_have_completed(self) -> TopWordsError | None:
        """Look until all tasks have completed; returns why not, where that is given up."""
        try:
            for _ in self._pace.beats():
                try:
                    if self._look():
                        return None
                    self._answered = self._pace.now()
                except AzureError as error:
                    self._bear(error)
        except (TasksFailed, RunTimeout, Stalled) as problem:
            return problem
        raise AssertionError("beats do not end")

    def _bear(self, error: AzureError) -> None:
        """Go on where the answer may still come: the Batch tasks need nobody to watch them. Else raise."""
        failure = ServiceError.of(error)
        minutes = self._patience.limits.stall_minutes
        now = self._pace.now()
        if not failure.transient or now >= self._run.expires:
            raise error
        if now - self._answered >= timedelta(minutes=minutes):
            said = f"no answer since {self._answered:%Y-%m-%d %H:%M:%S %Z} (stall_minutes is {minutes}): {failure}"
            raise ServiceError(said, code=failure.code, transient=False) from None
        self._logger.warning("Asking again how the Batch tasks are: %s", failure)

    def outcomes(self) -> list[TaskOutcome]:
        """What became of each task; of a job that is gone, what was known last and what its outputs tell."""
        try:
            known = {task.id: task for task in self._batch.list_tasks(self._run.job_id, select=OUTCOME_FIELDS)}
        except ResourceNotFoundError:
            return [self._last_known(added) for added in self._tasks]
        outcomes = [self._attempts.seen(TaskOutcome.of(added, known.get(added.id))) for added in self._tasks]
        self._last = {outcome.id: outcome for outcome in outcomes}
        return outcomes

    def _last_known(self, added: AddedTask) -> TaskOutcome:
        last = self._last.get(added.id) or TaskOutcome.of(added, None)
        if not last.completed and added.output_name in self._outputs():
            return TaskOutcome.counted_before(added.id, added.file, added.output_name)
        return last

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
        if counts.completed >= self._in_job and all(outcome.completed for outcome in self.outcomes()):
            return True  # the counts alone may be ahead of, or behind, the tasks
        self._check_limits(self._in_job - counts.completed)
        return False

    def _obstacle(self, counts: BatchTaskCounts) -> str:
        may_help = self._pool.own and self._patience.pool.dedicated_after_minutes is not None
        try:
            return what_is_waited_for(self._batch, self._pool, self._run.job_id, helped=may_help)
        except TasksFailed:
            self._tell(counts, "")  # what has happened until then
            raise

    def _notice(self, counts: BatchTaskCounts) -> None:
        if counts.running or counts.completed > self._completed:
            self._alive = self._pace.now()
            self._tell_ready()
        self._completed = counts.completed

    def _tell_ready(self) -> None:
        if not self._ready:
            self._ready = True
            pool = self._pool
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
        outcomes = self._worth_showing(counts)
        self._board.show(outcomes, earlier + (counts.completed or 0), len(self._tasks), said)
        self._tell_requeues(sum(outcome.requeues for outcome in outcomes))

    def _worth_showing(self, counts: BatchTaskCounts) -> list[TaskOutcome]:
        """All tasks; of many only the running and the failed, for all would cost a request per thousand."""
        if len(self._tasks) <= MOST_ROWS:
            return self.outcomes()
        filters = ["state eq 'running'"] if counts.running else []
        filters += ["executionInfo/result eq 'failure'"] if counts.failed else []
        found = {
            task.id: task
            for each in filters
            for task in islice(self._batch.list_tasks(self._run.job_id, filter=each, select=OUTCOME_FIELDS), MOST_ROWS)
        }
        return [
            self._attempts.seen(TaskOutcome.of(added, found[added.id])) for added in self._tasks if added.id in found
        ]

    def _tell_requeues(self, requeues: int) -> None:
        if requeues > self._requeues:
            self._logger.warning(
                "%d Batch tasks lost their node and are queued again; that uses up no retry", requeues - self._requeues
            )
            self._requeues = requeues

    def _tell_preemptions(self) -> None:
        """Say which spot nodes have been taken away since the last look."""
        if not self._pool.spot_nodes:
            return
        try:
            nodes = {node.id for node in self._batch.list_nodes(self._pool.id, filter=_PREEMPTED, select=["id"])}
        except ResourceNotFoundError:  # the pool is gone, as the next look at it will tell
            return
        if new := nodes - self._preempted:
            self._logger.warning("%d spot nodes were preempted; their Batch tasks are queued again", len(new))
            self._events.emit(Preempted(pool_id=self._pool.id, nodes=len(new)))
        self._preempted = nodes

    def _check_limits(self, left: int) -> None:
        ended = why_ended(self._batch, self._run.job_id, left)
        if ended and not all(outcome.completed for outcome in self.outcomes()):
            raise ended
        now = self._pace.now()
        if now >= self._run.expires:
            raise RunTimeout(f"the run reached its limit of {self._run.lifetime} with {left} Batch tasks not completed")
        idle = now - self._alive
        self._help_spot(idle)
        still = now - max(self._alive, self._helped or self._alive)  # the nodes that were added get their time too
        if still >= timedelta(minutes=self._patience.limits.stall_minutes):
            reason = (
                f"no Batch task has run or ended since {self._alive:%Y-%m-%d %H:%M:%S %Z} "
                f"(stall_minutes is {self._patience.limits.stall_minutes}); {self._said[0]}"
            )
            self._events.emit(
                StalledEvent(job_id=self._run.job_id, pool_id=self._pool.id, since=self._alive, reason=reason)
            )
            raise Stalled(reason)

    def _help_spot(self, idle: timedelta) -> None:
        """Ask for dedicated nodes once spot nodes have brought nothing for as long as the caller would wait."""
        settings = self._patience.pool
        minutes = settings.dedicated_after_minutes
        if minutes is None or self._helped or not self._pool.own or idle < timedelta(minutes=minutes):
            return
        try:
            Pool(self._batch, self._run, settings).add_dedicated()
        except ResourceExistsError as error:
            if error_code(error) != "PoolBeingResized":
                raise
            return  # asked for again at the next look
        self._helped = self._pace.now()
        self._logger.warning(
            "Spot nodes have run no Batch task for %d minutes: %d dedicated nodes are added to pool %s",
            minutes,
            settings.spot_nodes,
            self._pool.id,
        )


def _given_up(outcome: TaskOutcome, problem: TopWordsError) -> TaskOutcome:
    return outcome if outcome.completed else replace(outcome, cause=Cause.NOT_RUN, stderr="")


def _report_failures(failed: Sequence[TaskOutcome], run: Run, events: RunEvents) -> None:
    logger = get_run_logger()
    for outcome in failed[:_MOST_FAILURES_LOGGED]:
        logger.error("Batch task %s (%s) %s%s", outcome.id, outcome.file, outcome.why(), as_lines(outcome.stderr))
    if len(failed) > _MOST_FAILURES_LOGGED:
        logger.error("and %d more Batch tasks failed", len(failed) - _MOST_FAILURES_LOGGED)
    for outcome in failed:
        events.emit(_failed_event(run, outcome))


def _failed_event(run: Run, outcome: TaskOutcome) -> BatchTaskFailed:
    failure = outcome.failure
    return BatchTaskFailed(
        job_id=run.job_id,
        task_id=outcome.id,
        file=outcome.file,
        category=failure.category if failure else "",
        code=failure.code if failure else "",
        message=failure.message if failure else "",
        exit_code=outcome.exit_code,
        node=outcome.node,
        retries=outcome.retries,
        requeues=outcome.requeues,
    )
