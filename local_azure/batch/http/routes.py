"""The operations of the Batch REST API, one line each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from local_azure.batch.engine.service import Service
from local_azure.batch.operations import (
    applications,
    files,
    images,
    job_schedules,
    jobs,
    node_users,
    nodes,
    pool_scaling,
    pools,
    tasks,
)
from local_azure.batch.rest import versions
from local_azure.batch.rest.call import Call, Response
from local_azure.batch.state.errors import BatchError, Code

Serve = Callable[[Service, Call], Response]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation: `name` is the SDK's method; `serve` is None for operations refused with 501."""

    name: str
    method: str
    path: tuple[str, ...]
    query: frozenset[str]
    serve: Serve | None

    def is_in(self, version: str) -> bool:
        """Whether the version of the API has the operation."""
        return versions.is_within(version, *_SPANS.get(self.name, ("", "")))


def _operation(method: str, path: str, name: str, serve: Serve | None, query: str = "") -> Operation:
    segments = tuple(path.split("/")[1:])
    # The JavaScript and .NET clients write some names in other cases than the Python client.
    return Operation(name=name, method=method, path=segments, query=frozenset(query.lower().split()), serve=serve)


# Since which version of the API an operation exists, and until which, where others served here have it not.
_SPANS = {
    "deallocate_node": ("2024-07-01.20.0", ""),
    "list_pool_usage_metrics": ("", "2026-10-01"),
    "start_node": ("2024-07-01.20.0", ""),
}

_GET = "$select $expand"
_FILES = "$filter recursive maxresults $skiptoken"
_PLAIN_LIST = "$filter maxresults $skiptoken"
_LIST = "$filter $select $expand maxresults $skiptoken"
_POOL = "/pools/{poolId}"
_NODE = "/pools/{poolId}/nodes/{nodeId}"
_JOB = "/jobs/{jobId}"
_TASK = "/jobs/{jobId}/tasks/{taskId}"
_SCHEDULE = "/jobschedules/{jobScheduleId}"

# fmt: off
OPERATIONS = (
    _operation("GET",    "/applications", "list_applications", applications.list_applications,
               "maxresults $skiptoken"),
    _operation("GET",    "/applications/{applicationId}", "get_application", applications.get_application),
    _operation("GET",    "/supportedimages", "list_supported_images", images.list_supported_images, _PLAIN_LIST),
    _operation("GET",    "/poolusagemetrics", "list_pool_usage_metrics", pools.list_pool_usage_metrics,
               "startTime endtime " + _PLAIN_LIST),
    _operation("GET",    "/nodecounts", "list_pool_node_counts", nodes.list_pool_node_counts, _PLAIN_LIST),

    _operation("POST",   "/pools", "create_pool", pools.create_pool),
    _operation("GET",    "/pools", "list_pools", pools.list_pools, _LIST),
    _operation("DELETE", _POOL, "delete_pool", pools.delete_pool),
    _operation("HEAD",   _POOL, "pool_exists", pools.pool_exists),
    _operation("GET",    _POOL, "get_pool", pools.get_pool, _GET),
    _operation("PATCH",  _POOL, "update_pool", pools.update_pool),
    _operation("POST",   _POOL + "/disableautoscale", "disable_pool_auto_scale", pool_scaling.disable_pool_auto_scale),
    _operation("POST",   _POOL + "/enableautoscale", "enable_pool_auto_scale", pool_scaling.enable_pool_auto_scale),
    _operation("POST",   _POOL + "/evaluateautoscale", "evaluate_pool_auto_scale",
               pool_scaling.evaluate_pool_auto_scale),
    _operation("POST",   _POOL + "/resize", "resize_pool", pools.resize_pool),
    _operation("POST",   _POOL + "/stopresize", "stop_pool_resize", pools.stop_pool_resize),
    _operation("POST",   _POOL + "/updateproperties", "replace_pool_properties", pools.replace_pool_properties),
    _operation("POST",   _POOL + "/removenodes", "remove_nodes", pools.remove_nodes),

    _operation("GET",    _POOL + "/nodes", "list_nodes", nodes.list_nodes, _LIST),
    _operation("GET",    _NODE, "get_node", nodes.get_node, _GET),
    _operation("POST",   _NODE + "/reboot", "reboot_node", nodes.reboot_node),
    _operation("POST",   _NODE + "/start", "start_node", nodes.start_node),
    _operation("POST",   _NODE + "/reimage", "reimage_node", nodes.reimage_node),
    _operation("POST",   _NODE + "/deallocate", "deallocate_node", nodes.deallocate_node),
    _operation("POST",   _NODE + "/disablescheduling", "disable_node_scheduling", nodes.disable_node_scheduling),
    _operation("POST",   _NODE + "/enablescheduling", "enable_node_scheduling", nodes.enable_node_scheduling),
    _operation("GET",    _NODE + "/remoteloginsettings", "get_node_remote_login_settings",
               nodes.get_node_remote_login_settings),
    _operation("POST",   _NODE + "/uploadbatchservicelogs", "upload_node_logs", None),
    _operation("GET",    _NODE + "/extensions", "list_node_extensions", None, "$select maxresults $skiptoken"),
    _operation("GET",    _NODE + "/extensions/{extensionName}", "get_node_extension", None, "$select"),
    _operation("POST",   _NODE + "/users", "create_node_user", node_users.create_node_user),
    _operation("PUT",    _NODE + "/users/{userName}", "replace_node_user", node_users.replace_node_user),
    _operation("DELETE", _NODE + "/users/{userName}", "delete_node_user", node_users.delete_node_user),
    _operation("GET",    _NODE + "/files", "list_node_files", files.list_node_files, _FILES),
    _operation("GET",    _NODE + "/files/{filePath}", "download_node_file", files.download_node_file),
    _operation("HEAD",   _NODE + "/files/{filePath}", "get_node_file_properties", files.get_node_file_properties),
    _operation("DELETE", _NODE + "/files/{filePath}", "delete_node_file", files.delete_node_file, "recursive"),

    _operation("POST",   "/jobs", "create_job", jobs.create_job),
    _operation("GET",    "/jobs", "list_jobs", jobs.list_jobs, _LIST),
    _operation("DELETE", _JOB, "delete_job", jobs.delete_job, "force"),
    _operation("GET",    _JOB, "get_job", jobs.get_job, _GET),
    _operation("PATCH",  _JOB, "update_job", jobs.update_job),
    _operation("PUT",    _JOB, "replace_job", jobs.replace_job),
    _operation("POST",   _JOB + "/disable", "disable_job", jobs.disable_job),
    _operation("POST",   _JOB + "/enable", "enable_job", jobs.enable_job),
    _operation("POST",   _JOB + "/terminate", "terminate_job", jobs.terminate_job, "force"),
    _operation("GET",    _JOB + "/taskcounts", "get_job_task_counts", jobs.get_job_task_counts),
    _operation("GET",    _JOB + "/jobpreparationandreleasetaskstatus",
               "list_job_preparation_and_release_task_status",
               jobs.list_job_preparation_and_release_task_status, _LIST),

    _operation("POST",   "/jobschedules", "create_job_schedule", job_schedules.create_job_schedule),
    _operation("GET",    "/jobschedules", "list_job_schedules", job_schedules.list_job_schedules, _LIST),
    _operation("HEAD",   _SCHEDULE, "job_schedule_exists", job_schedules.job_schedule_exists),
    _operation("GET",    _SCHEDULE, "get_job_schedule", job_schedules.get_job_schedule, _GET),
    _operation("PATCH",  _SCHEDULE, "update_job_schedule", job_schedules.update_job_schedule),
    _operation("PUT",    _SCHEDULE, "replace_job_schedule", job_schedules.replace_job_schedule),
    _operation("DELETE", _SCHEDULE, "delete_job_schedule", job_schedules.delete_job_schedule, "force"),
    _operation("POST",   _SCHEDULE + "/disable", "disable_job_schedule", job_schedules.disable_job_schedule),
    _operation("POST",   _SCHEDULE + "/enable", "enable_job_schedule", job_schedules.enable_job_schedule),
    _operation("POST",   _SCHEDULE + "/terminate", "terminate_job_schedule",
               job_schedules.terminate_job_schedule, "force"),
    _operation("GET",    _SCHEDULE + "/jobs", "list_jobs_from_schedule", job_schedules.list_jobs_from_schedule, _LIST),

    _operation("POST",   _JOB + "/tasks", "create_task", tasks.create_task),
    _operation("GET",    _JOB + "/tasks", "list_tasks", tasks.list_tasks, _LIST),
    _operation("POST",   _JOB + "/addtaskcollection", "create_task_collection", tasks.create_task_collection),
    _operation("DELETE", _TASK, "delete_task", tasks.delete_task),
    _operation("GET",    _TASK, "get_task", tasks.get_task, _GET),
    _operation("PUT",    _TASK, "replace_task", tasks.replace_task),
    _operation("GET",    _TASK + "/subtasksinfo", "list_subtasks", tasks.list_subtasks, "$select"),
    _operation("POST",   _TASK + "/terminate", "terminate_task", tasks.terminate_task),
    _operation("POST",   _TASK + "/reactivate", "reactivate_task", tasks.reactivate_task),
    _operation("GET",    _TASK + "/files", "list_task_files", files.list_task_files, _FILES),
    _operation("GET",    _TASK + "/files/{filePath}", "download_task_file", files.download_task_file),
    _operation("HEAD",   _TASK + "/files/{filePath}", "get_task_file_properties", files.get_task_file_properties),
    _operation("DELETE", _TASK + "/files/{filePath}", "delete_task_file", files.delete_task_file, "recursive"),
)
# fmt: on


# Operations of versions that are served which the newest does not have any more: 501 with their name.
FORMER = (
    _operation("POST", "/certificates", "add_certificate", None),
    _operation("GET", "/certificates", "list_certificates", None, _LIST),
    _operation("GET", "/{certificate}", "get_certificate", None, _GET),
    _operation("DELETE", "/{certificate}", "delete_certificate", None),
    _operation("POST", "/{certificate}/canceldelete", "cancel_certificate_deletion", None),
    _operation("GET", "/lifetimepoolstats", "get_all_pool_lifetime_statistics", None),
    _operation("GET", "/lifetimejobstats", "get_all_job_lifetime_statistics", None),
    _operation("GET", _NODE + "/rdp", "get_node_remote_desktop", None),
)
_CERTIFICATE = re.compile(r"certificates\(.*\)")  # certificates(thumbprintAlgorithm=sha1,thumbprint=00)


class Router:
    """Finds the operation for a raw path, in which `%2F` in a file name is not a separator."""

    def __init__(self, operations: tuple[Operation, ...] = (*OPERATIONS, *FORMER)) -> None:
        self._operations: dict[tuple[str, ...], dict[str, Operation]] = {}
        for operation in operations:
            pattern = tuple("" if segment.startswith("{") else segment for segment in operation.path)
            self._operations.setdefault(pattern, {})[operation.method] = operation

    def find(self, method: str, raw_path: str) -> tuple[Operation, dict[str, str]]:
        """The operation and the parameters in its path, still encoded. Raises InvalidUri or UnsupportedHttpVerb."""
        segments = raw_path.rstrip("/").split("/")[1:]
        for pattern in _patterns(segments):
            by_method = self._operations.get(pattern)
            if by_method is None:
                continue
            if method not in by_method:
                raise BatchError(Code.UnsupportedHttpVerb, f"Allowed: {', '.join(sorted(by_method))}.")
            operation = by_method[method]
            # Some clients do not encode the slashes in a file name.
            values = [*segments[: len(pattern) - 1], "/".join(segments[len(pattern) - 1 :])]
            named = zip(operation.path, values, strict=True)
            return operation, {name[1:-1]: value for name, value in named if name.startswith("{")}
        raise BatchError(Code.InvalidUri)


def _patterns(segments: list[str]) -> Iterator[tuple[str, ...]]:
    """The possible patterns of a path: resources and ids alternate, and a file name may contain slashes."""
    if segments and _CERTIFICATE.fullmatch(unquote(segments[0])):
        yield ("", *segments[1:])
        return
    if len(segments) > 5 and segments[4] == "files":
        yield (*_alternating(segments[:4]), "files", "")
        return
    yield _alternating(segments)
    if len(segments) > 1:
        yield (*_alternating(segments[:-1]), segments[-1])


def _alternating(segments: list[str]) -> tuple[str, ...]:
    return tuple(segment if index % 2 == 0 else "" for index, segment in enumerate(segments))
