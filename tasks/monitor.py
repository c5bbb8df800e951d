"""Step 6: monitor the Batch tasks until each has completed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from azure.batch import BatchClient
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Failed

from tasks.accounts.clients import Azure
from tasks.errors.service import SERVICE_FAILURES
from tasks.reporting.events import RunEvents
from tasks.resources.pool import Pool, set_up_seconds
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask, Monitored
from tasks.run.polling import Polling
from tasks.step import step
from tasks.watching.failures import Failures
from tasks.watching.file_results import of_files, report_files, show_files, with_distinct_ids
from tasks.watching.limits import Limits
from tasks.watching.memory import Memory
from tasks.watching.narrator import Narrator
from tasks.watching.snapshot import SnapshotReader
from tasks.watching.watch import LastSeen, Patience, Watch


@step("6 monitor tasks")
def monitor_tasks(
    azure: Azure,
    run: Run,
    pool: UsedPool,
    tasks: Sequence[AddedTask],
    patience: Patience = Patience(),
    polling: Polling = Polling(),
    seen: LastSeen | None = None,
) -> Monitored:
    """Wait until all Batch tasks have completed. Call it with return_state, and read that with `how_it_ended`.

    The outcomes are those of the files. A file or Batch task without success is reported, not raised. Where watching is
    given up, this task run is Failed, and its data is a Monitored whose `problem` is why: TasksFailed where the tasks
    that are left can never run, RunTimeout when the job or the run reaches its time limit first, Stalled when none made
    progress for too long, ServiceError when Azure Batch does not respond, and Cancelled when somebody has cancelled the
    flow run. What is seen meanwhile is in `seen`, for a stopped run.
    """
    with azure.batch() as batch:
        seen = seen or LastSeen()
        events = RunEvents(account=azure.batch_account.name, flow_run_id=run.flow_run_id)
        groups = {task.id for task in tasks if task.members}
        watched = with_distinct_ids(tasks)
        failures = Failures(azure, batch, run, events, groups=groups)
        limits = _limits(azure, run, watched, patience)
        own_pool = Pool(batch, run, patience.pool)
        watch = Watch(
            reader=SnapshotReader(azure=azure, batch=batch, run=run, pool_id=pool.id, tasks=watched),
            narrator=Narrator(run.job_id, watched, events, failures, seen.board, len(pool.refused_sizes)),
            limits=limits,
            polling=polling,
            memory=Memory.start(pool, limits, polling.now(), seen.outcomes),
            seen=seen,
            set_nodes=own_pool.set_nodes,
            use_size=own_pool.use_size,
        )
        monitored = watch.until_the_end()
        if groups:
            monitored = of_files(azure, run, tasks, monitored)
            report_files(azure, batch, run, events, groups, monitored)
            show_files(seen.board, monitored.outcomes)
        if pool.installs:
            _log_set_up(batch, pool.id)
    if monitored.problem is None:
        return monitored
    # Prefect takes a state that a task returns as that of its run, and logs no traceback.
    return Failed(message=str(monitored.problem), data=monitored)  # type: ignore[return-value]


def _log_set_up(batch: BatchClient, pool_id: str) -> None:
    with suppress(*SERVICE_FAILURES):  # only a line of the log is missing then
        if seconds := set_up_seconds(batch, pool_id):
            shortest, longest = f"{min(seconds):.0f}", f"{max(seconds):.0f}"
            span = longest if shortest == longest else f"{shortest} to {longest}"
            get_run_logger().info("Pool %s: packages installed on %d nodes in %s s each", pool_id, len(seconds), span)


def _limits(azure: Azure, run: Run, tasks: Sequence[AddedTask], patience: Patience) -> Limits:
    return Limits(
        job_id=run.job_id,
        tasks=sum(not task.earlier for task in tasks),
        expires=run.expires,
        lifetime=run.lifetime,
        stall_minutes=patience.limits.stall_minutes,
        dedicated_after_minutes=patience.pool.dedicated_after_minutes,
        added_nodes=patience.pool.spot_nodes,
        budget=run.budget,
        names=azure.names,
    )


def how_it_ended(state: State[Monitored]) -> Monitored:
    """How monitoring ended, also where it was given up. Raises what the step raised where that is not known."""
    result = state.result(raise_on_failure=False)
    return result if isinstance(result, Monitored) else state.result()
