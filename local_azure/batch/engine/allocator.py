"""Allocates and removes the nodes of pools."""

from __future__ import annotations

import logging
import secrets
from datetime import datetime
from functools import partial

from local_azure.batch.engine import autoscale, container_specs, instance_mix, pool_deletion
from local_azure.batch.engine.node_addresses import addresses
from local_azure.batch.engine.nodes import dismiss, is_leaving
from local_azure.batch.engine.service import Service
from local_azure.batch.engine.unavailable import resize_error, unavailable
from local_azure.batch.state.states import ALLOCATION, NODE
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import after, parse_duration, parse_timestamp, timestamp

logger = logging.getLogger(__name__)

# The order in which a shrinking pool removes nodes, by their state.
_REMOVAL_ORDER = (
    "unusable",
    "starttaskfailed",
    "preempted",
    "creating",
    "starting",
    "waitingforstarttask",
    "offline",
    "idle",
)


class Allocator:
    """Drives pools towards their targets."""

    def __init__(self, service: Service) -> None:
        self._service = service
        service.reconciler.register("pool", self.reconcile_pool)

    def resume(self) -> None:
        """Continue the work of the previous service on this data directory."""
        for pool in self._service.store.pools.where():
            self._service.reconciler.wake("pool", pool.id)

    def reconcile_pool(self, name: str) -> datetime | None:
        pool = self._service.store.pools.get(name)
        if pool is None:
            return None
        with self._service.store.transaction():
            if pool.document["state"] == "deleting":
                return self._delete(pool)
            state = pool.document["allocationState"]
            if state == "resizing":
                return self._resize(pool)
            if state == "stopping":
                return self._stop_resize(pool)
            return autoscale.step(self._service, pool)

    def _delete(self, pool: Row) -> datetime | None:
        nodes = list(self._service.store.nodes.where("pool = ?", pool.id))
        for node in nodes:
            dismiss(self._service, node, "requeue")
        due = self._service.due(pool.document, pool_deletion.seconds(self._service, pool))
        if nodes or due:
            return due if not nodes else None  # the last node to leave wakes the pool
        self._service.store.pools.remove(pool)
        self._service.discard(self._service.data / "nodes" / pool.id)
        return None

    def _resize(self, pool: Row) -> datetime | None:
        nodes = list(self._service.store.nodes.where("pool = ? ORDER BY seq", pool.id))
        if error := self._fault(pool, nodes):
            return self._settle(pool, error)
        option = pool.private.get("deallocation", "requeue")
        for node in nodes:
            if node.private.pop("remove", False):
                dismiss(self._service, node, option)
        error = None
        for dedicated, target in ((True, "targetDedicatedNodes"), (False, "targetLowPriorityNodes")):
            mine = [n for n in nodes if n.document["isDedicated"] == dedicated and not is_leaving(n)]
            wanted = pool.document[target]
            for node in sorted(mine, key=_removal_rank)[: max(0, len(mine) - wanted)]:
                dismiss(self._service, node, option)
            error = self._add_nodes(pool, wanted - len(mine), dedicated) or error
        return self._settle(pool, error)

    def _fault(self, pool: Row, nodes: list[Row]) -> Document | None:
        """The injected error of this allocation, if there is one and the resize changes anything."""
        kinds = [node.document["isDedicated"] for node in nodes if not is_leaving(node)]
        targets = (pool.document["targetDedicatedNodes"], pool.document["targetLowPriorityNodes"])
        changes = (kinds.count(True), kinds.count(False)) != targets
        vm_size = pool.document["vmSize"].lower()
        fault = None
        if "resizeFault" not in pool.private and changes:
            fault = self._service.faults.take_resize(pool.id, vm_size)
        if fault:
            pool.private["resizeFault"] = {"code": fault.code, "message": fault.message}
            for node in nodes:
                node.private.pop("remove", None)
                self._service.store.nodes.save(node)
            self._service.store.pools.save(pool)
        error: Document | None = pool.private.get("resizeFault")
        return error

    def _settle(self, pool: Row, error: Document | None) -> datetime | None:
        """Make the pool steady once no node is in transition, or when its resizeTimeout has passed."""
        now = self._service.now()
        due = self._service.due(pool.document, self._service.timings.termination, "allocationState")
        began = parse_timestamp(pool.document["allocationStateTransitionTime"])
        timeout = after(began, parse_duration(pool.document["resizeTimeout"]))
        moving = self._service.store.nodes.where("pool = ?", pool.id)
        busy = any(node.document["state"] == "creating" or is_leaving(node) for node in moving)
        if now < timeout and (busy or due):
            return timeout if busy else due
        if busy:
            error = {
                "code": "AllocationTimedout",
                "message": "The pool was not resized within its resizeTimeout.",
            }
        self._become_steady(pool, error)
        return None

    def _stop_resize(self, pool: Row) -> datetime | None:
        if due := self._service.due(pool.document, self._service.timings.termination, "allocationState"):
            return due
        self._become_steady(pool, self._stopped(pool))
        return None

    def _stopped(self, pool: Row) -> Document:
        """The error of a stopped resize; the message for spot nodes is that of a recorded answer of Azure."""
        dedicated = sum(node.document["isDedicated"] for node in self._service.store.nodes.where("pool = ?", pool.id))
        kind = "low priority" if dedicated == pool.document["targetDedicatedNodes"] else "dedicated"
        message = f"Desired number of {kind} nodes could not be allocated due to a stop resize operation"
        return {"code": "ResizeStopped", "message": message}

    def _become_steady(self, pool: Row, error: Document | None) -> None:
        ALLOCATION.enter(pool.document, "steady", self._service.now())
        pool.private.pop("resizeFault", None)
        if error:
            code, message = error["code"], error["message"]
            logger.warning("Pool %s: not resized as asked: %s: %s", pool.document["id"], code, message)
            pool.document["resizeErrors"] = [error]
        self._service.store.pools.save(pool)
        self._service.reconciler.wake("pool", pool.id)

    def _add_nodes(self, pool: Row, count: int, dedicated: bool) -> Document | None:
        """Add nodes up to the quota; returns the error if the quota is too low, or this machine has no such nodes."""
        if count <= 0:
            return None
        of_containers = partial(container_specs.why_unavailable, mode=self._service.containers)
        if reasons := unavailable(pool.document, of_containers):
            return resize_error(reasons)
        room = self._service.faults.node_quota - int(self._service.store.value("SELECT count(*) FROM nodes"))
        for _ in range(min(count, max(0, room))):
            self._add_node(pool, dedicated)
        if count <= room:
            return None
        code = "AccountCoreQuotaReached" if dedicated else "AccountLowPriorityCoreQuotaReached"
        kind = "core quota" if dedicated else "low priority core quota"
        return {
            "code": code,
            "message": f"The specified account has reached {kind}",
            "values": [{"name": "NodeQuota", "value": str(self._service.faults.node_quota)}],
        }

    def _add_node(self, pool: Row, dedicated: bool) -> None:
        now = self._service.now()
        name = f"tvmps_{secrets.token_hex(32)}_{'d' if dedicated else 'p'}"
        number = int(self._service.store.value("SELECT ifnull(max(seq), 0) FROM nodes")) + 4
        document: Document = {
            "id": name,
            "schedulingState": "enabled",
            "allocationTime": timestamp(now),
            **addresses(pool.document, number),
            "affinityId": f"TVM:{name}",
            "vmSize": instance_mix.sizes(pool.document)[0],
            "totalTasksRun": 0,
            "totalTasksSucceeded": 0,
            "isDedicated": dedicated,
            "virtualMachineInfo": {"imageReference": _image_of_node(pool.document)},
        }
        NODE.enter(document, "creating", now)
        node = self._service.store.nodes.add(Row(keys=(pool.id, name), document=document))
        self._service.reconciler.wake("node", *node.keys)


def _image_of_node(pool: Document) -> Document:
    reference: Document = pool["virtualMachineConfiguration"]["imageReference"]
    return {**reference, "exactVersion": reference["version"]} if "version" in reference else reference


def _removal_rank(node: Row) -> tuple[int, int]:
    state = node.document["state"]
    return (_REMOVAL_ORDER.index(state) if state in _REMOVAL_ORDER else len(_REMOVAL_ORDER), -node.seq)
