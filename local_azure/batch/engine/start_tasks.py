"""Runs start tasks: on each node that joins a pool, before it accepts tasks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from local_azure.batch.engine import attempts, environment
from local_azure.batch.engine.attempts import Attempt, Kind
from local_azure.batch.engine.service import Service
from local_azure.batch.node.node_agent import Execution, NodeAgent
from local_azure.batch.node.work import Result, Work
from local_azure.batch.state.states import NODE
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import timestamp


class StartTasks:
    def __init__(self, service: Service, agent: NodeAgent) -> None:
        self._service = service
        self._agent = agent

    def begin(self, node: Row, task: Document) -> None:
        """Move the node to the state in which its start task runs. The caller saves the node and wakes it."""
        now = self._service.now()
        node.document["startTask"] = task
        node.document["startTaskInfo"] = {"state": "running", "startTime": timestamp(now), "retryCount": 0}
        if task["waitForSuccess"]:
            NODE.enter(node.document, "waitingforstarttask", now)

    def ensure_running(self, node: Row) -> None:
        """Start the start task if it is not running: after `begin`, and after a restart of the service."""
        pool, name = node.keys
        running = [a for a in attempts.on_node(self._service, pool, name) if a.kind is Kind.START]
        if running:
            return
        attempt = attempts.add(self._service, Kind.START, pool, name)
        self._agent.spawn(attempt.seq, lambda execution: self._run(attempt, execution))

    async def _run(self, attempt: Attempt, execution: Execution) -> None:
        while True:
            result = await self._agent.result_of(self._carry_out(attempt, execution))
            if await self._agent.record(partial(self._finish, attempt, result)):
                return

    async def _carry_out(self, attempt: Attempt, execution: Execution) -> Result:
        node = self._service.store.nodes.get(attempt.pool, attempt.node)
        assert node is not None, "a node is not removed while something runs on it"
        work = self._work(attempt, node)
        if self._service.faults.take_start_task():
            work = replace(work, command_line="/bin/sh -c 'echo injected fault: this start task fails >&2; exit 1'")
        return await self._agent.carry_out(work, execution)

    def _work(self, attempt: Attempt, node: Row) -> Work:
        service = self._service
        root = service.node_directory(attempt.pool, attempt.node)
        task = node.document["startTask"]
        pool = service.pool(attempt.pool).document["id"]
        directory = root / "startup"
        variables = environment.base(service, task, pool=pool, node=node.document, root=root, directory=directory)
        return Work(
            command_line=task["commandLine"],
            directory=directory,
            environment={**variables, **environment.settings(task.get("environmentSettings"))},
            status_file=self._status_file(attempt),
            identities=service.identities(attempt.pool),
            resource_files=task.get("resourceFiles", ()),
            container=task.get("containerSettings"),
        )

    def _status_file(self, attempt: Attempt) -> Path:
        return self._service.data / "attempts" / f"{attempt.seq}.json"

    def _finish(self, attempt: Attempt, result: Result) -> bool:
        """Record the end of one attempt; returns False if it is to be retried."""
        service = self._service
        with service.store.transaction():
            node = service.store.nodes.get(attempt.pool, attempt.node)
            assert node is not None
            task, info = node.document["startTask"], node.document["startTaskInfo"]
            retries = task["maxTaskRetryCount"]
            if result.may_be_retried and (retries == -1 or info["retryCount"] < retries):
                info["retryCount"] += 1
                info["lastRetryTime"] = timestamp(service.now())
                service.store.nodes.save(node)
                return False
            attempts.remove(service, attempt)
            if not result.interrupted:
                self._complete(node, info, result)
            service.store.nodes.save(node)
        self._status_file(attempt).unlink(missing_ok=True)
        service.reconciler.wake("node", *node.keys)
        service.reconciler.wake("assign", attempt.pool)
        return True

    def _complete(self, node: Row, info: Document, result: Result) -> None:
        now = self._service.now()
        info |= {"state": "completed", "endTime": timestamp(now)}
        info["result"] = "success" if result.succeeded else "failure"
        if result.exit_code is not None:
            info["exitCode"] = result.exit_code
        if result.failure:
            info["failureInfo"] = result.failure
        if node.document["state"] != "waitingforstarttask":
            return  # the node did not wait for it, or is leaving
        if result.succeeded:
            NODE.enter(node.document, "idle" if node.document["schedulingState"] == "enabled" else "offline", now)
        else:
            NODE.enter(node.document, "starttaskfailed", now)
            node.document["errors"] = [{"code": "StartTaskFailed", "message": "The start task of the node failed."}]
