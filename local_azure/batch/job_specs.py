"""What a job is to be like: rules and defaults, the same for jobs and for those that a job schedule creates."""

from __future__ import annotations

from local_azure.batch.errors import BatchError, Code, invalid_property
from local_azure.batch.store import Document
from local_azure.batch.wire import UNLIMITED_TEXT, is_id

AUTO_USER = {"scope": "pool", "elevationLevel": "nonadmin"}


def with_defaults(spec: Document) -> Document:
    """The specification as the service shows it. Raises BatchError for what cannot be."""
    check_priority(spec)
    pool_info = spec["poolInfo"]
    if len({"poolId", "autoPoolSpecification"} & pool_info.keys()) > 1:
        raise invalid_property("poolInfo", "", "give either poolId or autoPoolSpecification")
    spec = {
        "priority": 0,
        "maxParallelTasks": -1,
        "allowTaskPreemption": False,
        "usesTaskDependencies": False,
        "onAllTasksComplete": "noaction",
        "onTaskFailure": "noaction",
        **spec,
    }
    spec["constraints"] = {
        "maxWallClockTime": UNLIMITED_TEXT,
        "maxTaskRetryCount": 0,
        **spec.get("constraints", {}),
    }
    return spec


def check_priority(spec: Document) -> None:
    if not -1000 <= spec.get("priority", 0) <= 1000:
        raise BatchError(Code.OutOfRangePriority, "It must be between -1000 and 1000.")
    if (limit := spec.get("maxParallelTasks", -1)) < 1 and limit != -1:
        raise invalid_property("maxParallelTasks", limit, "it must be -1, for no limit, or positive")
    retries = spec.get("constraints", {}).get("maxTaskRetryCount", 0)
    if retries < -1:
        raise invalid_property("constraints.maxTaskRetryCount", retries, "it must be -1, for no limit, or not negative")


def check_pool_given(spec: Document) -> None:
    pool = spec["poolInfo"].get("poolId")
    if pool is not None and not is_id(pool):
        raise invalid_property("poolInfo.poolId", pool, "it is not an id")
