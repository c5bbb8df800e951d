"""The Batch tasks of a run as values: what was added, and what became of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from azure.batch.models import BatchTask, BatchTaskExecutionInfo, BatchTaskExecutionResult, BatchTaskState

from tasks.errors import RunError
from tasks.errors.advice import advice
from tasks.errors.code_table import KNOWN
from tasks.errors.codes import COULD_NOT_FETCH, COULD_NOT_START, COULD_NOT_UPLOAD, Code, Where
from tasks.errors.secrets import without_secrets
from tasks.run.groups import HasSize
from tasks.run.identity import UsedPool

LOGS = "logs"  # the virtual directory of the output container, and the folder of the results
STREAMS = ("stdout.txt", "stderr.txt")
UPLOAD_FAILED = 74  # exit code of a node script that could not upload its output; EX_IOERR of sysexits.h
FETCH_FAILED = 73  # exit code of a Batch task whose input is not what was uploaded; EX_CANTCREAT of sysexits.h
NOT_TEXT = 65  # exit code of a node script whose input is not text; EX_DATAERR
_KILLED = {128 + 9, 128 + 15, -9, -15}  # exit codes of what was stopped by a signal
_OTHER_REASONS = {each.code for each in KNOWN if each.where is Where.TASK} - {Code.TASK_ENDED}
OUTCOME_FIELDS = ["id", "state", "executionInfo", "nodeInfo", "constraints"]  # of a task, for TaskOutcome.of


class Cause(str, Enum):
    """Why a Batch task did not succeed, as far as its failure shows."""

    EXIT_CODE = "exited non-zero"
    TIME_LIMIT = "timed out"
    TERMINATED = "was terminated"
    KILLED = "was killed by a signal"
    START = "could not start"
    FETCH = "could not fetch its file"
    NOT_TEXT = "could not read its file as text"
    UPLOAD = "could not upload"
    NO_OUTPUT = "left no output"
    DAMAGED = "left a damaged output"
    UNREADABLE = "left an output that cannot be read"
    NOT_RUN = "did not get to its end"
    NOT_STARTED = "never started"
    OTHER = "failed"


_CAUSES = {COULD_NOT_START: Cause.START, COULD_NOT_FETCH: Cause.FETCH, COULD_NOT_UPLOAD: Cause.UPLOAD}


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedTask:
    """A Batch task and the file that it processes; `earlier` if a previous attempt has done so already.

    members: of a group, the names of the files that it is to process; `file` then says how many there are.
    """

    id: str
    file: str
    earlier: bool = False
    members: tuple[str, ...] = ()

    @property
    def files(self) -> int:
        """How many files it processes."""
        return len(self.members) or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a Batch task did not succeed, in the service's words."""

    category: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code} ({self.category}): {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOutcome:
    """The state of a Batch task, as far as it has come."""

    id: str
    file: str
    state: str
    exit_code: int | None = None
    node: str | None = None
    started: datetime | None = None
    seconds: float | None = None  # that it ran, where it has ended
    retries: int = 0  # after a failure of the task
    requeues: int = 0  # after the loss of its node, such as a preemption; they use up no retry
    succeeded: bool = False
    earlier: bool = False  # by a previous attempt or run, of whose Batch task nothing else is known
    failure: Failure | None = None
    cause: Cause | None = None
    detail: str = ""  # of the cause, where the service has no words for it
    stderr: str = field(default="", repr=False)  # its end, without secrets

    @classmethod
    def of(cls, added: AddedTask, task: BatchTask | None) -> TaskOutcome:
        """What the service says of the task; still `active` where it says nothing yet."""
        if added.earlier and task is None:
            return cls.done_before(added.id, added.file)
        if task is None:
            return cls(id=added.id, file=added.file, state=BatchTaskState.ACTIVE.value)
        info = task.execution_info
        result = info.result if info else None
        failure = _failure(task)
        return cls(
            id=added.id,
            file=added.file,
            state=sys.intern(str(getattr(task.state, "value", task.state))),
            exit_code=info.exit_code if info else None,
            node=sys.intern(task.node_info.node_id) if task.node_info and task.node_info.node_id else None,
            started=info.start_time if info else None,
            seconds=_seconds(info) if info else None,
            retries=info.retry_count or 0 if info else 0,
            requeues=info.requeue_count or 0 if info else 0,
            # "Completed" is not "succeeded": only the result says so.
            succeeded=result == BatchTaskExecutionResult.SUCCESS,
            failure=failure,
            cause=_cause(task, failure) if failure else None,
        )

    @classmethod
    def done_before(cls, id: str, file: str) -> TaskOutcome:
        """Outcome of a file that a previous attempt has processed."""
        return cls(id=id, file=file, state=BatchTaskState.COMPLETED.value, succeeded=True, earlier=True)

    @classmethod
    def not_begun(cls, file: HasSize) -> TaskOutcome:
        """Of a file of which nothing is known but that it is to be processed."""
        added = AddedTask(id=file.task_id, file=file.name)
        return cls.of(added, None).unfinished()

    def unfinished(self) -> TaskOutcome:
        """The same of a task that nobody waits for any more; one that has completed stays as it is."""
        if self.completed:
            return self
        begun = self.started or self.retries or self.requeues or self.state == BatchTaskState.RUNNING
        return replace(self, cause=Cause.NOT_RUN if begun else Cause.NOT_STARTED, stderr="")

    def without_output(self, cause: Cause, detail: str = "") -> TaskOutcome:
        """The same of a Batch task that succeeded and whose output is of no use."""
        return replace(self, succeeded=False, cause=cause, detail=without_secrets(detail))

    @property
    def completed(self) -> bool:
        return self.state == BatchTaskState.COMPLETED

    @property
    def failed(self) -> bool:
        return self.completed and not self.succeeded

    @property
    def ended(self) -> datetime | None:
        """When the task ended, or None where it has not."""
        return self.started + timedelta(seconds=self.seconds) if self.started and self.seconds is not None else None

    @property
    def reason(self) -> str:
        """The cause with its detail; empty where there is none."""
        return (self.cause.value if self.cause else "") + (f" ({self.detail})" if self.detail else "")

    def why(self, names: Mapping[str, str] | None = None) -> str:
        """The failure in one line: what happened, the service's words, what was tried, and what helps.

        names: those of the accounts, for commands.
        """
        parts = [self.reason or "failed"]
        if self.exit_code is not None:
            parts.append(f"exit code {self.exit_code}")
        if self.node:
            parts.append(f"node {self.node}")
        parts += [_times(self.retries, "retry", "retries"), _times(self.requeues, "requeue", "requeues")]
        failure = f": {self.failure}{self._advice(names)}" if self.failure else ""
        return ", ".join(part for part in parts if part) + failure

    def _advice(self, names: Mapping[str, str] | None) -> str:
        if self.failure is None or self.cause is Cause.TERMINATED:
            return ""
        code = Code.TASK_ENDED if self.cause is Cause.TIME_LIMIT else self.failure.code
        return advice(Where.TASK, code, names=names)


_EXIT_CODES = {UPLOAD_FAILED: Cause.UPLOAD, FETCH_FAILED: Cause.FETCH, NOT_TEXT: Cause.NOT_TEXT}
CAUSES_OF_EXIT = frozenset(_EXIT_CODES.values())


def cause_of_exit(exit_code: int) -> Cause:
    """Why a Batch task, or a script, ended with an exit code other than 0."""
    return _EXIT_CODES.get(exit_code, Cause.EXIT_CODE)


def log_blob(task: str, stream: str) -> str:
    """The blob of the output container in which Batch keeps what a task wrote to stdout or stderr."""
    return f"{LOGS}/{task}/{stream}"


def in_order(files: Sequence[HasSize], *several: Sequence[TaskOutcome]) -> list[TaskOutcome]:
    """The last outcome of each file, in the order of the files, of which some may not have begun."""
    known = {outcome.file: outcome for outcomes in several for outcome in outcomes}
    return [known.get(file.name) or TaskOutcome.not_begun(file) for file in files]


def missing(outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
    """Those without output."""
    return [outcome for outcome in outcomes if not outcome.succeeded]


def _seconds(info: BatchTaskExecutionInfo) -> float | None:
    return (info.end_time - info.start_time).total_seconds() if info.start_time and info.end_time else None


def _failure(task: BatchTask) -> Failure | None:
    info = task.execution_info.failure_info if task.execution_info else None
    if info is None:
        return None
    details = "; ".join(f"{detail.name}: {detail.value}" for detail in info.details or ())
    message = f"{info.message or 'no message'} ({details})" if details else info.message or "no message"
    category = str(getattr(info.category, "value", info.category))
    # The service quotes the URLs that it was given, and their SAS with them.
    return Failure(category=category, code=info.code or "", message=without_secrets(message))


def _cause(task: BatchTask, failure: Failure) -> Cause:
    code = failure.code
    exit_code = task.execution_info.exit_code if task.execution_info else None
    stopped = code not in _OTHER_REASONS or (code == Code.FAILURE_EXIT_CODE and exit_code in _KILLED)
    if stopped and _used_up(task):
        return Cause.TIME_LIMIT  # whatever the code: from version 1.11.8 on, node agents have one of their own for it
    if code == Code.FAILURE_EXIT_CODE:
        return cause_of_exit(exit_code or 0)
    if code == Code.TASK_ENDED:
        return Cause.TERMINATED
    return next((cause for codes, cause in _CAUSES.items() if code in codes), Cause.OTHER)


def _used_up(task: BatchTask) -> bool:
    info, limits = task.execution_info, task.constraints
    if not (info and info.start_time and info.end_time and limits and limits.max_wall_clock_time):
        return False
    return info.end_time - info.start_time >= limits.max_wall_clock_time


def _times(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}" if count else ""


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """How watching the Batch tasks ended.

    outcomes: what became of each, in their order.

    pool: the pool with the nodes that were added meanwhile.

    problem: why waiting was given up before all had completed.
    """

    outcomes: Sequence[TaskOutcome]
    pool: UsedPool
    problem: RunError | None = None
