"""Steps 4, 5 and 9: the job, its tasks (one per input file), and its end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from azure.batch import BatchClient
from azure.batch.models import (
    BatchTaskConstraints,
    BatchTaskCreateOptions,
    EnvironmentSetting,
    OutputFile,
    OutputFileBlobContainerDestination,
    OutputFileDestination,
    OutputFileUploadCondition,
    OutputFileUploadConfiguration,
    ResourceFile,
)
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.sas import Signer
from tasks.errors.service import error_code
from tasks.resources.bulk import ENDED_CODES, add_all
from tasks.resources.job import Job
from tasks.resources.ownership import Ending, create_or_adopt, dispose
from tasks.run import resume
from tasks.run.identity import Role, Run, UsedPool
from tasks.run.names import blob_name
from tasks.run.outcomes import STREAMS, AddedTask, TaskOutcome, log_blob
from tasks.run.parallel import in_parallel
from tasks.run.previous_attempt import INPUT_NAME, SAS_EXPIRES, delete_records, read_previous_attempt
from tasks.run.records import OUTPUTS, quoted
from tasks.run.resume import Decision, Plan
from tasks.run.settings import Disposal, RunSettings, TimeLimits
from tasks.run.uploads import UploadedFile, Uploads
from tasks.run.scripts import RUN_FILE
from tasks.run.workload import Workload
from tasks.step import RETRIES_OF_DELETES, step

_LONGEST_NAME = 255  # bytes, of a file name on the nodes' file systems


@dataclass(frozen=True, kw_only=True)
class Work:
    """What each Batch task is to do with its input file."""

    limits: TimeLimits
    slots: int = 1  # that one task takes
    script: str = ""  # the name of the node script on the nodes
    arguments: Sequence[str] = ()  # of the node script

    @classmethod
    def of(cls, workload: Workload[Any, Any], settings: RunSettings) -> Work:
        return cls(
            limits=settings.limits,
            slots=settings.pool.slots_per_task,
            script=workload.script_name,
            arguments=workload.arguments,
        )


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
    token = Signer(azure, run.expires).write_token(run.container(Role.OUTPUT))  # one for all: Entra ID signs slowly

    def carry_out(plan: Plan) -> None:
        _drop(azure, batch, run, plan)
        add_all(batch, run.job_id, [_batch_task(azure, run, pool, uploads, work, file, token) for file in plan.add])

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


def _batch_task(
    azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work, file: UploadedFile, token: str
) -> BatchTaskCreateOptions:
    path = _path_on_node(file)
    files = [ResourceFile(http_url=file.sas_url, file_path=path)]
    folder = '"$AZ_BATCH_NODE_SHARED_DIR"'
    if not pool.own:  # no start task of ours ran there, so each Batch task brings what it needs along
        folder = "application"
        for brought in uploads.application:
            target = f"{folder}/{brought.name}"
            files.append(ResourceFile(http_url=brought.sas_url, file_path=target, file_mode="0755"))
    return BatchTaskCreateOptions(
        id=file.task_id,
        command_line=_command_line(folder, work),
        resource_files=files,
        output_files=[_kept(azure, run, token, file.task_id, stream) for stream in STREAMS],
        environment_settings=_environment(azure, run, pool, work, file, path, token),
        required_slots=work.slots,
        constraints=BatchTaskConstraints(
            max_wall_clock_time=timedelta(minutes=work.limits.task_minutes),
            max_task_retry_count=work.limits.task_retries,
        ),
    )


def _environment(
    azure: Azure, run: Run, pool: UsedPool, work: Work, file: UploadedFile, path: str, token: str
) -> list[EnvironmentSetting]:
    """What run_file.py is given. Not on its command line, which far more people can read."""
    container = f"{azure.storage_account.endpoint}/{run.container(Role.OUTPUT)}"
    values = {
        "INPUT_FILE": path,
        INPUT_NAME: quoted(file.name),
        "INPUT_SIZE": f"{file.size}",
        "INPUT_MD5": file.md5,
        "OUTPUT_URL": f"{container}/{OUTPUTS}/{quote(blob_name(file.name))}",
        "OUTPUT_SAS_TOKEN": token,
        "RECORD_URL": f"{container}/{quote(file.record)}",
        "RECORD_SAS_TOKEN": token,
        SAS_EXPIRES: run.expires.isoformat(),
        "TASKS_PER_NODE": f"{max(1, pool.slots_per_node // work.slots)}",  # which share its cores
    }
    return [EnvironmentSetting(name=name, value=value) for name, value in values.items()]


def _path_on_node(file: UploadedFile) -> str:
    """Where the node puts the file; run_file.py then gives it its own name, if that differs."""
    name = blob_name(file.name.rpartition("/")[2] or "input")
    return f"input/{name if len(name.encode()) <= _LONGEST_NAME else 'input'}"


def _kept(azure: Azure, run: Run, token: str, task_id: str, stream: str) -> OutputFile:
    """What the task writes to stdout or stderr, stored beside its output: a node can be gone before anybody looks."""
    container = f"{azure.storage_account.endpoint}/{run.container(Role.OUTPUT)}?{token}"
    return OutputFile(
        file_pattern=f"../{stream}",
        destination=OutputFileDestination(
            container=OutputFileBlobContainerDestination(container_url=container, path=log_blob(task_id, stream))
        ),
        upload_options=OutputFileUploadConfiguration(upload_condition=OutputFileUploadCondition.TASK_COMPLETION),
    )


def _command_line(folder: str, work: Work) -> str:
    """The same for every Batch task: its file comes in through the environment, so no name needs quoting."""
    script = f"exec python3 {folder}/{RUN_FILE} {folder}/{work.script} {shlex.join(work.arguments)}"
    return f"/bin/sh -c {shlex.quote(script.rstrip())}"


@step("2 find files already done")
def find_done(azure: Azure, run: Run, uploads: Uploads) -> list[TaskOutcome]:
    """Their outcomes where a previous attempt has processed all files, so that only their outputs are still to download.

    Nothing where some are to be processed: then step 5 adds a Batch task for each of those.
    """
    with azure.batch() as batch:
        plan = resume.plan(uploads.inputs, read_previous_attempt(azure, batch, run), run)
    if not plan.all_done:
        return []
    get_run_logger().info("A previous attempt has processed all %d files: no pool is needed", len(uploads.inputs))
    return [TaskOutcome.done_before(file.task_id, file.name) for file in uploads.inputs]
