"""The Batch tasks of a run as values: what was added, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from azure.batch.models import BatchTask, BatchTaskExecutionResult, BatchTaskState


@dataclass(frozen=True, kw_only=True)
class AddedTask:
    """A Batch task of the job and the file that it counts."""

    id: str
    file: str
    output_name: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a Batch task did not succeed, in the service's words."""

    category: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code} ({self.category}): {self.message}"


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """The state of a Batch task, as far as it has come."""

    id: str
    file: str
    output_name: str
    state: str
    exit_code: int | None = None
    node: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    retries: int = 0
    succeeded: bool = False
    failure: Failure | None = None

    @classmethod
    def of(cls, added: AddedTask, task: BatchTask | None) -> TaskOutcome:
        """What the service says of the task; still `active` where it says nothing yet."""
        if task is None:
            return cls(id=added.id, file=added.file, output_name=added.output_name, state=BatchTaskState.ACTIVE.value)
        info = task.execution_info
        result = info.result if info else None
        return cls(
            id=added.id,
            file=added.file,
            output_name=added.output_name,
            state=str(getattr(task.state, "value", task.state)),
            exit_code=info.exit_code if info else None,
            node=task.node_info.node_id if task.node_info else None,
            started=info.start_time if info else None,
            ended=info.end_time if info else None,
            retries=info.retry_count or 0 if info else 0,
            # "Completed" is not "succeeded": only the result tells.
            succeeded=result == BatchTaskExecutionResult.SUCCESS,
            failure=_failure(task),
        )

    @property
    def completed(self) -> bool:
        return self.state == BatchTaskState.COMPLETED

    @property
    def seconds(self) -> float | None:
        """How long the task ran, or None where it has not ended."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None


def _failure(task: BatchTask) -> Failure | None:
    info = task.execution_info.failure_info if task.execution_info else None
    if info is None:
        return None
    details = "; ".join(f"{detail.name}: {detail.value}" for detail in info.details or ())
    message = f"{info.message or 'no message'} ({details})" if details else info.message or "no message"
    return Failure(category=str(getattr(info.category, "value", info.category)), code=info.code or "", message=message)
