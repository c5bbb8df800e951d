"""Allocates the nodes of pools and drives them through their states."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from local_azure.batch.engine import attempts, autoscale, job_tasks
from local_azure.batch.engine.attempts import Stop
from local_azure.batch.engine.service import Service
from local_azure.batch.engine.start_tasks import StartTasks
from local_azure.batch.node.node_agent import NodeAgent
from local_azure.batch.state.states import ALLOCATION, NODE
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import after, parse_duration, parse_timestamp, timestamp

AGENT_VERSION = "1.0.0-local"
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
    """Drives pools towards their targets, and each node from one state to the next."""

    def __init__(self, service: Service, agent: NodeAgent) -> None:
        self._service = service
        self._agent = agent
        self._start_tasks = StartTasks(service, agent)
        self._node_states: dict[str, Callable[[Row], datetime | None]] = {
            "creating": self._creating,
            "starting": self._starting,
            "waitingforstarttask": self._with_start_task,
            "idle": self._with_start_task,
            "running": self._with_start_task,
            "offline": self._with_start_task,
            "rebooting": self._restarting,
            "reimaging": self._restarting,
            "deallocating": self._deallocating,
            "leavingpool": self._leaving,
            "preempted": self._preempted,
        }
        service.reconciler.register("pool", self.reconcile_pool)
        service.reconciler.register("node", self.reconcile_node)

    def resume(self) -> None:
        """Continue the work of the previous service on this data directory."""
        for pool in self._service.store.pools.where():
            self._service.reconciler.wake("pool", pool.id)
        for node in self._service.store.nodes.where():
            if "lastBootTime" in node.document:  # its directories may have been removed
                self._agent.make_node(self._service.node_directory(*node.keys))
            self._service.reconciler.wake("node", *node.keys)

    # Pools

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
            self._dismiss(node, "requeue")
        due = self._due(pool.document, self._service.timings.removal, "state")
        if nodes or due > self._service.now():
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
                self._dismiss(node, option)
        error = None
        for dedicated, target in ((True, "targetDedicatedNodes"), (False, "targetLowPriorityNodes")):
            mine = [n for n in nodes if n.document["isDedicated"] == dedicated and not self._is_leaving(n)]
            wanted = pool.document[target]
            for node in sorted(mine, key=_removal_rank)[: max(0, len(mine) - wanted)]:
                self._dismiss(node, option)
            error = self._add_nodes(pool, wanted - len(mine), dedicated) or error
        return self._settle(pool, error)

    def _fault(self, pool: Row, nodes: list[Row]) -> Document | None:
        """The injected error of this allocation, if there is one and the resize changes anything."""
        kinds = [node.document["isDedicated"] for node in nodes if not self._is_leaving(node)]
        targets = (pool.document["targetDedicatedNodes"], pool.document["targetLowPriorityNodes"])
        changes = (kinds.count(True), kinds.count(False)) != targets
        if "resizeFault" not in pool.private and changes and (fault := self._service.faults.take_resize(pool.id)):
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
        due = self._due(pool.document, self._service.timings.allocation)
        began = parse_timestamp(pool.document["allocationStateTransitionTime"])
        timeout = after(began, parse_duration(pool.document["resizeTimeout"]))
        moving = self._service.store.nodes.where("pool = ?", pool.id)
        busy = any(node.document["state"] == "creating" or self._is_leaving(node) for node in moving)
        if now < timeout and (busy or now < due):
            return timeout if busy else due
        if busy:
            error = {
                "code": "AllocationTimedout",
                "message": "The pool was not resized within its resizeTimeout.",
            }
        self._become_steady(pool, error)
        return None

    def _stop_resize(self, pool: Row) -> datetime | None:
        due = self._due(pool.document, self._service.timings.termination)
        if due > self._service.now():
            return due
        self._become_steady(
            pool, {"code": "ResizeStopped", "message": "The resize of the pool was stopped by the user."}
        )
        return None

    def _become_steady(self, pool: Row, error: Document | None) -> None:
        ALLOCATION.enter(pool.document, "steady", self._service.now())
        pool.private.pop("resizeFault", None)
        if error:
            pool.document["resizeErrors"] = [error]
        self._service.store.pools.save(pool)
        self._service.reconciler.wake("pool", pool.id)

    def _add_nodes(self, pool: Row, count: int, dedicated: bool) -> Document | None:
        """Add nodes up to the quota; returns the error if the quota is too low."""
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
            "ipAddress": f"10.0.{number // 250 % 256}.{number % 250}",
            "ipv6Address": f"fd00::{number:x}",
            "affinityId": f"TVM:{name}",
            "vmSize": pool.document["vmSize"],
            "totalTasksRun": 0,
            "totalTasksSucceeded": 0,
            "isDedicated": dedicated,
            "virtualMachineInfo": {"imageReference": pool.document["virtualMachineConfiguration"]["imageReference"]},
        }
        NODE.enter(document, "creating", now)
        node = self._service.store.nodes.add(Row(keys=(pool.id, name), document=document))
        self._service.reconciler.wake("node", *node.keys)

    def _due(self, document: Document, seconds: float, name: str = "allocationState") -> datetime:
        return parse_timestamp(document[f"{name}TransitionTime"]) + timedelta(seconds=seconds)

    # Nodes

    def reconcile_node(self, pool: str, name: str) -> datetime | None:
        node = self._service.store.nodes.get(pool, name)
        if node is None:
            return None
        with self._service.store.transaction():
            if "leave" in node.private and node.document["state"] != "leavingpool":
                return self._drain(node)
            advance = self._node_states.get(node.document["state"])
            return advance(node) if advance else None

    def _enter(self, node: Row, state: str) -> None:
        NODE.enter(node.document, state, self._service.now())
        self._service.store.nodes.save(node)
        self._service.reconciler.wake("node", *node.keys)
        self._service.reconciler.wake("pool", node.keys[0])

    def _is_due(self, node: Row, seconds: float) -> datetime | None:
        """The time at which the node will have been in its state for `seconds`; None if that has passed."""
        due = parse_timestamp(node.document["stateTransitionTime"]) + timedelta(seconds=seconds)
        return due if due > self._service.now() else None

    def _creating(self, node: Row) -> datetime | None:
        if due := self._is_due(node, self._service.timings.allocation):
            return due
        self._enter(node, "starting")
        return None

    def _starting(self, node: Row) -> datetime | None:
        if due := self._is_due(node, self._service.timings.boot):
            return due
        now = timestamp(self._service.now())
        pool = self._service.pool(node.keys[0]).document
        self._agent.make_node(self._service.node_directory(*node.keys))
        node.document["lastBootTime"] = now
        node.document["nodeAgentInfo"] = {"version": AGENT_VERSION, "lastUpdateTime": now}
        for name in ("startTask", "startTaskInfo", "errors"):
            node.document.pop(name, None)
        if task := pool.get("startTask"):
            self._start_tasks.begin(node, task)
        if node.document["state"] == "waitingforstarttask":
            self._enter(node, "waitingforstarttask")
        else:
            self._enter(node, "idle" if node.document["schedulingState"] == "enabled" else "offline")
            self._service.reconciler.wake("assign", node.keys[0])
        self._service.store.nodes.save(node)
        self._service.reconciler.wake("node", *node.keys)
        return None

    def _with_start_task(self, node: Row) -> None:
        if node.document.get("startTaskInfo", {}).get("state") == "running":
            self._start_tasks.ensure_running(node)

    def _is_empty(self, node: Row) -> bool:
        return not attempts.on_node(self._service, *node.keys)

    def _restarting(self, node: Row) -> datetime | None:
        if not self._is_empty(node):
            return None  # the end of the last attempt wakes the node
        if due := self._is_due(node, self._service.timings.boot):
            return due
        if node.document["state"] == "reimaging":
            self._service.discard(self._service.node_directory(*node.keys))
        self._enter(node, "starting")
        return None

    def _deallocating(self, node: Row) -> datetime | None:
        if not self._is_empty(node):
            return None
        if due := self._is_due(node, self._service.timings.boot):
            return due
        self._enter(node, "deallocated")
        return None

    def _preempted(self, node: Row) -> datetime | None:
        """Allocate a preempted spot node again, with empty directories."""
        if not self._is_empty(node):
            return None
        if due := self._is_due(node, self._service.timings.preemption):
            return due
        self._service.discard(self._service.node_directory(*node.keys))
        for name in ("lastBootTime", "nodeAgentInfo", "startTask", "startTaskInfo"):
            node.document.pop(name, None)
        job_tasks.forget(self._service, node, reimaged=True)
        self._enter(node, "creating")
        return None

    # Leaving

    def _is_leaving(self, node: Row) -> bool:
        return "leave" in node.private

    def _dismiss(self, node: Row, option: str) -> None:
        if not self._is_leaving(node) or (option == "requeue" and node.private["leave"] != option):
            node.private["leave"] = option
            self._service.store.nodes.save(node)
            self._service.reconciler.wake("node", *node.keys)

    def _drain(self, node: Row) -> datetime | None:
        """Let a leaving node take no tasks, and end its running tasks according to the deallocation option."""
        option = node.private["leave"]
        running = attempts.on_node(self._service, *node.keys)
        if option in ("taskcompletion", "retaineddata"):
            if any(attempt.task for attempt in running):
                return None
            if option == "retaineddata" and (kept := self._retained_until(node)):
                return kept
        for attempt in running:
            attempts.stop(self._service, attempt, Stop.TERMINATE if option == "terminate" else Stop.REQUEUE)
        self._enter(node, "leavingpool")
        return None

    def _retained_until(self, node: Row) -> datetime | None:
        last = self._service.store.value(
            "SELECT max(expires) FROM tasks WHERE json_extract(document, '$.nodeInfo.nodeId') = ?",
            node.document["id"],
        )
        return parse_timestamp(last) if last and parse_timestamp(last) > self._service.now() else None

    def _leaving(self, node: Row) -> datetime | None:
        if not self._is_empty(node):
            return None
        if due := self._is_due(node, self._service.timings.removal):
            return due
        self._service.store.nodes.remove(node)
        self._service.store.execute("DELETE FROM job_nodes WHERE id = ?", node.id)
        self._service.discard(self._service.node_directory(*node.keys))
        self._service.reconciler.wake("pool", node.keys[0])
        return None


def _removal_rank(node: Row) -> tuple[int, int]:
    state = node.document["state"]
    return (_REMOVAL_ORDER.index(state) if state in _REMOVAL_ORDER else len(_REMOVAL_ORDER), -node.seq)
