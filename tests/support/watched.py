"""A job and pool as a look at them finds them, and decisions about them, without a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from azure.batch.models import BatchJob, BatchNode, BatchPool

from tasks.run.identity import UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.watching.decide import Action, Decision, decide
from tasks.watching.limits import Limits
from tasks.watching.memory import Memory
from tasks.watching.progress import Progress
from tasks.watching.snapshot import Part, Snapshot

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
TASKS = [AddedTask(id=f"task{n}", file=f"{n}.txt") for n in range(2)]
OWN = UsedPool(id="pool", slots_per_node=1, own=True, spot_nodes=1)
DEDICATED = replace(OWN, spot_nodes=0)
EXISTING = replace(DEDICATED, own=False)
LIMITS = Limits(job_id="job", tasks=2, expires=NOON + timedelta(hours=2), lifetime=timedelta(hours=2), stall_minutes=30)
HELPED = replace(LIMITS, dedicated_after_minutes=10, added_nodes=1)

QUEUED, RUNNING, DONE = (TaskOutcome.of(TASKS[0], None),) * 3
RUNNING = replace(RUNNING, state="running", started=NOON, node="a_p")
DONE = replace(RUNNING, state="completed", succeeded=True)


def minute(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def counts(*, running: int = 0, completed: int = 0, failed: int = 0) -> Progress:
    queued = 2 - running - completed
    succeeded = completed - failed
    return Progress(total=2, completed=completed, succeeded=succeeded, failed=failed, running=running, queued=queued)


def tasks(first: TaskOutcome, second: TaskOutcome = QUEUED) -> dict[str, TaskOutcome]:
    second = replace(second, id="task1", file="1.txt")
    return {"task0": first, "task1": second}


def job(state: str = "active", reason: str | None = None) -> BatchJob:
    return BatchJob({"id": "job", "state": state, "executionInfo": {"terminateReason": reason} if reason else None})


def pool(**properties: Any) -> BatchPool:
    common = {"id": "pool", "state": "active", "allocationState": "steady", "targetDedicatedNodes": 1}
    return BatchPool({**common, **properties})


def scaled_pool(asked: int = 1, **properties: Any) -> BatchPool:
    """A pool whose formula asked for so many nodes at noon."""
    run = {"timestamp": NOON.isoformat(), "results": f"$TargetDedicatedNodes={asked}"}
    times = {"lastModified": NOON.isoformat(), "allocationStateTransitionTime": NOON.isoformat()}
    return pool(enableAutoScale=True, targetDedicatedNodes=0, autoScaleRun=run, **{**times, **properties})


def refused(code: str) -> dict[str, Any]:
    return {"resizeErrors": [{"code": code, "message": "No."}]}


def node(state: str, **properties: Any) -> BatchNode:
    return BatchNode({"id": "node0", "state": state, **properties})


@dataclass(frozen=True, kw_only=True)
class Service:
    """The service at one look: what a part is read as."""

    counts: Progress | None = field(default_factory=lambda: counts(running=1))
    tasks: Mapping[str, TaskOutcome] | None = field(default_factory=lambda: tasks(RUNNING))
    lists_tasks: bool = True
    job: BatchJob | None = field(default_factory=job)
    pool: BatchPool | None = field(default_factory=pool)
    nodes: Sequence[BatchNode] = ()
    preempted: Mapping[str, datetime | None] | None = field(default_factory=dict)
    tasks_added: datetime | None = NOON
    stderr: str = ""

    def read(self, snapshot: Snapshot, part: Part) -> Snapshot:
        found = replace(snapshot, read=snapshot.read | {part})
        match part:
            case Part.COUNTS:
                return replace(found, counts=self.counts)
            case Part.LATEST_TASKS if not self.lists_tasks:
                return found
            case Part.TASKS | Part.LATEST_TASKS | Part.SHOWN_TASKS | Part.RUNNING_TASKS:
                return replace(found, tasks=self.tasks, read=found.read | {Part.TASKS})
            case Part.TASKS_ADDED:
                return replace(found, tasks_added=self.tasks_added)
            case Part.JOB:
                return replace(found, job=self.job)
            case Part.POOL:
                return replace(found, pool=self.pool, nodes=self.nodes)
            case Part.PREEMPTED:
                return replace(found, preempted=self.preempted)
            case Part.START_TASK_STDERR:
                return replace(found, start_task_stderr={"node0": self.stderr})


class Watched:
    """Looks at a service that changes, one decision after the other."""

    def __init__(self, used: UsedPool = DEDICATED, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.memory = Memory.start(used, limits, NOON)
        self.read: list[Part] = []

    def look(self, service: Service, at: float = 0) -> Decision:
        snapshot, self.read = Snapshot(), []
        while (decision := decide(snapshot, self.memory, self.limits, minute(at))).part is not None:
            assert decision.action is Action.READ
            assert decision.part not in self.read
            self.read.append(decision.part)
            snapshot = service.read(snapshot, decision.part)
        self.memory = decision.memory.settled()
        return decision
