"""Attempts: commands that run on nodes. A row exists from before the process starts until its end is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from local_azure.batch.engine.service import Service


class Kind(str, Enum):
    TASK = "task"  # also the primary task of a multi-instance task
    SUBTASK = "subtask"  # holds another node of a multi-instance task; `task` is of its primary alone
    START = "start"  # a pool's start task
    PREPARATION = "preparation"  # a job's preparation task, before its first task on a node
    RELEASE = "release"  # a job's release task, on every node that was prepared


class Stop(str, Enum):
    """Why a running attempt is stopped."""

    TERMINATE = "terminate"  # its task is completed, as failed
    REQUEUE = "requeue"  # by a user's request: its task is active again, counted as a requeue
    RECOVER = "recover"  # its node was lost: its task is active again, not counted as a requeue
    DISCARD = "discard"  # its task was deleted


@dataclass(frozen=True, kw_only=True)
class Attempt:
    seq: int
    kind: Kind
    pool: str
    node: str
    job: str | None
    task: int | None
    slots: int
    stop: Stop | None

    @property
    def is_task(self) -> bool:
        """Whether it is work of a task, rather than of its node or job."""
        return self.kind in (Kind.TASK, Kind.SUBTASK)


_COLUMNS = "seq, kind, pool, node, job, task, slots, stop"


def where(service: Service, condition: str = "1", *values: object) -> list[Attempt]:
    found = service.store.execute(f"SELECT {_COLUMNS} FROM attempts WHERE {condition} ORDER BY seq", *values)
    return [
        Attempt(
            seq=seq,
            kind=Kind(kind),
            pool=pool,
            node=node,
            job=job,
            task=task,
            slots=slots,
            stop=Stop(stop) if stop else None,
        )
        for seq, kind, pool, node, job, task, slots, stop in found
    ]


def on_node(service: Service, pool: str, node: str) -> list[Attempt]:
    return where(service, "pool = ? AND node = ?", pool, node)


def of_job(service: Service, job: str) -> list[Attempt]:
    return where(service, "job = ?", job)


def add(
    service: Service,
    kind: Kind,
    pool: str,
    node: str,
    *,
    job: str | None = None,
    task: int | None = None,
    slots: int = 0,
) -> Attempt:
    cursor = service.store.execute(
        "INSERT INTO attempts (kind, pool, node, job, task, slots) VALUES (?, ?, ?, ?, ?, ?)",
        kind.value,
        pool,
        node,
        job,
        task,
        slots,
    )
    seq = cursor.lastrowid or 0
    return Attempt(seq=seq, kind=kind, pool=pool, node=node, job=job, task=task, slots=slots, stop=None)


def current(service: Service, attempt: Attempt) -> Attempt:
    """The attempt as it is stored now: a stop may have been requested since."""
    return next(iter(where(service, "seq = ?", attempt.seq)), attempt)


def remove(service: Service, attempt: Attempt) -> None:
    service.store.execute("DELETE FROM attempts WHERE seq = ?", attempt.seq)


def stop(service: Service, attempt: Attempt, reason: Stop) -> None:
    """End the attempt once this transaction is committed. The first reason is kept, unless a later one is DISCARD."""
    if attempt.stop is None or reason is Stop.DISCARD:
        service.store.execute("UPDATE attempts SET stop = ? WHERE seq = ?", reason.value, attempt.seq)
    service.reconciler.wake("attempt", str(attempt.seq))
