"""Deletes pools: those that a client deletes, and the auto pools of what has ended."""

from __future__ import annotations

from local_azure.batch.engine.service import Service
from local_azure.batch.state.states import POOL
from local_azure.batch.state.store import Row

_UNASKED = "unasked"


def begin(service: Service, pool: Row) -> None:
    """Let the pool be deleted, with its nodes, which modifies it. Saves it."""
    service.touch(pool.document)
    POOL.enter(pool.document, "deleting", service.now())
    pool.document |= {"targetDedicatedNodes": 0, "targetLowPriorityNodes": 0}
    service.store.pools.save(pool)
    service.reconciler.wake("pool", pool.id)


def end_auto_pool(service: Service, pool_id: str) -> None:
    """Delete the auto pool of what has ended, if a client has not done so; the id may be empty."""
    pool = service.store.pools.get(pool_id.lower())
    if pool and pool.document["state"] == "active":
        pool.private[_UNASKED] = True
        begin(service, pool)


def seconds(service: Service, pool: Row) -> float:
    """The time for which the pool is deleting, and its nodes are leaving it.

    Nobody waits for the end of an auto pool, but its nodes and files may still be wanted; a client that deletes a pool
    may wait until it is gone.
    """
    timings = service.timings
    return timings.auto_pool if pool.private.get(_UNASKED) else timings.removal
