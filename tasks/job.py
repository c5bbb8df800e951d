"""Steps 4, 5 and 9: the job, its tasks (one per input file), and its end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

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
from prefect.runtime import flow_run

from tasks.accounts.clients import Azure
from tasks.accounts.sas import Signer
from tasks.errors import error_code
from tasks.resources.base import keep, make, remove
from tasks.resources.bulk import ENDED_CODES, add_all
from tasks.resources.job import Job
from tasks.run.identity import Role, Run, UsedPool
from tasks.run.outcomes import FETCH_FAILED, STREAMS, AddedTask, TaskOutcome, log_blob
from tasks.run.parallel import in_parallel
from tasks.run.previous_attempt import INPUT_FILE, SAS_EXPIRES, Earlier, discard_outputs, input_path, look_for_earlier
from tasks.run.settings import Disposal, RunSettings, TimeLimits
from tasks.run.uploads import UploadedFile, Uploads
from tasks.run.workload import Workload
from tasks.step import RETRIES_OF_DELETES, step


@dataclass(frozen=True, kw_only=True)
class Work:
    """What each Batch task is to do with its file."""

    limits: TimeLimits
    slots: int = 1  # that one task takes
    arguments: Sequence[str] = ()  # of the node script

    @classmethod
    def of(cls, workload: Workload[Any, Any], settings: RunSettings) -> Work:
        return cls(limits=settings.limits, slots=settings.pool.slots_per_task, arguments=workload.arguments)


@step("4 create job")
def create_job(azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, disposal: Disposal = Disposal.DELETE) -> str:
    """Create the run's job, or adopt the one that an earlier try created; returns its id.

    An earlier job that has ended takes no more tasks: if some are to be added, it is replaced.
    """
    logger = get_run_logger()
    with azure.batch() as batch:
        job = Job(batch, run, pool.id, disposal)
        created = make(run, job)
        if not created and job.has_ended():
            created = _replaced(azure, batch, run, job, uploads)
    how = "created" if created else "is there already"
    logger.info("Job %s %s on pool %s; it ends at %s at the latest", run.job_id, how, pool.id, run.expires_text)
    return run.job_id


@step("5 add tasks")
def add_tasks(azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work) -> list[AddedTask]:
    """Add a Batch task for each input file that has not been counted and is not about to be; returns all, in order."""
    with azure.batch() as batch:
        earlier = look_for_earlier(azure, batch, run)
        new = _missing(earlier, run, uploads)
        try:
            _add(azure, batch, run, pool, uploads, work, earlier, new)
        except ResourceExistsError as error:
            # A job of an earlier try ends with the last of its tasks, which may have been just now.
            job = Job(batch, run, pool.id)
            if error_code(error) not in ENDED_CODES or not job.has_ended_with_its_tasks():
                raise
            _replaced(azure, batch, run, job.as_tagged(), uploads, new)
            earlier = look_for_earlier(azure, batch, run)
            new = _missing(earlier, run, uploads)
            _add(azure, batch, run, pool, uploads, work, earlier, new)
    added = [_added(file, earlier) for file in uploads.inputs]
    others = len(added) - len(new)
    get_run_logger().info(
        "%d Batch tasks added to job %s, one per input file%s",
        len(new),
        run.job_id,
        f"; {others} of an earlier try are left as they are" if others else "",
    )
    return added


def _replaced(
    azure: Azure, batch: BatchClient, run: Run, job: Job, uploads: Uploads, outdated: Sequence[UploadedFile] = ()
) -> bool:
    """Replace a job that has ended, if some of the files are still to be counted; whether it did.

    outdated: files whose output, if there is one, is not to be taken for theirs, although no task is left that says so.
    """
    earlier = look_for_earlier(azure, batch, run)
    again = {file.task_id for file in outdated}
    left = [file for file in uploads.inputs if file.task_id in again or not earlier.has_counted(file)]
    if not left:
        return False
    get_run_logger().info("Job %s of an earlier try has ended with files not counted: it is replaced", run.job_id)
    # First the outputs: that they are of another content, only the job's tasks can tell.
    discard_outputs(azure, run, earlier, left)
    remove(run, job)
    return make(run, job)


def _missing(earlier: Earlier, run: Run, uploads: Uploads) -> list[UploadedFile]:
    """The files that have not been counted and are not about to be."""
    return [file for file in uploads.inputs if not (earlier.has_counted(file) or earlier.will_count(file, run))]


def _add(
    azure: Azure,
    batch: BatchClient,
    run: Run,
    pool: UsedPool,
    uploads: Uploads,
    work: Work,
    earlier: Earlier,
    new: Sequence[UploadedFile],
) -> None:
    _discard(batch, run, earlier, new, uploads)
    discard_outputs(azure, run, earlier, new)
    token = Signer(azure, run.expires).write_token(run.container(Role.OUTPUT))  # one for all: Entra ID signs slowly
    add_all(batch, run.job_id, [_batch_task(azure, run, pool, uploads, work, file, token) for file in new])


@step("9 delete job", retries=RETRIES_OF_DELETES)
def delete_job(azure: Azure, run: Run, disposal: Disposal) -> None:
    """Send the delete of the run's job with its tasks; it vanishes soon after."""
    with azure.batch() as batch:
        job = Job(batch, run)
        if disposal is Disposal.KEEP:
            done = "kept" if keep(run, job) else "is not there"
        else:
            done = "is being deleted" if remove(run, job) else "is not there"
    get_run_logger().info("Job %s %s", run.job_id, done)


def _added(file: UploadedFile, earlier: Earlier) -> AddedTask:
    earlier_only = earlier.has_only_the_output(file)
    return AddedTask(id=file.task_id, file=file.blob_name, output_name=file.output_name, earlier=earlier_only)


def _discard(batch: BatchClient, run: Run, earlier: Earlier, new: Sequence[UploadedFile], uploads: Uploads) -> None:
    """Delete the tasks that the new ones replace, and those of files that are no longer counted."""
    replaced = [file.task_id for file in new if file.task_id in earlier.tasks]

    def delete(id: str) -> None:
        with suppress(ResourceNotFoundError):
            batch.delete_task(run.job_id, id)

    in_parallel(delete, {*replaced, *earlier.strangers(uploads.inputs)})


def _batch_task(
    azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work, file: UploadedFile, token: str
) -> BatchTaskCreateOptions:
    files = [ResourceFile(http_url=file.sas_url, file_path=input_path(file))]
    script = '"$AZ_BATCH_NODE_SHARED_DIR"/' + uploads.node_script.blob_name
    if not pool.own:  # no start task of ours ran there, so the task brings the script along
        script = f"application/{uploads.node_script.blob_name}"
        files.append(ResourceFile(http_url=uploads.node_script.sas_url, file_path=script, file_mode="0755"))
    return BatchTaskCreateOptions(
        id=file.task_id,
        command_line=_command_line(azure, run, pool, work, script),
        resource_files=files,
        output_files=[_kept(azure, run, token, file.task_id, stream) for stream in STREAMS],
        # Through the environment: a command line can be read by far more people.
        environment_settings=[
            EnvironmentSetting(name=INPUT_FILE, value=input_path(file)),
            EnvironmentSetting(name="INPUT_SIZE", value=f"{file.size}"),
            EnvironmentSetting(name="INPUT_MD5", value=file.md5),
            EnvironmentSetting(name="OUTPUT_SAS_TOKEN", value=token),
            EnvironmentSetting(name=SAS_EXPIRES, value=run.expires.isoformat()),
        ],
        required_slots=work.slots,
        constraints=BatchTaskConstraints(
            max_wall_clock_time=timedelta(minutes=work.limits.task_minutes),
            max_task_retry_count=work.limits.task_retries,
        ),
    )


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


# For any node script, in plain sh and without a quote: the file that came has to be the one that was uploaded.
_VERIFY = f"""\
md5=$(md5sum < "$INPUT_FILE"); md5=${{md5%% *}}; \
if [ "$md5" != "$INPUT_MD5" ]; then \
size=$(wc -c < "$INPUT_FILE"); \
echo "$INPUT_FILE is not what was uploaded: expected $INPUT_SIZE bytes with MD5 $INPUT_MD5, \
found ${{size:-no}} bytes with MD5 ${{md5:-none}}" >&2; \
exit {FETCH_FAILED}; fi"""


def _command_line(azure: Azure, run: Run, pool: UsedPool, work: Work, script: str) -> str:
    """The same for every task: the file's name comes in through the environment, so no name needs quoting."""
    at_a_time = max(1, pool.slots_per_node // work.slots)  # tasks of one node, which share its cores
    arguments = ["--storageaccount", azure.storage_account.endpoint]
    arguments += ["--storagecontainer", run.container(Role.OUTPUT), "--slots", f"{at_a_time}"]
    command = f'{_VERIFY}; exec python3 {script} --filepath="$INPUT_FILE" {shlex.join([*arguments, *work.arguments])}'
    return f"/bin/sh -c {shlex.quote(command)}"


@step("2 find counted files")
def find_counted(azure: Azure, run: Run, uploads: Uploads) -> list[TaskOutcome]:
    """Their outcomes where a previous attempt has counted all of the files, and only their outputs are still to be had.

    Nothing where some are to be counted: then step 5 adds a Batch task for each of those.
    """
    if (flow_run.run_count or 1) == 1:
        return []
    with azure.batch() as batch:
        earlier = look_for_earlier(azure, batch, run)
    if not all(earlier.has_counted(file) for file in uploads.inputs):
        return []
    get_run_logger().info("A previous attempt has counted all %d files: no pool is needed", len(uploads.inputs))
    return [TaskOutcome.counted_before(file.task_id, file.blob_name, file.output_name) for file in uploads.inputs]
