"""Adding many tasks to a job, in requests that can each be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from azure.batch import BatchClient
from azure.batch.models import (
    BatchAllTasksCompleteMode,
    BatchJobUpdateOptions,
    BatchTaskAddStatus,
    BatchTaskCreateOptions,
    BatchTaskCreateResult,
    BatchTaskGroup,
)
from azure.core.exceptions import HttpResponseError, ResourceExistsError

from tasks.errors.codes import JOB_ENDED, Code
from tasks.errors.service import ServiceError, error_code

_MOST_PER_REQUEST = 100  # tasks; the service's limit


def add_all(batch: BatchClient, job_id: str, tasks: Sequence[BatchTaskCreateOptions]) -> None:
    """Add the tasks in their order, those that are there already apart, and have the job end with the last of them."""
    try:
        for chunk in _chunks(tasks, _MOST_PER_REQUEST):
            _add(batch, job_id, chunk)
        # Only now: on a job without tasks it would end the job at once.
        batch.update_job(job_id, BatchJobUpdateOptions(all_tasks_complete_mode=BatchAllTasksCompleteMode.TERMINATE_JOB))
    except ResourceExistsError as error:
        # The answer to an earlier request was lost; the job may have ended since, because its tasks have.
        if error_code(error) not in JOB_ENDED or not _holds(batch, job_id, tasks):
            raise


def _holds(batch: BatchClient, job_id: str, tasks: Sequence[BatchTaskCreateOptions]) -> bool:
    return {task.id for task in tasks} <= {task.id for task in batch.list_tasks(job_id, select=["id"])}


def _add(batch: BatchClient, job_id: str, tasks: Sequence[BatchTaskCreateOptions]) -> None:
    """Add up to 100 tasks; halves the request where the service finds it too large.

    The SDK's own create_tasks is not used: it adds in reverse order, repeats 5xx answers without end, and in 15.1
    overlooks a task's error whose status is not in lower case.
    """
    try:
        results = batch.create_task_collection(job_id, BatchTaskGroup(task_values=list(tasks))).result_values or []
    except HttpResponseError as error:
        if error_code(error) != Code.REQUEST_BODY_TOO_LARGE or len(tasks) == 1:
            raise
        for half in _chunks(tasks, (len(tasks) + 1) // 2):
            _add(batch, job_id, half)
        return
    for result in results:
        _check_added(result)


def _check_added(result: BatchTaskCreateResult) -> None:
    status = str(getattr(result.status, "value", result.status)).lower()
    code = result.error.code if result.error and result.error.code else ""
    if status == BatchTaskAddStatus.SUCCESS or code == Code.TASK_EXISTS:
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
