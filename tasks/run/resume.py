"""What a retry of a run does about each of its files: decided once, from what a previous attempt has left."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from tasks.run.group_records import GroupRecords, Written
from tasks.run.groups import Group
from tasks.run.identity import Run
from tasks.run.previous_attempt import PreviousAttempt, PreviousTask, Progress
from tasks.run.records import FileRecord, quoted
from tasks.run.uploads import UploadedFile, Uploads


class Decision(str, Enum):
    """What is done about a file."""

    DONE = "done: its Batch task is there, and its record is there"
    RECORD_ONLY = "done: its record is there, its Batch task is gone"
    PENDING = "kept: its Batch task runs, or will"
    ADD = "gets a new Batch task"


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlan:
    """What is done about the files of a group.

    members: the places of those that its Batch task processes, which is kept or to be added; none: there is no task.
    """

    group: Group[UploadedFile]
    decisions: tuple[Decision, ...]
    members: tuple[int, ...] = ()

    @property
    def adds(self) -> bool:
        return Decision.ADD in self.decisions

    @property
    def to_add(self) -> list[UploadedFile]:
        """The files that get a new Batch task."""
        return [self.group.files[at] for at in self.members] if self.adds else []

    def without_task(self) -> GroupPlan:
        """The same where the Batch task that was to be kept is gone."""
        if self.adds:
            return self
        return replace(self, decisions=tuple(Decision.RECORD_ONLY for _ in self.decisions), members=())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to keep, add and drop.

    void: the files whose records of that group do not count any more, by the group's id.

    next_lists: the number of the group's next list of records, by the group's id; 0 where there is none.

    replace_job: it has ended, so that it is deleted and created again before tasks are added.
    """

    groups: Sequence[GroupPlan]
    drop_tasks: Set[str]
    drop_records: Set[str]
    void: Mapping[str, Set[str]]
    next_lists: Mapping[str, int]
    replace_job: bool

    @property
    def decisions(self) -> Sequence[tuple[UploadedFile, Decision]]:
        return tuple(pair for each in self.groups for pair in zip(each.group.files, each.decisions, strict=True))

    @property
    def add(self) -> list[UploadedFile]:
        return [file for each in self.groups for file in each.to_add]

    @property
    def all_done(self) -> bool:
        return all(decision in (Decision.DONE, Decision.RECORD_ONLY) for _, decision in self.decisions)


def plan(uploads: Uploads, previous: PreviousAttempt, run: Run, again: Collection[UploadedFile] = ()) -> Plan:
    """Decide about each file.

    again: files to process anew whatever there is of them, because their tasks, which showed that a record is outdated,
    have been deleted.
    """
    judge = _Judge(previous, run, uploads, {file.name for file in again})
    groups = [judge.decide(group) for group in uploads.groups]
    replace_job = previous.job_has_ended and any(each.adds for each in groups)
    if replace_job:  # its tasks go with it
        groups = [each.without_task() for each in groups]
    kept = {each.group.id for each in groups if each.members and not each.adds}
    add = [file for each in groups for file in each.to_add]
    return Plan(
        groups=groups,
        drop_tasks=frozenset() if replace_job else frozenset(previous.tasks.keys() - kept),
        drop_records=frozenset({file.record for file in add} & previous.records.keys()),
        void=_void(previous.groups, {file.name for file in add}),
        next_lists={id: group.next_list for id, group in previous.groups.items()},
        replace_job=replace_job,
    )


def _void(groups: Mapping[str, GroupRecords], names: set[str]) -> dict[str, frozenset[str]]:
    found = {id: group.files.keys() & names for id, group in groups.items()}
    return {id: frozenset(files) for id, files in found.items() if files}


class _Judge:
    """Decides about one group at a time."""

    def __init__(self, previous: PreviousAttempt, run: Run, uploads: Uploads, again: Collection[str]) -> None:
        self._previous = previous
        self._run = run
        self._bundles = uploads.bundles
        self._programmed = uploads.programmed
        self._again = again
        self._by_input: dict[str, list[PreviousTask]] = {}
        for task in previous.tasks.values():
            self._by_input.setdefault(task.input, []).append(task)
        self._last = self._last_records()

    def decide(self, group: Group[UploadedFile]) -> GroupPlan:
        decisions = self._in_group(group) if group.id in self._bundles else [self._alone(group.files[0])]
        task = self._previous.tasks.get(group.id)
        if Decision.ADD in decisions:  # also those for which there was a task: it is replaced
            new = {Decision.DONE: Decision.RECORD_ONLY, Decision.PENDING: Decision.ADD}
            decisions = [new.get(decision, decision) for decision in decisions]
            members = [at for at, decision in enumerate(decisions) if decision is Decision.ADD]
        elif all(decision is Decision.RECORD_ONLY for decision in decisions):
            members = []
        else:
            members = sorted(task.members) if task and task.digest else [0]
        return GroupPlan(group=group, decisions=tuple(decisions), members=tuple(members))

    # A file that is processed alone.

    def _alone(self, file: UploadedFile) -> Decision:
        if file.name in self._again:
            return Decision.ADD
        task = self._task_of(file)
        if self._has_own_record(file) and (task is None or task.succeeded):
            return Decision.DONE if task else Decision.RECORD_ONLY
        if self._done_in_a_group(file):
            return Decision.RECORD_ONLY
        pending = task is not None and self._will_process(task)
        return Decision.PENDING if pending else Decision.ADD

    def _task_of(self, file: UploadedFile) -> PreviousTask | None:
        """The task under the file's id, if it is that file's, with its present content."""
        task = self._previous.tasks.get(file.task_id)
        return task if task and task.input == quoted(file.name) and not self._precedes(task, file.modified) else None

    def _has_own_record(self, file: UploadedFile) -> bool:
        """Whether there is a record of the file's present content.

        Not where some task may have read an earlier content, whenever it has written its record.
        """
        written = self._previous.records.get(file.record)
        return written is not None and written >= file.modified and not self._is_outdated(file, file.modified)

    # Files of a group.

    def _in_group(self, group: Group[UploadedFile]) -> list[Decision]:
        task = self._previous.tasks.get(group.id)
        if task and (task.digest != self._bundles[group.id].digest or self._precedes(task, self._programmed)):
            task = None
        pending = task is not None and self._will_process(task)
        kept = task.members if task and (pending or task.succeeded) else frozenset()

        def decide(at: int, file: UploadedFile) -> Decision:
            if file.name in self._again:
                return Decision.ADD
            if self._done_in_a_group(file) or self._done_alone(file):
                return Decision.DONE if at in kept else Decision.RECORD_ONLY
            return Decision.PENDING if pending and at in kept else Decision.ADD

        return [decide(at, file) for at, file in enumerate(group.files)]

    def _last_records(self) -> dict[str, Written]:
        """The last record of each file, whatever group it was in; none that a task of another script has written."""
        tasks = self._previous.tasks
        found: dict[str, Written] = {}
        for id, group in self._previous.groups.items():
            if id in tasks and tasks[id].digest and self._precedes(tasks[id], self._programmed):
                continue
            for name, written in group.files.items():
                if name not in found or found[name].at <= written.at:
                    found[name] = written
        return found

    def _done_in_a_group(self, file: UploadedFile) -> bool:
        last = self._last.get(file.name)
        return last is not None and last.at >= self._programmed and _is_of(last.record, file)

    def _done_alone(self, file: UploadedFile) -> bool:
        """Whether a file that is in a group now was done when it was alone."""
        record, written = self._previous.alone.get(file.name), self._previous.records.get(file.record)
        if record is None or written is None or written < self._programmed:
            return False
        return _is_of(record, file) and not self._is_outdated(file, self._programmed)

    # Tasks

    def _is_outdated(self, file: UploadedFile, since: datetime) -> bool:
        return any(self._precedes(task, since) for task in self._by_input.get(quoted(file.name), ()))

    def _will_process(self, task: PreviousTask) -> bool:
        """Whether it is of this attempt, or is running, or waits with SAS URLs that last for half of the run."""
        if self._previous.job_has_ended:
            return False
        if task.sas_expires == self._run.expires:
            return True
        if task.progress is Progress.WAITING:  # the longest that it may then run is not known here
            limit = self._run.started + self._run.lifetime / 2
            return task.sas_expires is not None and task.sas_expires >= limit
        return task.progress is Progress.RUNNING

    def _precedes(self, task: PreviousTask, since: datetime) -> bool:
        """Whether the task was created before its files or the script had their present content.

        By the clocks of two services. Not a task of this attempt, in which nothing can have changed since.
        """
        if task.sas_expires == self._run.expires:
            return False
        return task.created is not None and task.created < since


def _is_of(record: FileRecord, file: UploadedFile) -> bool:
    """Whether the file was processed successfully, with its present content."""
    return record.succeeded and (record.size, record.content) == (file.size, file.content)
