"""Steps 4, 5 and 9: the job, its tasks (one per input file), and its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from azure.batch import BatchClient
from azure.batch.models import (
    BatchAllTasksCompleteMode,
    BatchJobConstraints,
    BatchJobCreateOptions,
    BatchJobUpdateOptions,
    BatchPoolInfo,
    BatchTaskAddStatus,
    BatchTaskConstraints,
    BatchTaskCreateOptions,
    BatchTaskCreateResult,
    BatchTaskGroup,
    EnvironmentSetting,
    ResourceFile,
)
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from prefect.logging import get_run_logger

from tasks.azure import Azure
from tasks.errors import ServiceError, error_code
from tasks.files import UploadedFile, Uploads
from tasks.outcomes import AddedTask
from tasks.ownership import make, remove
from tasks.pool import UsedPool, metadata, tags
from tasks.settings import Disposal, Role, Run, TimeLimits
from tasks.steps import step

_MOST_PER_REQUEST = 100  # tasks; the service's limit
_ENDED = {"JobBeingTerminated", "JobCompleted", "JobNotActive"}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What each Batch task is to do with its file."""

    top_n: int
    delay_seconds: float
    limits: TimeLimits


@step("4 create job")
def create_job(azure: Azure, run: Run, pool: UsedPool, limits: TimeLimits) -> str:
    """Create the run's job, or adopt the one that an earlier try created; returns its id."""
    options = BatchJobCreateOptions(
        id=run.job_id,
        pool_info=BatchPoolInfo(pool_id=pool.id),
        # The service itself ends the job after this, also when nobody is left to do so.
        constraints=BatchJobConstraints(max_wall_clock_time=timedelta(minutes=limits.run_minutes)),
        # Reaches the tasks through their environment: a command line can be read by far more people.
        common_environment_settings=[_output_token(azure, run)],
        metadata=metadata(run),
    )
    with azure.batch() as batch:
        created = _make_job(batch, run, options)
    how = "created" if created else "is there already"
    get_run_logger().info(
        "Job %s %s on pool %s; it ends after %d minutes at most", run.job_id, how, pool.id, limits.run_minutes
    )
    return run.job_id


@step("5 add tasks")
def add_tasks(azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work) -> list[AddedTask]:
    """Add one Batch task per input file, in their order; those that an earlier try added are left as they are."""
    added = [
        AddedTask(id=f"topNtask{index}", file=file.blob_name, output_name=file.output_name)
        for index, file in enumerate(uploads.inputs)
    ]
    tasks = [
        _batch_task(azure, run, pool, uploads, work, file, task)
        for file, task in zip(uploads.inputs, added, strict=True)
    ]
    with azure.batch() as batch:
        try:
            _add_all(batch, run.job_id, tasks)
        except ResourceExistsError as error:
            # An earlier try added them and its answer was lost; the job may have ended since, because they have.
            if error_code(error) not in _ENDED or not _holds(batch, run.job_id, added):
                raise
    get_run_logger().info("%d Batch tasks added to job %s, one per input file", len(added), run.job_id)
    return added


@step("9 delete job")
def delete_job(azure: Azure, run: Run, disposal: Disposal) -> None:
    """Send the delete of the run's job with its tasks; it vanishes soon after."""
    logger = get_run_logger()
    if disposal is Disposal.KEEP:
        logger.info("Job %s kept", run.job_id)
        return
    with azure.batch() as batch:
        logger.info("Job %s %s", run.job_id, "is being deleted" if _remove_job(batch, run) else "is not there")


def _add_all(batch: BatchClient, job_id: str, tasks: Sequence[BatchTaskCreateOptions]) -> None:
    for chunk in _chunks(tasks, _MOST_PER_REQUEST):
        _add(batch, job_id, chunk)
    # Only now: on a job without tasks it would end the job at once.
    batch.update_job(job_id, BatchJobUpdateOptions(all_tasks_complete_mode=BatchAllTasksCompleteMode.TERMINATE_JOB))


def _holds(batch: BatchClient, job_id: str, tasks: Sequence[AddedTask]) -> bool:
    return {task.id for task in tasks} <= {task.id for task in batch.list_tasks(job_id, select=["id"])}


def _output_token(azure: Azure, run: Run) -> EnvironmentSetting:
    token = azure.signer(run.expires).write_token(run.container(Role.OUTPUT))
    return EnvironmentSetting(name="OUTPUT_SAS_TOKEN", value=token)


def _make_job(batch: BatchClient, run: Run, options: BatchJobCreateOptions) -> bool:
    thing = f"job {run.job_id}"
    return make(run, thing, lambda: batch.create_job(options), lambda: _tags(batch, run), exists="JobExists")


def _batch_task(
    azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work, file: UploadedFile, task: AddedTask
) -> BatchTaskCreateOptions:
    path = f"input/{file.blob_name}"
    files = [ResourceFile(http_url=file.sas_url, file_path=path)]
    script = '"$AZ_BATCH_NODE_SHARED_DIR"/' + uploads.node_script.blob_name
    if not pool.own:  # no start task of ours ran there, so the task brings the script along
        script = f"application/{uploads.node_script.blob_name}"
        files.append(ResourceFile(http_url=uploads.node_script.sas_url, file_path=script, file_mode="0755"))
    return BatchTaskCreateOptions(
        id=task.id,
        command_line=_command_line(azure, run, pool, work, script),
        resource_files=files,
        environment_settings=[EnvironmentSetting(name="INPUT_FILE", value=path)],
        constraints=BatchTaskConstraints(
            max_wall_clock_time=timedelta(minutes=work.limits.task_minutes),
            max_task_retry_count=work.limits.task_retries,
        ),
    )


def _command_line(azure: Azure, run: Run, pool: UsedPool, work: Work, script: str) -> str:
    """The same for every task: the file's name comes in through the environment, so no name needs quoting."""
    arguments = (
        f"--numwords {work.top_n} --storageaccount {azure.storage_account.endpoint}"
        f" --storagecontainer {run.container(Role.OUTPUT)} --slots {pool.slots_per_node} --delay {work.delay_seconds:g}"
    )
    command = f'exec python3 {script} --filepath="$INPUT_FILE" {arguments}'
    return f"/bin/sh -c {shlex.quote(command)}"


def _add(batch: BatchClient, job_id: str, tasks: Sequence[BatchTaskCreateOptions]) -> None:
    """Add up to 100 tasks; halves the request where the service finds it too large.

    The SDK's own create_tasks is not used: it adds in reverse order, repeats 5xx answers without end, and in 15.1
    overlooks a task's error whose status is not in lower case.
    """
    try:
        results = batch.create_task_collection(job_id, BatchTaskGroup(task_values=list(tasks))).result_values or []
    except HttpResponseError as error:
        if error_code(error) != "RequestBodyTooLarge" or len(tasks) == 1:
            raise
        for half in _chunks(tasks, (len(tasks) + 1) // 2):
            _add(batch, job_id, half)
        return
    for result in results:
        _check_added(result)


def _check_added(result: BatchTaskCreateResult) -> None:
    status = str(getattr(result.status, "value", result.status)).lower()
    code = result.error.code if result.error and result.error.code else ""
    if status == BatchTaskAddStatus.SUCCESS or code == "TaskExists":
        return
    message = result.error.message.value if result.error and result.error.message else "no message"
    raise ServiceError(
        f"Azure Batch did not take task {result.task_id}: {code or status}: {message}",
        code=code,
        transient=status == BatchTaskAddStatus.SERVER_ERROR,
    )


def _chunks(tasks: Sequence[BatchTaskCreateOptions], size: int) -> Iterator[Sequence[BatchTaskCreateOptions]]:
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def _remove_job(batch: BatchClient, run: Run) -> bool:
    delete = partial(batch.begin_delete_job, run.job_id)
    return remove(run, delete, lambda: _tags(batch, run), going="JobBeingDeleted")


def _tags(batch: BatchClient, run: Run) -> dict[str, str]:
    return tags(batch.get_job(run.job_id).metadata)
