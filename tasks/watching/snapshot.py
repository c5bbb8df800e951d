"""Reads the job, its tasks, the pool and its nodes from the service into a value, no more of them than asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from itertools import islice

from azure.batch import BatchClient
from azure.batch.models import BatchJob, BatchNode, BatchPool, BatchTask
from azure.core.exceptions import ResourceNotFoundError

from tasks.accounts.clients import Azure
from tasks.errors.service import SERVICE_FAILURES
from tasks.reporting.artifacts import MOST_TABLE_ROWS
from tasks.reporting.node_time import NODE_FIELDS
from tasks.run.identity import Run
from tasks.run.outcomes import OUTCOME_FIELDS, AddedTask, TaskOutcome
from tasks.watching.file_results import proven
from tasks.watching.logs import start_task_stderr
from tasks.watching.progress import Progress

_NODE_FIELDS = [*NODE_FIELDS, "errors", "runningTasksCount", "recentTasks"]
_PREEMPTED = "state eq 'preempted'"
_RUNNING, _FAILED = "state eq 'running'", "executionInfo/result eq 'failure'"


class Part(Enum):
    """What can be read in one look; `decide` asks for what it needs."""

    COUNTS = "the job's task counts"
    TASKS = "all tasks"
    LATEST_TASKS = "all tasks, or none where the service does not respond"
    SHOWN_TASKS = "all tasks; of very many only those that run or failed"
    RUNNING_TASKS = "the tasks that run; of very many not all"
    TASKS_ADDED = "when the first task was added"
    JOB = "the job"
    POOL = "the pool and its nodes"
    PREEMPTED = "the preempted spot nodes"
    START_TASK_STDERR = "what the start task of a failed node wrote to stderr"


_INCLUDED_IN = {
    Part.LATEST_TASKS: {Part.TASKS},
    Part.SHOWN_TASKS: {Part.TASKS},
    Part.RUNNING_TASKS: {Part.SHOWN_TASKS, Part.TASKS},
}


class NotRead(Exception):
    """A part is needed that the snapshot does not have yet."""

    def __init__(self, part: Part) -> None:
        super().__init__(part.value)
        self.part = part


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The service as one look found it. A part that was read and is None does not exist any more."""

    read: frozenset[Part] = frozenset()
    counts: Progress | None = None
    tasks: Mapping[str, TaskOutcome] | None = None  # by id; all of them in the order in which they were added
    tasks_added: datetime | None = None  # by the service's clock
    job: BatchJob | None = None
    pool: BatchPool | None = None
    nodes: Sequence[BatchNode] = ()
    preempted: Mapping[str, datetime | None] | None = None  # spot nodes by id, and since when
    start_task_stderr: Mapping[str, str] = field(default_factory=dict)  # by node

    def has(self, part: Part) -> bool:
        return bool(self.read & {part, *_INCLUDED_IN.get(part, ())})

    def need(self, part: Part) -> None:
        """Raises NotRead where the part has not been read."""
        if not self.has(part):
            raise NotRead(part)


@dataclass(kw_only=True)
class SnapshotReader:
    """Reads the parts of a snapshot. What fails raises one of SERVICE_FAILURES."""

    azure: Azure
    batch: BatchClient
    run: Run
    pool_id: str
    tasks: Sequence[AddedTask]
    _tasks_added: datetime | None = None

    def __post_init__(self) -> None:
        self._in_job = {task.id: task for task in self.tasks if not task.earlier}
        self._files = sum(task.files for task in self._in_job.values())

    def read(self, snapshot: Snapshot, part: Part) -> Snapshot:
        """The snapshot with that part."""
        found = replace(snapshot, read=snapshot.read | {part})
        match part:
            case Part.COUNTS:
                return replace(found, counts=self._counts())
            case Part.TASKS | Part.LATEST_TASKS | Part.SHOWN_TASKS | Part.RUNNING_TASKS:
                return self._with_tasks(found, part)
            case Part.TASKS_ADDED:
                return replace(found, tasks_added=self._when_added())
            case Part.JOB:
                return replace(found, job=self._job())
            case Part.POOL:
                pool, nodes = self._pool()
                return replace(found, pool=pool, nodes=nodes)
            case Part.PREEMPTED:
                return replace(found, preempted=self._preempted())
            case Part.START_TASK_STDERR:
                return replace(found, start_task_stderr=self._start_task_stderr(found.nodes))

    def records(self) -> Collection[str]:
        """The blobs of the records that prove a success; none where they cannot be read."""
        return proven(self.azure, self.run, self.tasks)

    def _counts(self) -> Progress | None:
        try:
            counts = self.batch.get_job_task_counts(self.run.job_id).task_counts
        except ResourceNotFoundError:
            return None
        in_job = len(self._in_job)
        return Progress.of_counts(counts, total=in_job, earlier=len(self.tasks) - in_job, files=self._files)

    def _with_tasks(self, found: Snapshot, part: Part) -> Snapshot:
        if part is Part.RUNNING_TASKS or (part is Part.SHOWN_TASKS and len(self._in_job) > MOST_TABLE_ROWS):
            filters = [_RUNNING] if found.counts is None or found.counts.running else []
            if part is Part.SHOWN_TASKS and found.counts and found.counts.failed:
                filters.append(_FAILED)
            return replace(found, tasks=self._some(filters))
        try:
            tasks = self._all()
        except SERVICE_FAILURES:
            if part is Part.LATEST_TASKS:
                return found
            raise
        return replace(found, tasks=tasks, read=found.read | {Part.TASKS})

    def _all(self) -> dict[str, TaskOutcome] | None:
        """Each task of the job; one that the service does not list counts as queued."""
        try:
            listed = self._outcomes(self.batch.list_tasks(self.run.job_id, select=OUTCOME_FIELDS))
        except ResourceNotFoundError:
            return None
        return {id: listed.get(id) or TaskOutcome.of(added, None) for id, added in self._in_job.items()}

    def _some(self, filters: Sequence[str]) -> dict[str, TaskOutcome] | None:
        """The tasks that match one of the filters, of each no more than are shown."""
        listed: dict[str, TaskOutcome] = {}
        try:
            for each in filters:
                found = self.batch.list_tasks(
                    self.run.job_id, filter=each, select=OUTCOME_FIELDS, max_results=MOST_TABLE_ROWS
                )
                listed |= self._outcomes(islice(found, MOST_TABLE_ROWS))
        except ResourceNotFoundError:
            return None
        return listed

    def _outcomes(self, tasks: Iterable[BatchTask]) -> dict[str, TaskOutcome]:
        """By id; of each task as it is listed, because the SDK's own values take kilobytes."""
        known = ((self._in_job.get(str(task.id)), task) for task in tasks)
        return {added.id: TaskOutcome.of(added, task) for added, task in known if added}

    def _when_added(self) -> datetime | None:
        if self._tasks_added is None:
            first = next(iter(self._in_job))
            try:
                task = self.batch.get_task(self.run.job_id, first, select=["id", "creationTime"])
            except ResourceNotFoundError:
                return None
            self._tasks_added = task.creation_time
        return self._tasks_added

    def _job(self) -> BatchJob | None:
        try:
            return self.batch.get_job(self.run.job_id)
        except ResourceNotFoundError:
            return None

    def _pool(self) -> tuple[BatchPool | None, list[BatchNode]]:
        try:
            pool = self.batch.get_pool(self.pool_id)
            return pool, list(self.batch.list_nodes(self.pool_id, select=_NODE_FIELDS))
        except ResourceNotFoundError:  # of the pool, or of a pool that was deleted between the two requests
            return None, []

    def _preempted(self) -> dict[str, datetime | None] | None:
        try:
            found = self.batch.list_nodes(self.pool_id, filter=_PREEMPTED, select=["id", "stateTransitionTime"])
            return {str(node.id): node.state_transition_time for node in found}
        except ResourceNotFoundError:
            return None

    def _start_task_stderr(self, nodes: Sequence[BatchNode]) -> dict[str, str]:
        failed = [str(node.id) for node in nodes if node.start_task_info and node.start_task_info.failure_info]
        return {id: start_task_stderr(self.batch, self.pool_id, id) for id in failed[:1]}
