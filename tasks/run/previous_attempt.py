"""What an earlier try of this run has left of its Batch tasks: what is counted already need not be counted again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from azure.batch import BatchClient
from azure.batch.models import BatchTask, BatchTaskExecutionResult, BatchTaskState
from azure.core.exceptions import ResourceNotFoundError

from tasks.accounts.clients import Azure
from tasks.run.identity import Role, Run
from tasks.run.parallel import in_parallel
from tasks.run.uploads import UploadedFile

# Environment variables of a Batch task: its input, and when its SAS URLs end. The latter also tells the tries apart.
INPUT_FILE = "INPUT_FILE"
SAS_EXPIRES = "SAS_EXPIRES"
_FIELDS = ["id", "state", "creationTime", "executionInfo", "environmentSettings"]


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The job's tasks by id, and the output blobs with the times when they were written.

    this_try: what SAS_EXPIRES is in tasks of the present try, whose files cannot have changed since.
    """

    this_try: str
    tasks: Mapping[str, BatchTask]
    outputs: Mapping[str, datetime]

    def has_counted(self, file: UploadedFile) -> bool:
        """Whether the file's output is there, from the file's present content."""
        written = self.outputs.get(file.output_name)
        if written is None or written < file.modified or self._is_outdated(file):
            return False
        task = self._task_of(file)
        return task is None or _succeeded(task)

    def has_only_the_output(self, file: UploadedFile) -> bool:
        """Whether the file has been counted by a task that is no longer there."""
        return self._task_of(file) is None and self.has_counted(file)

    def will_count(self, file: UploadedFile, run: Run) -> bool:
        """Whether a task of that file is of this try, or is running, or waits with SAS URLs that will do."""
        task = self._task_of(file)
        if task is None:
            return False
        expires = _environment(task).get(SAS_EXPIRES, "")
        if expires == self.this_try:
            return True
        if task.state == BatchTaskState.ACTIVE:  # waiting; the longest that it may then run is not known here
            return bool(expires) and datetime.fromisoformat(expires) >= run.started + run.lifetime / 2
        return task.state != BatchTaskState.COMPLETED

    def strangers(self, files: Sequence[UploadedFile]) -> list[str]:
        """The ids of tasks that count none of the files, such as one that has been taken out of the input folder."""
        own = {file.task_id for file in files if self._task_of(file) is not None}
        return [id for id in self.tasks if id not in own]

    def _task_of(self, file: UploadedFile) -> BatchTask | None:
        task = self.tasks.get(file.task_id)
        if task is None or _environment(task).get(INPUT_FILE) != input_path(file):
            return None
        return None if self._precedes(task, file) else task

    def _is_outdated(self, file: UploadedFile) -> bool:
        """Whether there is a task that may have read an earlier content of the file, and wrote its output whenever."""
        return any(self._precedes(task, file) for task in self._by_input.get(input_path(file), ()))

    def _precedes(self, task: BatchTask, file: UploadedFile) -> bool:
        """Whether the task was made before the file had its present content, by the clocks of two services."""
        if _environment(task).get(SAS_EXPIRES) == self.this_try:
            return False
        return task.creation_time is not None and task.creation_time < file.modified

    @cached_property
    def _by_input(self) -> Mapping[str, Sequence[BatchTask]]:
        found: dict[str, list[BatchTask]] = {}
        for task in self.tasks.values():
            found.setdefault(_environment(task).get(INPUT_FILE, ""), []).append(task)
        return found


def look_for_earlier(azure: Azure, batch: BatchClient, run: Run) -> Earlier:
    """What there is in the run's job and in its output container; nothing where they are not there."""
    try:
        tasks = {str(task.id): task for task in batch.list_tasks(run.job_id, select=_FIELDS)}
    except ResourceNotFoundError:
        tasks = {}
    return Earlier(this_try=run.expires.isoformat(), tasks=tasks, outputs=outputs_there(azure, run))


def outputs_there(azure: Azure, run: Run) -> Mapping[str, datetime]:
    """The output blobs with the times when they were written; none where the container is gone."""
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        try:
            return {blob.name: blob.last_modified for blob in container.list_blobs()}
        except ResourceNotFoundError:
            return {}


def discard_outputs(azure: Azure, run: Run, earlier: Earlier, files: Sequence[UploadedFile]) -> None:
    """Delete the outputs of files that are to be counted again, so that nobody takes them for new ones."""
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))

        def delete(name: str) -> None:
            with suppress(ResourceNotFoundError):
                container.delete_blob(name)

        in_parallel(delete, {file.output_name for file in files} & set(earlier.outputs))


def input_path(file: UploadedFile) -> str:
    """Where a node puts the file, in the Batch task's working directory."""
    return f"input/{file.blob_name}"


def _environment(task: BatchTask) -> dict[str, str]:
    return {setting.name: setting.value or "" for setting in task.environment_settings or ()}


def _succeeded(task: BatchTask) -> bool:
    return bool(task.execution_info and task.execution_info.result == BatchTaskExecutionResult.SUCCESS)
