"""Emits what happens to a run as Prefect events, on which automations can act.

Emitting never waits for the server: Prefect puts events in a queue of the process and delivers them from a thread.
Where no server responds they are lost, and Prefect logs that.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from enum import Enum
from typing import ClassVar

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL
from pydantic_core import to_jsonable_python

from tasks.errors.secrets import without_secrets

MOST_FAILURE_EVENTS = 100  # events of failed Batch tasks per run: an automation should not send ten thousand messages
_LONGEST = 2_000  # characters of a text in a payload


class Event(str, Enum):
    """The names of our events."""

    POOL_READY = "azure-batch.pool.ready"
    TASK_FAILED = "azure-batch.task.failed"
    PREEMPTED = "azure-batch.pool.preempted"
    STALLED = "azure-batch.job.stalled"
    CLEANED_UP = "azure-batch.job.cleaned-up"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolReady:
    """The pool's nodes can run Batch tasks."""

    event: ClassVar[Event] = Event.POOL_READY
    pool_id: str
    vm_size: str
    dedicated_nodes: int
    spot_nodes: int = 0

    @property
    def resource(self) -> tuple[str, ...]:
        return ("pool", self.pool_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchTaskFailed:
    """A Batch task completed without success."""

    event: ClassVar[Event] = Event.TASK_FAILED
    job_id: str
    task_id: str
    file: str
    category: str
    code: str
    message: str
    exit_code: int | None = None
    node: str | None = None
    retries: int = 0
    requeues: int = 0

    @property
    def resource(self) -> tuple[str, ...]:
        return ("task", self.job_id, self.task_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preempted:
    """Azure took spot nodes back; their Batch tasks go back to the queue."""

    event: ClassVar[Event] = Event.PREEMPTED
    pool_id: str
    nodes: int

    @property
    def resource(self) -> tuple[str, ...]:
        return ("pool", self.pool_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobStalled:
    """The run was given up: no Batch task had made progress since that time."""

    event: ClassVar[Event] = Event.STALLED
    job_id: str
    pool_id: str
    since: datetime
    reason: str

    @property
    def resource(self) -> tuple[str, ...]:
        return ("job", self.job_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleanedUp:
    """The run is over: which of its resources were deleted, which stay, and which should have been deleted."""

    event: ClassVar[Event] = Event.CLEANED_UP
    job_id: str
    deleted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    not_deleted: tuple[str, ...] = ()

    @property
    def resource(self) -> tuple[str, ...]:
        return ("job", self.job_id)


Payload = PoolReady | BatchTaskFailed | Preempted | JobStalled | CleanedUp


class RunEvents:
    """The events of one run, each related to its flow run; one that cannot be sent is only logged."""

    def __init__(self, *, account: str, flow_run_id: str) -> None:
        """`account` is the Batch account's name."""
        self._account = account
        self._flow_run_id = flow_run_id
        self._failures = 0

    def emit(self, payload: Payload) -> bool:
        """Put the event in Prefect's queue; False where there is no server for it, or where it is one too many."""
        if isinstance(payload, BatchTaskFailed):
            self._failures += 1
            if self._failures > MOST_FAILURE_EVENTS:
                return False
        try:
            return _has_server() and self._sent(payload)
        except Exception as error:
            get_logger(__name__).warning("Event %s not sent: %s", payload.event.value, without_secrets(str(error)))
            return False

    def _sent(self, payload: Payload) -> bool:
        kind, *names = payload.resource
        resource = {
            "prefect.resource.id": ".".join(("azure-batch", kind, self._account, *names)),
            "prefect.resource.name": names[-1],
            "azure-batch.account": self._account,
        }
        flow_run = {
            "prefect.resource.id": f"prefect.flow-run.{self._flow_run_id}",
            "prefect.resource.role": "flow-run",
        }
        values = {name: _shown(value) for name, value in dataclasses.asdict(payload).items()}
        sent = emit_event(payload.event.value, resource, related=[flow_run], payload=to_jsonable_python(values))
        return sent is not None


def _has_server() -> bool:
    """Whether there is a server; without one, emitting an event would start one, which takes ten seconds."""
    return bool(PREFECT_API_URL.value() or FlowRunContext.get() or TaskRunContext.get())


def _shown(value: object) -> object:
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    if not isinstance(value, str):
        return value
    text = without_secrets(value).encode(errors="replace").decode()  # a file's name may be no valid Unicode
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
