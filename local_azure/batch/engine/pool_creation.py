"""Creates pools: those that a client asks for, and the auto pools of jobs."""

from __future__ import annotations

from local_azure.batch.engine.service import Service
from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.states import ALLOCATION, POOL
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import check_id, timestamp


def add_pool(service: Service, spec: Document) -> Row:
    """Store a pool, whose nodes the allocator adds. Raises BatchError if its id is taken or invalid."""
    check_id("id", spec["id"])
    if existing := service.store.pools.get(spec["id"].lower()):
        deleting = existing.document["state"] == "deleting"
        raise BatchError(Code.PoolBeingDeleted if deleting else Code.PoolExists)
    now = service.now()
    document = {**spec, "creationTime": timestamp(now)}
    service.touch(document)
    POOL.enter(document, "active", now)
    ALLOCATION.enter(document, "resizing", now)
    row = service.store.pools.add(Row(keys=(spec["id"].lower(),), document=document))
    service.reconciler.wake("pool", row.id)
    return row
