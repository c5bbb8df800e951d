"""Operations on pools."""

from __future__ import annotations

from local_azure.batch.engine import instance_mix, nodes, pool_deletion, pool_specs, references
from local_azure.batch.engine.pool_creation import add_pool
from local_azure.batch.engine.service import Service
from local_azure.batch.rest import shapes
from local_azure.batch.rest.call import Call, Listing, Response, created, done, element, require_conditions
from local_azure.batch.rest.odata import Kind, Properties, one_of
from local_azure.batch.state.errors import BatchError, Code, invalid_property, invalid_query
from local_azure.batch.state.states import ALLOCATION, POOL
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import parse_timestamp

_FILTERABLE: Properties = {
    "id": Kind.TEXT,
    "displayName": Kind.TEXT,
    "state": one_of(*POOL.transitions),
    "stateTransitionTime": Kind.TIME,
    "allocationState": one_of(*ALLOCATION.transitions),
    "allocationStateTransitionTime": Kind.TIME,
    "creationTime": Kind.TIME,
    "lastModified": Kind.TIME,
    "enableAutoScale": Kind.FLAG,
    "vmSize": Kind.TEXT,
}


# What the API's reference lets a client change only while the pool is empty.
_OF_EMPTY_POOLS = {
    "displayName",
    "enableInterNodeCommunication",
    "mountConfiguration",
    "networkConfiguration",
    "taskSchedulingPolicy",
    "taskSlotsPerNode",
    "upgradePolicy",
    "userAccounts",
    "virtualMachineConfiguration",
    "vmSize",
    "vmSkuProfile",
}


def show(service: Service, call: Call, row: Row) -> Document:
    """The pool in the format of the API, with its current number of nodes."""
    dedicated, spot = nodes.current(service, row)
    return {
        **row.document,
        **(_communication(row.document) if dedicated or spot else {}),
        "url": call.url("pools", row.document["id"]),
        "currentDedicatedNodes": dedicated,
        "currentLowPriorityNodes": spot,
    }


def _communication(pool: Document) -> Document:
    """How the nodes of a pool communicate: `classic`, which Azure has retired, only where a client has asked for it."""
    mode = pool.get("targetNodeCommunicationMode", "default")
    return {"currentNodeCommunicationMode": "simplified" if mode == "default" else mode}


def create_pool(service: Service, call: Call) -> Response:
    spec = call.body("BatchPoolCreateOptions")
    spec = pool_specs.with_defaults(spec)
    if call.headers.get("authorization", "").lower().startswith("sharedkey "):
        pool_specs.refuse_linked_resources(spec)
    references.refuse(spec)
    _check_offered(service, instance_mix.sizes(spec))
    known = service.store.pools.get(spec["id"].lower())
    if known is None and int(service.store.value("SELECT count(*) FROM pools")) >= service.faults.pool_quota:
        raise BatchError(Code.PoolQuotaReached)
    document = add_pool(service, spec).document
    return created(call, document, "pools", document["id"])


def _check_offered(service: Service, vm_sizes: list[str]) -> None:
    """Refuse a VM size that the region does not offer, with the reason that Azure gives."""
    for vm_size in vm_sizes:
        if vm_size.lower() in service.faults.unavailable_sizes:
            raise invalid_property("vmSize", vm_size, Code.InvalidPropertyValue.message)


def list_pools(service: Service, call: Call) -> Response:
    listing = Listing(
        kind="pools", filterable=_FILTERABLE, show=lambda row: show(service, call, row), model="BatchPool"
    )
    return listing.respond(call, lambda after: service.store.pools.page((), after))


def list_pool_usage_metrics(service: Service, call: Call) -> Response:
    """None: Azure aggregates the core hours that it bills, and here nothing is billed."""
    for name in ("starttime", "endtime"):
        if text := call.query.get(name):
            try:
                parse_timestamp(text)
            except ValueError as error:
                raise invalid_query(str(error), name, text) from error
    listing = Listing(kind="poolusagemetrics", filterable={"poolId": Kind.TEXT}, show=lambda row: row.document)
    return listing.respond(call, lambda after: ())


def get_pool(service: Service, call: Call) -> Response:
    row = service.pool(call.ids["poolId"])
    require_conditions(call, row.document)
    return element(call, "pools", show(service, call, row), "BatchPool")


def pool_exists(service: Service, call: Call) -> Response:
    row = service.pool(call.ids["poolId"])
    require_conditions(call, row.document)
    return done(call, 200, row.document)


def changeable(service: Service, call: Call) -> Row:
    row = service.pool(call.ids["poolId"])
    require_conditions(call, row.document)
    if row.document["state"] == "deleting":
        raise BatchError(Code.PoolBeingDeleted)
    return row


def _steady(service: Service, call: Call) -> Row:
    row = changeable(service, call)
    if row.document["allocationState"] != "steady":
        raise BatchError(Code.PoolBeingResized)
    return row


def save(service: Service, call: Call, row: Row, status: int) -> Response:
    service.touch(row.document)
    return save_unmodified(service, call, row, status)


def save_unmodified(service: Service, call: Call, row: Row, status: int) -> Response:
    """As save(), but the pool keeps its ETag, as Azure's does when a resize is stopped or autoscaling is disabled."""
    service.store.pools.save(row)
    service.reconciler.wake("pool", row.id)
    return done(call, status, row.document)


def delete_pool(service: Service, call: Call) -> Response:
    row = changeable(service, call)
    pool_deletion.begin(service, row)
    return Response(status=202)


def update_pool(service: Service, call: Call) -> Response:
    patch = _checked_start_task(call.body("BatchPoolUpdateOptions"))
    references.complete(patch)
    row = changeable(service, call)
    references.refuse(patch)
    _check_machine_change(service, row, patch)
    row.document.update(patch)
    return save(service, call, row, 200)


def _check_machine_change(service: Service, row: Row, patch: Document) -> None:
    """Refuse changes of the nodes' properties while the pool has nodes."""
    named = sorted(_OF_EMPTY_POOLS & patch.keys())
    if named and service.store.value("SELECT 1 FROM nodes WHERE pool = ?", row.id):
        detail = f"{', '.join(named)} can only be changed while the pool has no nodes."
        raise BatchError(Code.OperationInvalidForCurrentState, detail)
    if named and row.document["allocationState"] != "steady":
        raise BatchError(Code.PoolBeingResized)
    if named:
        pool_specs.check_machine_change(row.document, patch)
        _check_offered(service, instance_mix.sizes({**row.document, **patch}))


def _checked_start_task(body: Document) -> Document:
    if "startTask" in body:
        return {**body, "startTask": pool_specs.start_task(body["startTask"])}
    return body


def replace_pool_properties(service: Service, call: Call) -> Response:
    body = _checked_start_task(call.body("BatchPoolReplaceOptions"))
    row = changeable(service, call)
    references.refuse(body)
    for name in ("startTask", "metadata"):
        row.document.pop(name, None)
    row.document.update({name: value for name, value in body.items() if value != []})
    row.document.update(_of_replaced(body, call.version))
    return save(service, call, row, 204)


def _of_replaced(body: Document, version: str) -> Document:
    """What pools have after a replacement by clients of older versions, as recorded of Azure."""
    defaults: Document = {references.CERTIFICATES: [], "targetNodeCommunicationMode": "default"}
    known = shapes.fields("BatchPoolReplaceOptions", version)
    return {name: body.get(name, value) for name, value in defaults.items() if name in known}


def resize_pool(service: Service, call: Call) -> Response:
    body = call.body("BatchPoolResizeOptions")
    targets = body.keys() & {"targetDedicatedNodes", "targetLowPriorityNodes"}
    if not targets:
        name = "targetDedicatedNodes"
        raise BatchError(
            Code.MissingRequiredProperty,
            "Give targetDedicatedNodes or targetLowPriorityNodes.",
            PropertyName=name,
        )
    pool_specs.check_targets(body)
    row = _steady(service, call)
    if row.document["enableAutoScale"]:
        raise BatchError(Code.OperationNotValidOnPool, "The pool scales automatically.")
    row.document.update({name: body[name] for name in targets})
    row.document["resizeTimeout"] = body.get("resizeTimeout", "PT15M")
    return begin_resize(service, call, row, body.get("nodeDeallocationOption", "requeue"))


def begin_resize(service: Service, call: Call, row: Row, deallocation: str) -> Response:
    """Start a resize to the targets; `deallocation` says how leaving nodes end their tasks."""
    row.private["deallocation"] = deallocation
    row.document.pop("resizeErrors", None)
    ALLOCATION.enter(row.document, "resizing", service.now())
    return save(service, call, row, 202)


def stop_pool_resize(service: Service, call: Call) -> Response:
    row = changeable(service, call)
    if row.document["allocationState"] != "resizing":
        raise BatchError(Code.OperationInvalidForCurrentState, "The pool is not being resized.")
    ALLOCATION.enter(row.document, "stopping", service.now())
    return save_unmodified(service, call, row, 202)


def remove_nodes(service: Service, call: Call) -> Response:
    body = call.body("BatchNodeRemoveOptions")
    pool_specs.check_resize_timeout(body)
    wanted = {node.lower() for node in body["nodeList"]}
    if not 1 <= len(wanted) <= 100:
        raise invalid_property("nodeList", len(wanted), "1 to 100 nodes can be removed at once")
    row = _steady(service, call)
    found = [node for node in service.store.nodes.where("pool = ?", row.id) if node.id in wanted]
    if len(found) < len(wanted):
        raise BatchError(Code.NodeNotFound)
    for node in found:
        node.private["remove"] = True
        service.store.nodes.save(node)
        if "leave" in node.private:
            continue  # already subtracted from the target
        name = "targetDedicatedNodes" if node.document["isDedicated"] else "targetLowPriorityNodes"
        row.document[name] = max(0, row.document[name] - 1)
    row.document["resizeTimeout"] = body.get("resizeTimeout", "PT15M")
    return begin_resize(service, call, row, body.get("nodeDeallocationOption", "requeue"))
