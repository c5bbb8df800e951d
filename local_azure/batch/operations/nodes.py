"""Operations on the nodes of a pool."""

from __future__ import annotations

from local_azure.batch.engine import attempts, job_tasks
from local_azure.batch.engine.attempts import Stop
from local_azure.batch.engine.node_addresses import NO_LOGIN, NO_LOGIN_IPV6
from local_azure.batch.engine.service import Service
from local_azure.batch.rest.call import Call, Listing, Response, done, element
from local_azure.batch.rest.odata import Kind, Properties, one_of
from local_azure.batch.rest.shown import shown
from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.states import NODE
from local_azure.batch.state.store import Document, Row

RECENT_TASKS = 10

_REMOTE_LOGIN = "Microsoft.Azure.Batch.Protocol.Entities.RemoteLoginSettings"  # as odata.metadata names it

_FILTERABLE: Properties = {
    "id": Kind.TEXT,
    "state": one_of(*NODE.transitions, "unknown", "upgradingos"),
    "schedulingState": one_of("enabled", "disabled"),
    "stateTransitionTime": Kind.TIME,
    "lastBootTime": Kind.TIME,
    "allocationTime": Kind.TIME,
    "isDedicated": Kind.FLAG,
    "vmSize": Kind.TEXT,
    "startTaskInfo/state": one_of("running", "completed"),
    "startTaskInfo/result": one_of("success", "failure"),
    "startTaskInfo/exitCode": Kind.NUMBER,
    "startTaskInfo/startTime": Kind.TIME,
    "startTaskInfo/endTime": Kind.TIME,
}

# The states of a node, in the spelling of GET /nodecounts.
_COUNTED = (
    "creating",
    "idle",
    "offline",
    "preempted",
    "rebooting",
    "reimaging",
    "running",
    "starting",
    "startTaskFailed",
    "leavingPool",
    "unknown",
    "unusable",
    "waitingForStartTask",
    "upgradingOS",
    "deallocated",
    "deallocating",
)


def show(service: Service, call: Call, row: Row, pool: str) -> Document:
    """The node in the format of the API; `pool` is the pool's id as written."""
    running = [attempt for attempt in attempts.on_node(service, *row.keys) if attempt.is_task]
    recent = _recent_tasks(service, call, row)
    return {
        **row.document,
        "url": call.url("pools", pool, "nodes", row.document["id"]),
        "runningTasksCount": len(running),
        "runningTaskSlotsCount": sum(attempt.slots for attempt in running),
        **({"recentTasks": recent} if recent else {}),
    }


def _recent_tasks(service: Service, call: Call, row: Row) -> list[Document]:
    tasks = service.store.tasks.where(
        "json_extract(document, '$.nodeInfo.nodeId') = ? ORDER BY seq DESC LIMIT ?",
        row.document["id"],
        RECENT_TASKS,
    )
    return [
        {
            "taskUrl": call.url("jobs", task.keys[0], "tasks", task.document["id"]),
            "jobId": service.job(task.keys[0]).document["id"],
            "taskId": task.document["id"],
            "taskState": task.document["state"],
            "executionInfo": task.document["executionInfo"],
        }
        for task in tasks
    ]


def list_nodes(service: Service, call: Call) -> Response:
    pool = service.pool(call.ids["poolId"])
    listing = Listing(
        kind="nodes",
        filterable=_FILTERABLE,
        show=lambda row: show(service, call, row, pool.document["id"]),
        model="BatchNode",
    )
    return listing.respond(call, lambda after: service.store.nodes.page((pool.id,), after))


def get_node(service: Service, call: Call) -> Response:
    pool = service.pool(call.ids["poolId"])
    row = service.node(pool.id, call.ids["nodeId"])
    return element(call, "nodes", show(service, call, row, pool.document["id"]), "BatchNode")


def get_node_remote_login_settings(service: Service, call: Call) -> Response:
    """The addresses of the node's endpoints for SSH, which are ones that nobody can reach."""
    node = service.node(call.ids["poolId"], call.ids["nodeId"])
    settings = {"remoteLoginIPAddress": NO_LOGIN["publicIPAddress"], "remoteLoginPort": NO_LOGIN["frontendPort"]}
    if "ipv6Address" in node.document:
        settings["ipv6RemoteLoginIPAddress"] = NO_LOGIN_IPV6["publicIPAddress"]
        settings["ipv6RemoteLoginPort"] = NO_LOGIN_IPV6["frontendPort"]
    return Response(document=shown(settings, "BatchNodeRemoteLoginSettings", call.version), kind=_REMOTE_LOGIN)


def _in_state(service: Service, call: Call, *states: str) -> Row:
    """The node. Raises BatchError unless it is in one of the states."""
    row = service.node(call.ids["poolId"], call.ids["nodeId"])
    state = row.document["state"]
    refusals = {
        "creating": Code.NodeBeingCreated,
        "starting": Code.NodeBeingStarted,
        "rebooting": Code.NodeBeingRebooted,
        "reimaging": Code.NodeBeingReimaged,
        "unusable": Code.NodeStateUnusable,
    }
    if state not in states:
        code = refusals.get(state, Code.OperationInvalidForCurrentState)
        raise BatchError(code, f"The node is {state}; this needs it to be {' or '.join(states)}.")
    return row


def _save(service: Service, call: Call, row: Row, status: int) -> Response:
    service.store.nodes.save(row)
    service.reconciler.wake("node", *row.keys)
    service.reconciler.wake("assign", row.keys[0])
    return done(call, status)


def _restart(service: Service, call: Call, option: str, state: str) -> Response:
    row = _in_state(service, call, "idle", "running", "starttaskfailed", "offline")
    for attempt in attempts.on_node(service, *row.keys):
        attempts.stop(service, attempt, Stop.TERMINATE if option == "terminate" else Stop.RECOVER)
    NODE.enter(row.document, state, service.now())
    job_tasks.forget(service, row, reimaged=state != "rebooting")
    return _save(service, call, row, 202)


def reboot_node(service: Service, call: Call) -> Response:
    body = call.optional_body("BatchNodeRebootOptions")
    return _restart(service, call, body.get("nodeRebootOption", "requeue"), "rebooting")


def reimage_node(service: Service, call: Call) -> Response:
    body = call.optional_body("BatchNodeReimageOptions")
    return _restart(service, call, body.get("nodeReimageOption", "requeue"), "reimaging")


def deallocate_node(service: Service, call: Call) -> Response:
    body = call.optional_body("BatchNodeDeallocateOptions")
    return _restart(service, call, body.get("nodeDeallocateOption", "requeue"), "deallocating")


def start_node(service: Service, call: Call) -> Response:
    row = _in_state(service, call, "deallocated")
    NODE.enter(row.document, "starting", service.now())
    return _save(service, call, row, 202)


def disable_node_scheduling(service: Service, call: Call) -> Response:
    option = call.optional_body("BatchNodeDisableSchedulingOptions").get("nodeDisableSchedulingOption", "requeue")
    row = _in_state(service, call, "idle", "running", "waitingforstarttask", "offline", "starttaskfailed", "starting")
    if row.document["schedulingState"] == "disabled":
        raise BatchError(Code.NodeAlreadyInTargetSchedulingState)
    row.document["schedulingState"] = "disabled"
    if option != "taskcompletion":
        for attempt in attempts.on_node(service, *row.keys):
            if attempt.is_task:
                attempts.stop(service, attempt, Stop.TERMINATE if option == "terminate" else Stop.REQUEUE)
    if row.document["state"] == "idle":
        NODE.enter(row.document, "offline", service.now())
    return _save(service, call, row, 200)


def enable_node_scheduling(service: Service, call: Call) -> Response:
    row = service.node(call.ids["poolId"], call.ids["nodeId"])
    if row.document["schedulingState"] == "enabled":
        raise BatchError(Code.NodeAlreadyInTargetSchedulingState)
    row.document["schedulingState"] = "enabled"
    if row.document["state"] == "offline":
        NODE.enter(row.document, "idle", service.now())
    return _save(service, call, row, 200)


def list_pool_node_counts(service: Service, call: Call) -> Response:
    def show_counts(row: Row) -> Document:
        found = service.store.execute(
            "SELECT json_extract(document, '$.isDedicated'), state, count(*) FROM nodes WHERE pool = ? GROUP BY 1, 2",
            row.id,
        ).fetchall()
        counts = {(bool(dedicated), state): count for dedicated, state, count in found}
        return {
            "poolId": row.document["id"],
            "dedicated": _tally(counts, True),
            "lowPriority": _tally(counts, False),
        }

    filterable = {"poolId": Kind.TEXT}
    listing = Listing(kind="poolnodecounts", filterable=filterable, show=show_counts, model="BatchPoolNodeCounts")
    return listing.respond(call, lambda after: service.store.pools.page((), after))


def _tally(counts: dict[tuple[bool, str], int], dedicated: bool) -> Document:
    tally = {name: counts.get((dedicated, name.lower()), 0) for name in _COUNTED}
    return {**tally, "total": sum(tally.values())}
