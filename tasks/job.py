"""Steps 4, 5 and 9: the job, its tasks (one per input file), and its end."""

from __future__ import annotations

from contextlib import suppress

from azure.batch import BatchClient
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.errors.service import error_code
from tasks.resources.batch_task import BatchTasks, Work
from tasks.resources.bulk import ENDED_CODES, add_all
from tasks.resources.job import Job
from tasks.resources.ownership import Ending, create_or_adopt, dispose
from tasks.run import resume
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.run.previous_attempt import delete_records, read_previous_attempt
from tasks.run.resume import Decision, Plan
from tasks.run.settings import Disposal
from tasks.run.uploads import UploadedFile, Uploads
from tasks.step import RETRIES_OF_DELETES, step


@step("4 create job")
def create_job(azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, disposal: Disposal = Disposal.DELETE) -> str:
    """Create the run's job, or adopt that of a previous attempt; returns its id.

    One that has ended takes no more tasks: if some are to be added, it is replaced.
    """
    with azure.batch() as batch:
        job = Job(batch, run, pool.id, disposal)
        created = create_or_adopt(run, job)
        if not created and job.has_ended():
            previous = read_previous_attempt(azure, batch, run, job_has_ended=True)
            created = _replace_job(azure, run, job, resume.plan(uploads.inputs, previous, run))
    how = "created" if created else "already exists, reusing it"
    get_run_logger().info("%s: %s; pool %s, ends at %s at the latest", job.title, how, pool.id, run.expires_text)
    return run.job_id


@step("5 add tasks")
def add_tasks(azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work) -> list[AddedTask]:
    """Add a Batch task for each input file that is not done and has none that will do it; returns all, in order."""
    batch_tasks = BatchTasks(azure, run, pool, uploads, work)

    def carry_out(plan: Plan) -> None:
        _drop(azure, batch, run, plan)
        add_all(batch, run.job_id, [batch_tasks.make(file) for file in plan.add])

    with azure.batch() as batch:
        plan = resume.plan(uploads.inputs, read_previous_attempt(azure, batch, run), run)
        try:
            carry_out(plan)
        except ResourceExistsError as error:
            # A job of a previous attempt ends with the last of its tasks, which may have been just now.
            job = Job(batch, run, pool.id)
            if error_code(error) not in ENDED_CODES or not job.has_ended_with_its_tasks():
                raise
            previous = read_previous_attempt(azure, batch, run, job_has_ended=True)
            plan = resume.plan(uploads.inputs, previous, run, again=plan.add)
            _replace_job(azure, run, job.as_tagged(), plan)
            carry_out(plan)
    others = len(plan.decisions) - len(plan.add)
    get_run_logger().info(
        "Job %s: %d Batch tasks added, one per input file%s",
        run.job_id,
        len(plan.add),
        f"; {others} of a previous attempt reused" if others else "",
    )
    return [_added(file, decision) for file, decision in plan.decisions]


def _replace_job(azure: Azure, run: Run, job: Job, plan: Plan) -> bool:
    """Replace a job that has ended, if the plan says so; returns whether it did."""
    if not plan.replace_job:
        return False
    get_run_logger().info("%s: has ended with files not processed, replacing it", job.title)
    # First the records: only the job's tasks show that they are of another content.
    delete_records(azure, run, plan.drop_records)
    dispose(run, job, Disposal.DELETE)
    return create_or_adopt(run, job)


def _drop(azure: Azure, batch: BatchClient, run: Run, plan: Plan) -> None:
    """Delete the tasks that are replaced or have none of the files, and records of files that are processed again."""

    def delete(id: str) -> None:
        with suppress(ResourceNotFoundError):
            batch.delete_task(run.job_id, id)

    in_parallel(delete, plan.drop_tasks)
    delete_records(azure, run, plan.drop_records)


def _added(file: UploadedFile, decision: Decision) -> AddedTask:
    return AddedTask(id=file.task_id, file=file.name, earlier=decision is Decision.RECORD_ONLY)


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
        plan = resume.plan(uploads.inputs, read_previous_attempt(azure, batch, run), run)
    if not plan.all_done:
        return []
    get_run_logger().info("A previous attempt has processed all %d files: no pool is needed", len(uploads.inputs))
    return [TaskOutcome.done_before(file.task_id, file.name) for file in uploads.inputs]
