"""Creates jobs, with their auto pool and their job manager task."""

from __future__ import annotations

import uuid

from local_azure.batch.engine import references, task_specs
from local_azure.batch.engine.pool_creation import add_pool
from local_azure.batch.engine.service import Service
from local_azure.batch.engine.task_creation import add_task
from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.states import JOB
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import timestamp

_ACTIVE = """
    SELECT (SELECT count(*) FROM jobs WHERE state <> 'completed')
         + (SELECT count(*) FROM schedules WHERE json_extract(document, '$.state') <> 'completed')
"""


def check_quota(service: Service) -> None:
    """Raises BatchError where the account has as many active jobs and job schedules as it may."""
    if int(service.store.value(_ACTIVE)) >= service.faults.job_quota:
        raise BatchError(Code.ActiveJobAndScheduleQuotaReached)


def add_job(service: Service, job_id: str, spec: Document, schedule: Row | None = None) -> Row:
    """Store a job with its auto pool and job manager task. Raises BatchError if its id is taken."""
    if existing := service.store.jobs.get(job_id.lower()):
        deleting = existing.document["state"] == "deleting"
        raise BatchError(Code.JobBeingDeleted if deleting else Code.JobExists)
    if service.store.schedules.get(job_id.lower()):
        raise BatchError(Code.JobScheduleWithSameIdExists)
    now = service.now()
    document = {**spec, "id": job_id, "creationTime": timestamp(now)}
    service.touch(document, now)
    JOB.enter(document, "active", now)
    pool, private = _pool(service, spec["poolInfo"], schedule)
    document["executionInfo"] = {"startTime": timestamp(now), "poolId": pool}
    extra = {"schedule": schedule.id if schedule else None}
    error = references.scheduling_error(spec["poolInfo"].get("autoPoolSpecification", {}).get("pool", {}))
    if error:
        JOB.enter(document, "completed", now)
        document["executionInfo"] |= {"endTime": timestamp(now), "schedulingError": error}
    row = service.store.jobs.add(Row(keys=(job_id.lower(),), document=document, private=private, extra=extra))
    if (manager := spec.get("jobManagerTask")) and not error:
        _add_manager(service, row, manager)
    service.reconciler.wake("job", row.id)
    service.reconciler.wake("assign", pool.lower())
    return row


def _pool(service: Service, info: Document, schedule: Row | None) -> tuple[str, Document]:
    """The id of the job's pool, creating an auto pool if needed, and the private data of the job."""
    auto = info.get("autoPoolSpecification")
    if not auto:
        return info["poolId"], {}
    if auto["poolLifetimeOption"] == "jobschedule" and schedule:
        if known := schedule.private.get("autoPool"):
            return known, {}
        pool = schedule.private["autoPool"] = _add_pool(service, auto)
        return pool, {}
    pool = _add_pool(service, auto)
    return pool, {} if auto["keepAlive"] else {"autoPool": pool}


def _add_pool(service: Service, auto: Document) -> str:
    """Create an auto pool, unless it refers to what does not exist; returns its id."""
    prefix, unique = auto.get("autoPoolIdPrefix"), str(uuid.uuid4()).upper()
    pool = f"{prefix}_{unique}" if prefix else unique
    if references.all_exist(auto["pool"]):
        add_pool(service, {**auto["pool"], "id": pool})
    return pool


def _add_manager(service: Service, job: Row, manager: Document) -> None:
    """Add the job manager task as the job's first task; its end may end the job."""
    of_manager = {"killJobOnCompletion", "runExclusive", "allowLowPriorityNode"}
    spec = {name: value for name, value in manager.items() if name not in of_manager}
    task_specs.check(spec)
    add_task(
        service,
        job,
        spec,
        killsJob=manager["killJobOnCompletion"],
        exclusive=manager["runExclusive"],
        dedicated=not manager["allowLowPriorityNode"],
    )
