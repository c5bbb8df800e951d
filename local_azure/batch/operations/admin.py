"""The service's own operations, which inject faults and move its clock; off by default.

They are requests below the path /$local, signed with the account's key like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from datetime import timedelta
from typing import Any

from local_azure.batch.engine import attempts
from local_azure.batch.engine.attempts import Stop
from local_azure.batch.engine.service import Service
from local_azure.batch.rest.call import Call, Response
from local_azure.batch.state.access import PRINCIPAL, Access, Issued
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.faults import RequestFault, ResizeFault
from local_azure.batch.state.states import NODE
from local_azure.batch.state.store import Row
from local_azure.batch.state.wire import LAST, parse_duration, timestamp

PREFIX = "/$local/"
MAXIMUM_NUMBER = 10**9
_ACCOUNTS = {"batch": "batch_access", "storage": "storage_access"}  # where the faults have their access
_YEARS_LEFT = timedelta(days=365 * 1000)  # of margin before the latest time that can be written


def serve(service: Service, call: Call) -> Response:
    """Run the operation named by the last segment of the path."""
    name = call.path[len(PREFIX) :]
    if call.method != "POST" or name not in _OPERATIONS:
        raise BatchError(Code.InvalidUri, f"POST to {PREFIX} and one of {', '.join(_OPERATIONS)}.")
    body = call.json() if call.content.strip() else {}
    if not isinstance(body, dict):
        raise BatchError(Code.InvalidRequestBody, "The body must be a JSON object.")
    return Response(document=_OPERATIONS[name](service, body) or {}, kind="local/@Element")


def _arguments(body: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """The body with defaults. Raises InvalidPropertyValue for a property that is unknown or of another type."""
    for name, value in body.items():
        if name not in defaults:
            raise invalid_property(name, value, f"it must be one of {', '.join(defaults)}")
        expected = type(defaults[name])
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise invalid_property(name, value, f"it must be of type {expected.__name__}")
        if expected in (int, float) and not 0 <= value <= MAXIMUM_NUMBER:
            raise invalid_property(name, value, f"it must be between 0 and {MAXIMUM_NUMBER}")
    return {**defaults, **body}


def _requests(service: Service, body: dict[str, Any]) -> None:
    """Inject a fault into the next requests; the properties are those of RequestFault."""
    defaults = {item.name: item.default for item in fields(RequestFault)}
    fault = RequestFault(**_arguments(body, **defaults))
    if fault.status and not 400 <= fault.status <= 599:
        raise invalid_property("status", fault.status, "it must be the status of an error, 400 to 599, or 0 for none")
    service.faults.requests.append(fault)


def _reset(service: Service, body: dict[str, Any]) -> None:
    """Remove all faults and restore the timings, also for transitions under way."""
    _arguments(body)
    service.faults = type(service.faults)()
    service.publish_storage_access()
    service.reconciler.wake_all()


def _clock(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Move the service's clock: {"advance": "PT1H"}. Returns its time."""
    text = _arguments(body, advance="PT0S")["advance"]
    try:
        length = parse_duration(text)
    except ValueError as error:
        raise invalid_property("advance", text, str(error)) from error
    if length < timedelta():
        raise invalid_property("advance", text, "it must not be negative")
    if length > LAST - service.now() - _YEARS_LEFT:
        raise invalid_property("advance", text, "the time would be out of range")
    service.clock.advance(length)
    return {"time": timestamp(service.now())}


def _timings(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Set the seconds that transitions take: {"removal": 5} makes deletes slow. Returns all of them."""
    current = {item.name: float(getattr(service.timings, item.name)) for item in fields(service.timings)}
    service.faults.timings = replace(service.timings, **_arguments(body, **current))
    service.reconciler.wake_all()
    return {item.name: getattr(service.timings, item.name) for item in fields(service.timings)}


def _resize_error(service: Service, body: dict[str, Any]) -> None:
    """Fail the next allocations of any pool, or of a pool, VM size or family: {"code": "...", "vmSize": "..."}."""
    arguments = _arguments(
        body, code=ResizeFault.code, message=ResizeFault.message, poolId="", vmSize="", family="", times=1
    )
    pool, vm_size, family = (arguments.pop(name).lower() for name in ("poolId", "vmSize", "family"))
    service.faults.resizes.append(ResizeFault(pool=pool, vm_size=vm_size, family=family, **arguments))


def _vm_sizes(service: Service, body: dict[str, Any]) -> None:
    """Offer these VM sizes no more, with commas between them: {"unavailable": "Standard_D2as_v5"}."""
    names = _arguments(body, unavailable="")["unavailable"].lower().split(",")
    service.faults.unavailable_sizes = frozenset(filter(None, map(str.strip, names)))


def _task_statuses(service: Service, body: dict[str, Any]) -> None:
    """Write the statuses of tasks in a collection as Azure does, or in lower case: {"capitalised": false}."""
    service.faults.capitalised_statuses = _arguments(body, capitalised=True)["capitalised"]


def _access(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Set who may use an account: {"account": "batch", "sharedKey": false}. Returns it for both accounts.

    No `role`: the identity of the tokens lacks it. No `network`: the account's firewall is closed to the client. Not
    `anonymous`: the storage account permits no public containers.
    """
    account = str(body.get("account"))
    if account not in _ACCOUNTS:
        raise invalid_property("account", account, f"it must be one of {', '.join(_ACCOUNTS)}")
    of_account = {name: getattr(service.faults, name) or service.usual_access for name in _ACCOUNTS.values()}
    current = of_account[_ACCOUNTS[account]]
    defaults = {
        "sharedKey": current.shared_key,
        "role": current.role,
        "network": current.network,
        "anonymous": current.anonymous,
    }
    wanted = _arguments({name: value for name, value in body.items() if name != "account"}, **defaults)
    changed = Access(
        shared_key=wanted["sharedKey"],
        role=wanted["role"],
        network=wanted["network"],
        anonymous=wanted["anonymous"],
    )
    setattr(service.faults, _ACCOUNTS[account], changed)
    service.publish_storage_access()
    return {"account": account, **wanted}


def _tokens(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Set the claims of tokens that are issued from now on: {"lifetime": 60, "tenant": "...", "audience": "..."}."""
    issued = _arguments(body, **asdict(service.faults.issued))
    service.faults.issued = Issued(**issued)
    return issued


def _identity(service: Service, body: dict[str, Any]) -> None:
    """Give a pool a managed identity: {"poolId": "p", "resourceId": "/subscriptions/..."}; in Azure only its portal and
    its management API can.
    """
    arguments = _arguments(body, poolId="", resourceId="")
    pool = service.pool(arguments["poolId"])
    identity = {"resourceId": arguments["resourceId"], "clientId": PRINCIPAL, "principalId": PRINCIPAL}
    pool.document["identity"] = {"type": "UserAssigned", "userAssignedIdentities": [identity]}
    service.store.pools.save(pool)


def _start_tasks(service: Service, body: dict[str, Any]) -> None:
    """Fail the next start tasks: {"fail": 2}."""
    service.faults.failing_start_tasks = _arguments(body, fail=1)["fail"]


def _task_counts(service: Service, body: dict[str, Any]) -> None:
    """Return stale task counts for the next requests: {"stale": 3}."""
    service.faults.stale_task_counts = _arguments(body, stale=1)["stale"]


def _quota(service: Service, body: dict[str, Any]) -> None:
    """Set quotas of the account: {"nodes": 2, "pools": 1, "jobs": 1}. A pool beyond that of nodes gets resizeErrors."""
    faults = service.faults
    arguments = _arguments(body, nodes=faults.node_quota, pools=faults.pool_quota, jobs=faults.job_quota)
    faults.node_quota, faults.pool_quota, faults.job_quota = (arguments[name] for name in ("nodes", "pools", "jobs"))


def _preempt(service: Service, body: dict[str, Any]) -> None:
    """Preempt the spot nodes of a pool, or one of them: {"poolId": "p", "nodeId": "n"}."""
    for node in _nodes(service, body, "preempted"):
        if not node.document["isDedicated"]:
            _take_away(service, node, "preempted")


def _unusable(service: Service, body: dict[str, Any]) -> None:
    """Make the nodes of a pool unusable, or one of them: {"poolId": "p", "nodeId": "n"}."""
    for node in _nodes(service, body, "unusable"):
        node.document["errors"] = [{"code": "NodeUnusable", "message": "The node has been made unusable."}]
        _take_away(service, node, "unusable")


def _nodes(service: Service, body: dict[str, Any], state: str) -> list[Row]:
    """The nodes of a pool that may enter the state, or the one that is named. Raises BatchError if that may not."""
    arguments = _arguments(body, poolId="", nodeId="")
    pool = service.pool(arguments["poolId"])
    if not arguments["nodeId"]:
        return [node for node in service.store.nodes.where("pool = ?", pool.id) if NODE.may_enter(node.document, state)]
    node = service.node(pool.id, arguments["nodeId"])
    if not NODE.may_enter(node.document, state):
        raise BatchError(Code.OperationInvalidForCurrentState, f"The node is {node.document['state']}.")
    return [node]


def _take_away(service: Service, node: Row, state: str) -> None:
    """Make the node unavailable; its tasks run again elsewhere, not counted as requeues."""
    NODE.enter(node.document, state, service.now())
    service.store.nodes.save(node)
    for attempt in attempts.on_node(service, *node.keys):
        attempts.stop(service, attempt, Stop.RECOVER)
    service.reconciler.wake("node", *node.keys)


_OPERATIONS: dict[str, Callable[[Service, dict[str, Any]], dict[str, Any] | None]] = {
    "requests": _requests,
    "reset": _reset,
    "clock": _clock,
    "timings": _timings,
    "resizeerror": _resize_error,
    "starttasks": _start_tasks,
    "access": _access,
    "tokens": _tokens,
    "identity": _identity,
    "taskcounts": _task_counts,
    "taskstatuses": _task_statuses,
    "quota": _quota,
    "preempt": _preempt,
    "unusable": _unusable,
    "vmsizes": _vm_sizes,
}
