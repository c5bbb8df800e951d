"""What a previous attempt of the run has left of its Batch tasks and records, and how records come to count no more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from azure.batch import BatchClient
from azure.batch.models import BatchTask, BatchTaskExecutionResult
from azure.core.exceptions import ResourceNotFoundError

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.run.group_records import GroupRecords, lists_by_group, make_void, next_number, read_group_records
from tasks.run.groups import parse_ranges
from tasks.run.identity import Role, Run
from tasks.run.records import RECORDS, FileRecord
from tasks.run.tags import parse_time
from tasks.run.uploads import UploadedFile, Uploads

# Environment variables of a Batch task: its input file, or its group and which files of that; and when its SAS URLs
# end, which differs between attempts.
INPUT_NAME = "INPUT_NAME"
GROUP_DIGEST = "GROUP_DIGEST"
GROUP_MEMBERS = "GROUP_MEMBERS"
SAS_EXPIRES = "SAS_EXPIRES"


class Progress(str, Enum):
    """How far a Batch task has come."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"


@dataclass(frozen=True, kw_only=True)
class PreviousTask:
    """A Batch task of the run's job."""

    id: str
    input: str = ""  # the name of its file, percent-encoded; empty of a group
    digest: str = ""  # of the list of its group
    members: frozenset[int] = frozenset()  # the files of the group that it processes, by their places in it
    progress: Progress
    succeeded: bool
    created: datetime | None
    sas_expires: datetime | None  # which also differs between attempts


@dataclass(frozen=True, kw_only=True)
class PreviousAttempt:
    """What there is of the run's Batch tasks by id, and of the records.

    records: of files that were processed alone, by the blob, with the times when they were written.

    alone: such records of files that are in groups now, by the file's name: they say what content they are of.

    groups: of files that were in groups, by the group's id.
    """

    tasks: Mapping[str, PreviousTask] = field(default_factory=dict)
    records: Mapping[str, datetime] = field(default_factory=dict)
    alone: Mapping[str, FileRecord] = field(default_factory=dict)
    groups: Mapping[str, GroupRecords] = field(default_factory=dict)
    job_has_ended: bool = False  # and takes no more tasks


_FIELDS = ["id", "state", "creationTime", "executionInfo", "environmentSettings"]
_PROGRESS = {"active": Progress.WAITING, "completed": Progress.COMPLETED}  # else it runs, or is about to


def read_previous_attempt(
    azure: Azure, batch: BatchClient, run: Run, uploads: Uploads, *, job_has_ended: bool = False
) -> PreviousAttempt:
    """What is in the run's job and in its output container; nothing where these do not exist."""
    try:
        tasks = [previous_task(task) for task in batch.list_tasks(run.job_id, select=_FIELDS)]
    except ResourceNotFoundError:
        tasks = []
    records = records_there(azure, run)
    return PreviousAttempt(
        tasks={task.id: task for task in tasks},
        records=records,
        alone=_read_alone(azure, run, [file for file in uploads.in_groups if file.record in records]),
        groups=read_group_records(azure, run),
        job_has_ended=job_has_ended,
    )


def _read_alone(azure: Azure, run: Run, files: Sequence[UploadedFile]) -> dict[str, FileRecord]:
    """The records of files that were processed alone, by the file's name; one that is damaged counts as none."""
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))

        def read(file: UploadedFile) -> FileRecord | None:
            try:
                return FileRecord.parse(container.download_blob(file.record).readall())
            except (ResourceNotFoundError, ValueError):
                return None

        found = zip(files, in_parallel(read, files), strict=True)
        return {file.name: record for file, record in found if record}


def previous_task(task: BatchTask) -> PreviousTask:
    environment = {setting.name: setting.value or "" for setting in task.environment_settings or ()}
    info = task.execution_info
    return PreviousTask(
        id=str(task.id),
        input=environment.get(INPUT_NAME, ""),
        digest=environment.get(GROUP_DIGEST, ""),
        members=parse_ranges(environment.get(GROUP_MEMBERS, "")),
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


def void_group_records(
    azure: Azure, run: Run, files: Mapping[str, Collection[str]], next_lists: Mapping[str, int]
) -> None:
    """Have the records of these files, by the group's id, count no more."""
    in_parallel(lambda id: make_void(azure, run, id, files[id], below=next_lists[id]), files)


def next_lists_there(azure: Azure, run: Run) -> dict[str, int]:
    """The number of each group's next list of records, by the group's id; of a group without lists none."""
    return {group: next_number(lists) for group, lists in lists_by_group(azure, run).items()}
