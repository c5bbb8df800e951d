"""Steps 4, 5 and 9: the job, its tasks (one per group of input files), and its end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

from azure.batch import BatchClient
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.errors.codes import JOB_ENDED
from tasks.errors.service import error_code
from tasks.resources.batch_task import BatchTasks, Work
from tasks.resources.bulk import add_all
from tasks.resources.job import Job, list_jobs
from tasks.resources.ownership import Ending, create_or_adopt, dispose
from tasks.resources.pool import FORMULAS_APART, set_nodes
from tasks.resources.quota import UNTIL_ROOM, create_within_quota
from tasks.run import resume
from tasks.run.budget import RESERVE
from tasks.run.groups import label
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.run.polling import Polling
from tasks.run.previous_attempt import (
    delete_records,
    next_lists_there,
    read_previous_attempt,
    records_there,
    void_group_records,
)
from tasks.run.resume import GroupPlan, Plan
from tasks.run.settings import Disposal
from tasks.run.uploads import Uploads
from tasks.step import RETRIES_OF_DELETES, step
from tasks.watching.cancellation import Cancellation


@step("4 create job")
def create_job(
    azure: Azure,
    run: Run,
    pool: UsedPool,
    uploads: Uploads,
    disposal: Disposal = Disposal.DELETE,
    polling: Polling = UNTIL_ROOM,
) -> str:
    """Create the run's job, or adopt that of a previous attempt; returns its id.

    One that has ended takes no more tasks: if some are to be added, it is replaced. Where the account's quota of jobs
    is used up, wait for other runs of this project, with no nodes in the run's own pool; raises Cancelled where the
    flow run is cancelled meanwhile.
    """
    with azure.batch() as batch:
        job = Job(batch, run, pool.id, disposal)
        created = _create_or_adopt(azure, batch, run, job, pool, polling)
        if not created and job.has_ended():
            previous = read_previous_attempt(azure, batch, run, uploads, job_has_ended=True)
            created = _replace_job(azure, run, job, resume.plan(uploads, previous, run))
    how = "created" if created else "already exists, reusing it"
    get_run_logger().info("%s: %s; pool %s, ends at %s at the latest", job.title, how, pool.id, run.expires_text)
    return run.job_id


def _create_or_adopt(azure: Azure, batch: BatchClient, run: Run, job: Job, pool: UsedPool, polling: Polling) -> bool:
    """Whether it was created; while the run waits for the account's quota, its own pool has no nodes."""
    paused: list[datetime] = []
    cancellation = Cancellation()

    def pause() -> None:
        cancellation.check(polling.now())
        if pool.own and pool.nodes and not paused:
            with suppress(ResourceExistsError):  # while it is being resized: before the next wait
                set_nodes(batch, pool.id, 0, 0, run.expires)
                paused.append(polling.now())

    created = create_within_quota(run, job, partial(list_jobs, batch), polling, pause, azure.names)
    if paused:
        polling.sleep(max(0.0, (paused[0] + FORMULAS_APART - polling.now()).total_seconds()))
    if pool.own and pool.nodes:  # a previous attempt, or a failed one of this step, may have paused it
        with suppress(ResourceNotFoundError):  # as monitoring finds, too
            without = max(timedelta(), polling.now() - paused[0] - RESERVE) if paused else timedelta()
            until = min(run.expires, (pool.nodes_until or run.expires) + without)
            set_nodes(batch, pool.id, pool.dedicated_nodes, pool.spot_nodes, until)
    return created


@step("5 add tasks")
def add_tasks(azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work) -> list[AddedTask]:
    """Add a Batch task for each group with files that are not done and that no task will do; returns all, in order.

    One is returned for each Batch task, and one for each file that is done and has none.
    """
    batch_tasks = BatchTasks(azure, run, pool, uploads, work)

    def carry_out(plan: Plan) -> None:
        next_lists = _drop(azure, batch, run, plan)
        to_add = [each for each in plan.groups if each.adds]
        if uploads.bundles:  # the biggest first, so that all slots end at about the same time
            to_add.sort(key=lambda each: sum(file.size for file in each.to_add), reverse=True)
        made = [batch_tasks.make(each.group, each.members, next_lists.get(each.group.id, 0)) for each in to_add]
        add_all(batch, run.job_id, made)

    with azure.batch() as batch:
        plan = resume.plan(uploads, read_previous_attempt(azure, batch, run, uploads), run)
        try:
            carry_out(plan)
        except ResourceExistsError as error:
            # A job of a previous attempt ends with the last of its tasks, which may have been just now.
            job = Job(batch, run, pool.id)
            if error_code(error) not in JOB_ENDED or not job.has_ended_with_its_tasks():
                raise
            previous = read_previous_attempt(azure, batch, run, uploads, job_has_ended=True)
            plan = resume.plan(uploads, previous, run, again=plan.add)
            _replace_job(azure, run, job.as_tagged(), plan)
            carry_out(plan)
    _log_added(run, plan)
    return [task for each in plan.groups for task in _added(each)]


def _log_added(run: Run, plan: Plan) -> None:
    count, files = sum(each.adds for each in plan.groups), len(plan.add)
    others = len(plan.decisions) - files
    get_run_logger().info("Job %s: %s", run.job_id, what_is_added(count, files, others))


def what_is_added(count: int, files: int, others: int) -> str:
    """Such as "16 Batch tasks added, for 300 input files"; others are input files that need no new one."""
    reused = f"{others:,} input files are done, or have one, from a previous attempt"
    if not count:
        return f"no Batch tasks added; {reused}"
    added = f"{count:,} Batch tasks added, " + (
        "one per input file" if count == files else f"for {files:,} input files"
    )
    return f"{added}; {reused}" if others else added


def _replace_job(azure: Azure, run: Run, job: Job, plan: Plan) -> bool:
    """Replace a job that has ended, if the plan says so; returns whether it did."""
    if not plan.replace_job:
        return False
    get_run_logger().info("%s: has ended with files not processed, replacing it", job.title)
    _drop_records(azure, run, plan)
    dispose(run, job, Disposal.DELETE)
    return create_or_adopt(run, job)


def _drop_records(azure: Azure, run: Run, plan: Plan) -> None:
    """Have the records of files that are processed again count no more.

    Before their tasks are deleted: only these show that records are of another content.
    """
    void_group_records(azure, run, plan.void, plan.next_lists)
    delete_records(azure, run, plan.drop_records)


def _drop(azure: Azure, batch: BatchClient, run: Run, plan: Plan) -> Mapping[str, int]:
    """Delete the tasks that are replaced or have none of the files, and records of files that are processed again.

    Returns the numbers of the groups' next lists of records.
    """

    def delete(id: str) -> None:
        with suppress(ResourceNotFoundError):
            batch.delete_task(run.job_id, id)

    _drop_records(azure, run, plan)
    if not plan.drop_tasks and not plan.replace_job:
        return plan.next_lists
    in_parallel(delete, plan.drop_tasks)
    # What they have written until then.
    delete_records(azure, run, records_there(azure, run).keys() & {file.record for file in plan.add})
    next_lists = next_lists_there(azure, run)
    names = {file.name for file in plan.add}
    late = {id: names for id, number in next_lists.items() if number > plan.next_lists.get(id, 0)}
    void_group_records(azure, run, late, next_lists)
    return next_lists


def _added(each: GroupPlan) -> list[AddedTask]:
    """The Batch task of the group, and the files that are done and have none."""
    files, members = each.group.files, [each.group.files[at] for at in each.members]
    names = {file.name for file in members}
    earlier = [AddedTask(id=each.group.id, file=file.name, earlier=True) for file in files if file.name not in names]
    if not members:
        return earlier
    if len(files) == 1:
        return [AddedTask(id=each.group.id, file=files[0].name)]
    return [AddedTask(id=each.group.id, file=label(members), members=tuple(file.name for file in members)), *earlier]


@step("9 delete job", retries=RETRIES_OF_DELETES)
def delete_job(azure: Azure, run: Run, disposal: Disposal) -> None:
    """Send the delete of the run's job with its tasks; it vanishes soon after."""
    with azure.batch() as batch:
        ending = dispose(run, Job(batch, run), disposal)
    log = get_run_logger().warning if ending is Ending.NOT_MARKED else get_run_logger().info
    log("Job %s: %s", run.job_id, ending.value)


@step("2 find files already done")
def find_done(azure: Azure, run: Run, uploads: Uploads) -> list[TaskOutcome]:
    """Their outcomes where a previous attempt has processed all files, so that only outputs are still to download.

    Nothing where some are to be processed: then step 5 adds a Batch task for each of those.
    """
    with azure.batch() as batch:
        plan = resume.plan(uploads, read_previous_attempt(azure, batch, run, uploads), run)
    if not plan.all_done:
        return []
    get_run_logger().info("A previous attempt has processed all %d files: no pool is needed", len(uploads.inputs))
    return [TaskOutcome.done_before(file.task_id, file.name) for file in uploads.inputs]
