"""Drives the nodes of pools through their states, from allocation to removal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from local_azure.batch.engine import attempts, job_tasks, pool_deletion
from local_azure.batch.engine.attempts import Stop
from local_azure.batch.engine.service import Service
from local_azure.batch.engine.start_tasks import StartTasks
from local_azure.batch.node.node_agent import NodeAgent
from local_azure.batch.state.states import NODE
from local_azure.batch.state.store import Row
from local_azure.batch.state.wire import parse_timestamp, timestamp

AGENT_VERSION = "1.0.0-local"


class Nodes:
    """Drives each node from one state to the next."""

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
        service.reconciler.register("node", self.reconcile_node)

    def resume(self) -> None:
        """Continue the work of the previous service on this data directory."""
        for node in self._service.store.nodes.where():
            if "lastBootTime" in node.document:  # its directories may have been removed
                self._agent.make_node(self._service.node_directory(*node.keys))
            self._service.reconciler.wake("node", *node.keys)

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

    def _creating(self, node: Row) -> datetime | None:
        if due := self._service.due(node.document, self._service.timings.allocation):
            return due
        self._enter(node, "starting")
        return None

    def _starting(self, node: Row) -> datetime | None:
        if due := self._service.due(node.document, self._service.timings.boot):
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
        if due := self._service.due(node.document, self._service.timings.boot):
            return due
        if node.document["state"] == "reimaging":
            self._service.discard(self._service.node_directory(*node.keys))
        self._enter(node, "starting")
        return None

    def _deallocating(self, node: Row) -> datetime | None:
        if not self._is_empty(node):
            return None
        if due := self._service.due(node.document, self._service.timings.boot):
            return due
        self._enter(node, "deallocated")
        return None

    def _preempted(self, node: Row) -> datetime | None:
        """Allocate a preempted spot node again, with empty directories."""
        if not self._is_empty(node):
            return None
        if due := self._service.due(node.document, self._service.timings.preemption):
            return due
        self._service.discard(self._service.node_directory(*node.keys))
        for name in ("lastBootTime", "nodeAgentInfo", "startTask", "startTaskInfo"):
            node.document.pop(name, None)
        job_tasks.forget(self._service, node, reimaged=True)
        self._enter(node, "creating")
        return None

    def _drain(self, node: Row) -> datetime | None:
        """Let a leaving node take no tasks, and end its running tasks according to the deallocation option."""
        option = node.private["leave"]
        running = attempts.on_node(self._service, *node.keys)
        if option in ("taskcompletion", "retaineddata"):
            if any(attempt.is_task for attempt in running):
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
        if due := self._service.due(
            node.document, pool_deletion.seconds(self._service, self._service.pool(node.keys[0]))
        ):
            return due
        self._service.store.nodes.remove(node)
        self._service.store.execute("DELETE FROM job_nodes WHERE id = ?", node.id)
        self._service.discard(self._service.node_directory(*node.keys))
        self._service.reconciler.wake("pool", node.keys[0])
        return None


def current(service: Service, pool: Row) -> tuple[int, int]:
    """The dedicated and the spot nodes in the pool. One that is being created has not joined it yet, as in Azure."""
    found = service.store.execute(
        "SELECT json_extract(document, '$.isDedicated'), count(*) FROM nodes"
        " WHERE pool = ? AND state NOT IN ('creating', 'leavingpool') GROUP BY 1",
        pool.id,
    )
    counts = dict(found.fetchall())
    return counts.get(1, 0), counts.get(0, 0)


def is_leaving(node: Row) -> bool:
    return "leave" in node.private


def dismiss(service: Service, node: Row, option: str) -> None:
    """Let the node leave its pool; its tasks end according to the deallocation option."""
    if not is_leaving(node) or (option == "requeue" and node.private["leave"] != option):
        node.private["leave"] = option
        service.store.nodes.save(node)
        service.reconciler.wake("node", *node.keys)
