"""Creates tasks: those that a client adds, and the job manager tasks of jobs."""

from __future__ import annotations

import sqlite3
from typing import Any

from local_azure.batch.engine import container_specs, dependencies, task_specs
from local_azure.batch.engine.service import Service
from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.states import TASK
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import timestamp


def add_task(service: Service, job: Row, body: Document, **private: Any) -> Row:
    """Store a task whose specification was checked. Raises BatchError if the job does not allow it, or has its id."""
    document = task_specs.with_defaults(body, job.document)
    if document.get("containerSettings"):
        pool = service.store.pools.get(job.document["executionInfo"]["poolId"].lower())
        container_specs.check_pool_of_task(document, pool.document if pool else None)
    now = service.now()
    document["creationTime"] = timestamp(now)
    service.touch(document, now)
    TASK.enter(document, "active", now)
    row = Row(keys=(job.id, document["id"].lower()), document=document, private=private)
    try:
        service.store.tasks.add(row)
    except sqlite3.IntegrityError:
        raise BatchError(Code.TaskExists) from None
    dependencies.add(service, row)
    return row
