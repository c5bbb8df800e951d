"""Job specifications: validation and defaults, for jobs and for the jobs of job schedules."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from local_azure.batch.engine import pool_specs, references, task_specs
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.store import Document
from local_azure.batch.state.wire import UNLIMITED_TEXT, check_id, is_id, parse_duration

MAXIMUM_RELEASE = timedelta(minutes=15)  # a job release task's maxWallClockTime

_UNLIMITED = {"maxWallClockTime": UNLIMITED_TEXT, "retentionTime": task_specs.DEFAULT_RETENTION, "maxTaskRetryCount": 0}


def with_defaults(spec: Document, *, scheduled: bool = False) -> Document:
    """The specification with defaults. Raises BatchError if it is invalid."""
    check_numbers(spec)
    check_pool(spec["poolInfo"], scheduled=scheduled)
    spec = {
        "priority": 0,
        "maxParallelTasks": -1,
        "allowTaskPreemption": False,
        "usesTaskDependencies": False,
        "onAllTasksComplete": "noaction",
        "onTaskFailure": "noaction",
        **spec,
    }
    spec["constraints"] = constraints(spec.get("constraints", {}))
    for name, complete in (
        ("jobManagerTask", partial(_manager, retries=spec["constraints"]["maxTaskRetryCount"])),
        ("jobPreparationTask", _preparation),
        ("jobReleaseTask", _release),
    ):
        if name in spec:
            spec[name] = complete(spec[name])
            _check_task(name, spec[name])
    if "jobReleaseTask" in spec and "jobPreparationTask" not in spec:
        raise invalid_property("jobReleaseTask", "", "a job release task needs a job preparation task")
    return spec


def constraints(given: Document) -> Document:
    """The constraints of a job, those that are not given with their defaults."""
    return {"maxWallClockTime": UNLIMITED_TEXT, "maxTaskRetryCount": 0, **given}


def check_numbers(spec: Document) -> None:
    if not -1000 <= spec.get("priority", 0) <= 1000:
        raise BatchError(Code.OutOfRangePriority, "It must be between -1000 and 1000.")
    if (limit := spec.get("maxParallelTasks", -1)) < 1 and limit != -1:
        raise invalid_property("maxParallelTasks", limit, "it must be -1, for no limit, or positive")
    retries = spec.get("constraints", {}).get("maxTaskRetryCount", 0)
    if retries < -1:
        raise invalid_property("constraints.maxTaskRetryCount", retries, "it must be -1, for no limit, or not negative")


def check_pool(info: Document, *, scheduled: bool = False) -> None:
    if len(info.keys() & {"poolId", "autoPoolSpecification"}) != 1:
        raise invalid_property("poolInfo", "", "give either poolId or autoPoolSpecification")
    auto = info.get("autoPoolSpecification")
    if not auto:
        if not is_id(info["poolId"]):
            raise invalid_property("poolInfo.poolId", info["poolId"], "it is not an id")
        return
    if auto["poolLifetimeOption"] == "jobschedule" and not scheduled:
        reason = "the lifetime of a job schedule is for job schedules only"
        raise invalid_property("poolInfo.autoPoolSpecification.poolLifetimeOption", "jobschedule", reason)
    if not is_id(auto.get("autoPoolIdPrefix", "x")) or len(auto.get("autoPoolIdPrefix", "")) > 20:
        raise invalid_property("poolInfo.autoPoolSpecification.autoPoolIdPrefix", auto["autoPoolIdPrefix"], "too long")
    if "pool" not in auto:
        raise BatchError(
            Code.MissingRequiredProperty,
            "poolInfo.autoPoolSpecification.pool",
            PropertyName="autoPoolSpecification.pool",
        )
    if "hardwareProfile" in auto["pool"].get("virtualMachineConfiguration", {}):
        path = "poolInfo.autoPoolSpecification.pool.virtualMachineConfiguration.hardwareProfile"
        raise invalid_property(path, "", "it is not supported for auto pools")
    auto["pool"] = pool_specs.with_defaults(auto["pool"])
    auto.setdefault("keepAlive", False)


def _manager(task: Document, *, retries: int) -> Document:
    """retries: the job's, which a job manager task has unless it has its own."""
    return {
        "requiredSlots": 1,
        "killJobOnCompletion": True,
        "runExclusive": True,
        "allowLowPriorityNode": True,
        **task,
        "userIdentity": task_specs.user_identity(task),
        "constraints": {**_UNLIMITED, "maxTaskRetryCount": retries, **task.get("constraints", {})},
    }


def _preparation(task: Document) -> Document:
    return {
        "id": "jobpreparation",
        "waitForSuccess": True,
        "rerunOnNodeRebootAfterSuccess": True,
        **task,
        "userIdentity": task_specs.user_identity(task),
        "constraints": {**_UNLIMITED, **task.get("constraints", {})},
    }


def _release(task: Document) -> Document:
    limit = task.get("maxWallClockTime", "PT15M")
    if parse_duration(limit) > MAXIMUM_RELEASE:
        raise invalid_property("jobReleaseTask.maxWallClockTime", limit, "it must not be more than PT15M")
    return {
        "id": "jobrelease",
        "maxWallClockTime": limit,
        "retentionTime": task_specs.DEFAULT_RETENTION,
        **task,
        "userIdentity": task_specs.user_identity(task),
    }


def _check_task(name: str, task: Document) -> None:
    check_id(f"{name}.id", task["id"])
    references.complete(task)
    references.refuse(task)
    task_specs.check_command(task, f"{name}.")
