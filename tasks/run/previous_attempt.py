"""Read what a previous attempt of this run has left of its Batch tasks and records, and delete records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime

from azure.batch import BatchClient
from azure.batch.models import BatchTask, BatchTaskExecutionResult
from azure.core.exceptions import ResourceNotFoundError

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.run.identity import Role, Run
from tasks.run.records import RECORDS
from tasks.run.resume import PreviousAttempt, PreviousTask, Progress
from tasks.run.tags import parse_time

# Environment variables of a Batch task: its input file, and when its SAS URLs end, which differs between attempts.
INPUT_NAME = "INPUT_NAME"
SAS_EXPIRES = "SAS_EXPIRES"
_FIELDS = ["id", "state", "creationTime", "executionInfo", "environmentSettings"]
_PROGRESS = {"active": Progress.WAITING, "completed": Progress.COMPLETED}  # else it runs, or is about to


def read_previous_attempt(
    azure: Azure, batch: BatchClient, run: Run, *, job_has_ended: bool = False
) -> PreviousAttempt:
    """What is in the run's job and in its output container; nothing where these do not exist."""
    try:
        tasks = [previous_task(task) for task in batch.list_tasks(run.job_id, select=_FIELDS)]
    except ResourceNotFoundError:
        tasks = []
    return PreviousAttempt(
        tasks={task.id: task for task in tasks}, records=records_there(azure, run), job_has_ended=job_has_ended
    )


def previous_task(task: BatchTask) -> PreviousTask:
    environment = {setting.name: setting.value or "" for setting in task.environment_settings or ()}
    info = task.execution_info
    return PreviousTask(
        id=str(task.id),
        input=environment.get(INPUT_NAME, ""),
        progress=_PROGRESS.get(str(getattr(task.state, "value", task.state)), Progress.RUNNING),
        succeeded=info is not None and info.result == BatchTaskExecutionResult.SUCCESS,
        created=task.creation_time,
        sas_expires=parse_time(environment.get(SAS_EXPIRES, "")),
    )


def records_there(azure: Azure, run: Run) -> Mapping[str, datetime]:
    """The blobs of the records with the times when they were written; none where the container is gone."""
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        try:
            return {blob.name: blob.last_modified for blob in container.list_blobs(name_starts_with=f"{RECORDS}/")}
        except ResourceNotFoundError:
            return {}


def delete_records(azure: Azure, run: Run, names: Iterable[str]) -> None:
    """Delete the records of files that are processed again, so that nobody takes their outputs for new ones."""
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))

        def delete(name: str) -> None:
            with suppress(ResourceNotFoundError):
                container.delete_blob(name)

        in_parallel(delete, names)
