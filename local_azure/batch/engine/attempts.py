"""What runs on which node. A row exists from before the process starts until its end is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from local_azure.batch.engine.service import Service


class Kind(str, Enum):
    TASK = "task"
    START = "start"  # a pool's start task
    PREPARATION = "preparation"  # a job's, before its first task on a node
    RELEASE = "release"  # a job's, on every node where it was prepared


class Stop(str, Enum):
    """Why an attempt was told to end before its process did."""

    TERMINATE = "terminate"  # its task is then completed, and failed
    REQUEUE = "requeue"  # by a user's request: its task is then active again, and that is counted
    RECOVER = "recover"  # its node was lost: its task is then active again, and that is not counted
    DISCARD = "discard"  # its task is gone


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
    """The attempt as it is now: it may have been told to stop since."""
    return next(iter(where(service, "seq = ?", attempt.seq)), attempt)


def remove(service: Service, attempt: Attempt) -> None:
    service.store.execute("DELETE FROM attempts WHERE seq = ?", attempt.seq)


def stop(service: Service, attempt: Attempt, reason: Stop) -> None:
    """Have the attempt ended, once this transaction is over. The first reason stays, but a discard overrules it."""
    if attempt.stop is None or reason is Stop.DISCARD:
        service.store.execute("UPDATE attempts SET stop = ? WHERE seq = ?", reason.value, attempt.seq)
    service.agenda.wake("attempt", str(attempt.seq))
