"""What a retry of a run does about each of its files: decided once, from what a previous attempt has left."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from tasks.run.identity import Run
from tasks.run.records import quoted
from tasks.run.uploads import UploadedFile


class Progress(str, Enum):
    """How far a Batch task has come."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"


@dataclass(frozen=True, kw_only=True)
class PreviousTask:
    """A Batch task of the run's job."""

    id: str
    input: str  # the name of its file, percent-encoded
    progress: Progress
    succeeded: bool
    created: datetime | None
    sas_expires: datetime | None  # which also differs between attempts


@dataclass(frozen=True, kw_only=True)
class PreviousAttempt:
    """What there is of the run's Batch tasks by id, and of the records with the times when they were written."""

    tasks: Mapping[str, PreviousTask] = field(default_factory=dict)
    records: Mapping[str, datetime] = field(default_factory=dict)
    job_has_ended: bool = False  # and takes no more tasks


class Decision(str, Enum):
    """What is done about a file."""

    DONE = "done: its Batch task has succeeded, and its record is there"
    RECORD_ONLY = "done: its record is there, its Batch task is gone"
    PENDING = "kept: its Batch task runs, or will"
    ADD = "gets a new Batch task"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to keep, add and drop.

    replace_job: it has ended, so that it is deleted and created again before tasks are added.
    """

    decisions: Sequence[tuple[UploadedFile, Decision]]
    drop_tasks: frozenset[str]
    drop_records: frozenset[str]
    replace_job: bool

    @property
    def add(self) -> list[UploadedFile]:
        return [file for file, decision in self.decisions if decision is Decision.ADD]

    @property
    def all_done(self) -> bool:
        return all(decision in (Decision.DONE, Decision.RECORD_ONLY) for _, decision in self.decisions)


def plan(
    files: Sequence[UploadedFile], previous: PreviousAttempt, run: Run, again: Collection[UploadedFile] = ()
) -> Plan:
    """Decide about each file.

    again: files to process anew whatever there is of them, because their tasks, which showed that a record is outdated,
    have been deleted.
    """
    judge = _Judge(previous, run)
    task_ids = {file.task_id for file in again}
    decisions = [(file, Decision.ADD if file.task_id in task_ids else judge.decide(file)) for file in files]
    replace_job = previous.job_has_ended and any(decision is Decision.ADD for _, decision in decisions)
    if replace_job:  # its tasks go with it
        decisions = [(f, Decision.RECORD_ONLY if d is Decision.DONE else d) for f, d in decisions]
    kept = {file.task_id for file, decision in decisions if decision in (Decision.DONE, Decision.PENDING)}
    records = {file.record for file, decision in decisions if decision is Decision.ADD}
    return Plan(
        decisions=tuple(decisions),
        drop_tasks=frozenset() if replace_job else frozenset(previous.tasks.keys() - kept),
        drop_records=frozenset(records & previous.records.keys()),
        replace_job=replace_job,
    )


class _Judge:
    """Decides about one file at a time."""

    def __init__(self, previous: PreviousAttempt, run: Run) -> None:
        self._previous = previous
        self._run = run
        self._by_input: dict[str, list[PreviousTask]] = {}
        for task in previous.tasks.values():
            self._by_input.setdefault(task.input, []).append(task)

    def decide(self, file: UploadedFile) -> Decision:
        task = self._task_of(file)
        if self._has_record(file) and (task is None or task.succeeded):
            return Decision.DONE if task else Decision.RECORD_ONLY
        pending = task is not None and not self._previous.job_has_ended and self._will_process(task)
        return Decision.PENDING if pending else Decision.ADD

    def _task_of(self, file: UploadedFile) -> PreviousTask | None:
        """The task under the file's id, if it is that file's, with its present content."""
        task = self._previous.tasks.get(file.task_id)
        return task if task and task.input == quoted(file.name) and not self._precedes(task, file) else None

    def _has_record(self, file: UploadedFile) -> bool:
        """Whether there is a record of the file's present content.

        Not where some task may have read an earlier content, whenever it has written its record.
        """
        written = self._previous.records.get(file.record)
        tasks = self._by_input.get(quoted(file.name), ())
        return written is not None and written >= file.modified and not any(self._precedes(t, file) for t in tasks)

    def _will_process(self, task: PreviousTask) -> bool:
        """Whether it is of this attempt, or is running, or waits with SAS URLs that last for half of the run."""
        if task.sas_expires == self._run.expires:
            return True
        if task.progress is Progress.WAITING:  # the longest that it may then run is not known here
            limit = self._run.started + self._run.lifetime / 2
            return task.sas_expires is not None and task.sas_expires >= limit
        return task.progress is Progress.RUNNING

    def _precedes(self, task: PreviousTask, file: UploadedFile) -> bool:
        """Whether the task was created before the file had its present content, by the clocks of two services.

        Not a task of this attempt, in which the files cannot have changed since.
        """
        if task.sas_expires == self._run.expires:
            return False
        return task.created is not None and task.created < file.modified
