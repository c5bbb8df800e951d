"""Step 6: monitor the Batch tasks until each has completed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from prefect.client.schemas.objects import State

from tasks.accounts.clients import Azure
from tasks.errors import RunError
from tasks.reporting.events import RunEvents
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask, Monitored
from tasks.run.polling import Pace
from tasks.run.previous_attempt import outputs_there
from tasks.step import step
from tasks.watching.failures import Failures
from tasks.watching.watch import LastSeen, Patience, Watch


@step("6 monitor tasks")
def monitor_tasks(
    azure: Azure,
    run: Run,
    pool: UsedPool,
    tasks: Sequence[AddedTask],
    patience: Patience = Patience(),
    pace: Pace = Pace(),
    seen: LastSeen | None = None,
) -> Monitored:
    """Wait until all Batch tasks have completed.

    A Batch task without success is reported, not raised. Raises a RunError whose `monitored` is how far it came:
    TasksFailed where the tasks that are left can never run, RunTimeout when the job or the run reaches its time limit
    first, Stalled when none has got further for too long, ServiceError when Azure Batch does not say how they are, and
    Cancelled when somebody has cancelled the flow run. What is seen meanwhile is in `seen`, for a stopped run.
    """
    with azure.batch() as batch:
        events = RunEvents(account=azure.batch_account.name, flow_run_id=run.flow_run_id)
        failures = Failures(azure, batch, run, events)
        outputs = partial(outputs_there, azure, run)
        watch = Watch(batch, run, pool, tasks, patience, pace, events, failures, outputs, seen)
        outcomes, problem = watch.settled(watch.until_all_have_completed())
        outcomes = failures.tell(outcomes)
    failures.close()
    if problem is not None:
        outcomes = [outcome.unfinished() for outcome in outcomes]
    watch.close(outcomes, problem)
    monitored = Monitored(outcomes=outcomes, pool=watch.pool)
    if problem is not None:
        problem.monitored = monitored
        raise problem
    return monitored


def how_it_ended(step: State[Monitored]) -> Monitored:
    """What monitoring tells, also where waiting was given up. Raises what the step did where that is not known."""
    result = step.result(raise_on_failure=False)
    if isinstance(result, RunError) and result.monitored is not None:
        monitored: Monitored = result.monitored
        return replace(monitored, problem=result)
    return step.result()
