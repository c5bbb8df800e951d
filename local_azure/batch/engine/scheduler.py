"""Assigns tasks to nodes, runs them, and moves them to their next state when their process has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from local_azure.batch.engine import attempts, environment, subtasks, task_ends
from local_azure.batch.engine.assignment import Assignment, assignments
from local_azure.batch.engine.attempts import Attempt, Kind, Stop
from local_azure.batch.engine.instances import Instance, Instances, begin_subtasks
from local_azure.batch.engine.job_tasks import JobTasks
from local_azure.batch.engine.service import Service
from local_azure.batch.node.command import Outcome
from local_azure.batch.node.node_agent import Execution, NodeAgent
from local_azure.batch.node.work import Result, Work, failure
from local_azure.batch.state.states import NODE, TASK
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import UNLIMITED, parse_duration, timestamp


@dataclass(frozen=True, kw_only=True)
class Start:
    """A task of a job that starts on a node, and with multi-instance settings on others too."""

    attempt: Attempt
    task: Row
    job: Row
    node: Row
    others: Sequence[Instance]


class Scheduler:
    def __init__(self, service: Service, agent: NodeAgent, job_tasks: JobTasks) -> None:
        self._service = service
        self._agent = agent
        self._job_tasks = job_tasks
        self._instances = Instances(service, agent, job_tasks)
        self._ended: dict[str, list[tuple[Attempt, Result]]] = {}  # by pool: ends that are not recorded yet
        service.reconciler.register("assign", self.assign)
        service.reconciler.register("attempt", self.stop_attempt)

    def resume(self) -> None:
        """Settle the attempts of the previous service; none of their processes is alive."""
        for attempt in attempts.where(self._service):
            outcome = Outcome.read(self._status_file(attempt))
            if not attempt.is_task:
                # Start tasks and job preparation and release tasks are started again when they are needed.
                attempts.remove(self._service, attempt)
            elif outcome is None or attempt.kind is Kind.SUBTASK:
                self._end(attempt, Result(interrupted=True))
            else:
                self._conclude(attempt, outcome)
        known = {self._status_file(attempt) for attempt in attempts.where(self._service)}
        for file in (self._service.data / "attempts").iterdir():
            if file not in known:  # its end was recorded just before the previous service was killed
                file.unlink()
        for pool in self._service.store.pools.where():
            self._service.reconciler.wake("assign", pool.id)

    def _conclude(self, attempt: Attempt, outcome: Outcome) -> None:
        task = self._service.store.tasks.by_seq(attempt.task or 0)
        node = self._service.store.nodes.get(attempt.pool, attempt.node)
        if task is None or node is None:
            self._end(attempt, Result(interrupted=True))
            return
        work = self._work(attempt, task, self._service.job(task.keys[0]).document, node)

        async def conclude(execution: Execution) -> None:
            self._end(attempt, await self._agent.result_of(self._agent.conclude(work, outcome, stopped=False)))

        self._agent.spawn(attempt.seq, conclude)

    # Assigning tasks to nodes

    def assign(self, pool_id: str) -> None:
        """Record the ends of attempts, then assign active tasks to free slots: one transaction for both."""
        ended = self._ended.get(pool_id, [])
        with self._service.store.transaction():
            for attempt, result in ended:
                self._finish(attempt, result)
            started = [self._start(each) for each in list(assignments(self._service, self._job_tasks, pool_id))]
        self._ended.pop(pool_id, None)
        for attempt, _ in ended:
            self._instances.release(attempt)
            self._status_file(attempt).unlink(missing_ok=True)
        for start in started:
            if start.others:
                self._instances.hold(start.attempt, start.others)
            self._spawn(start)

    def _start(self, assigned: Assignment) -> Start:
        """Record that the task runs on the nodes. The process is started after the commit."""
        now = self._service.now()
        task, job, slots = assigned.task, assigned.job, assigned.slots
        node, *more = assigned.nodes
        attempt = attempts.add(self._service, Kind.TASK, node.keys[0], node.id, job=job.id, task=task.seq, slots=slots)
        TASK.enter(task.document, "preparing" if self._job_tasks.needs_preparation(job, node) else "running", now)
        task.document["nodeInfo"] = self._node_info(task, job, node)
        info = task.document["executionInfo"]
        for name in ("endTime", "exitCode", "result", "failureInfo"):
            info.pop(name, None)
        info["startTime"] = timestamp(now)
        task.extra["expires"] = None
        task.private.pop("cleaned", None)
        others = begin_subtasks(self._service, task, more, slots) if "multiInstanceSettings" in task.document else ()
        self._service.store.tasks.save(task)
        for each in assigned.nodes:
            if each.document["state"] != "running":
                NODE.enter(each.document, "running", now)
                self._service.store.nodes.save(each)
        return Start(attempt=attempt, task=task, job=job, node=node, others=others)

    def _node_info(self, task: Row, job: Row, node: Row) -> Document:
        directory = environment.job_directory(job.document["id"]) / task.document["id"]
        return {
            "affinityId": node.document["affinityId"],
            "poolId": self._service.pool(node.keys[0]).document["id"],
            "nodeId": node.document["id"],
            "taskRootDirectory": str(directory),
        }

    # Running

    def _status_file(self, attempt: Attempt) -> Path:
        return self._service.data / "attempts" / f"{attempt.seq}.json"

    def _spawn(self, start: Start) -> None:
        async def run(execution: Execution) -> None:
            self._end(start.attempt, await self._agent.result_of(self._carry_out(start, execution)))

        self._agent.spawn(start.attempt.seq, run)

    async def _carry_out(self, start: Start, execution: Execution) -> Result:
        attempt, task, job, node = start.attempt, start.task, start.job, start.node
        if attempts.current(self._service, attempt).stop or not await self._is_prepared(task, job, node):
            return Result(interrupted=True)
        if task.document.get("authenticationTokenSettings"):
            reason = "The local Batch service gives tasks no authentication tokens"
            return Result(failure=failure("ServerError", "NotImplemented", reason))
        work = self._work(attempt, task, job.document, node)
        if "multiInstanceSettings" not in task.document:
            return await self._agent.carry_out(work, execution)
        primary = Instance(number=0, attempt=attempt, node=node)
        return await self._instances.carry_out(primary, task, job, work, execution)

    async def _is_prepared(self, task: Row, job: Row, node: Row) -> bool:
        """Run the job's preparation on the node if needed, after which the task is running."""
        if task.document["state"] != "preparing":
            return True
        if not await self._job_tasks.prepare(job, node):
            return False
        with self._service.store.transaction():
            now, prepared = self._service.now(), self._service.store.tasks.by_seq(task.seq)
            if prepared is not None:
                TASK.enter(prepared.document, "running", now)
                prepared.document["executionInfo"]["startTime"] = timestamp(now)
                self._service.store.tasks.save(prepared)
        return prepared is not None

    def _work(self, attempt: Attempt, task: Row, job: Document, node: Row) -> Work:
        service = self._service
        root = service.node_directory(attempt.pool, attempt.node)
        directory = root / task.document["nodeInfo"]["taskRootDirectory"]
        pool = task.document["nodeInfo"]["poolId"]
        limit = parse_duration(task.document["constraints"]["maxWallClockTime"])
        return Work(
            command_line=task.document["commandLine"],
            directory=directory,
            environment=environment.of_task(
                service, task.document, job, pool=pool, node=node.document, root=root, directory=directory
            ),
            status_file=self._status_file(attempt),
            identities=service.identities(attempt.pool),
            resource_files=task.document.get("resourceFiles", ()),
            output_files=task.document.get("outputFiles", ()),
            container=task.document.get("containerSettings"),
            time_limit=None if limit >= UNLIMITED else limit.total_seconds(),
        )

    def stop_attempt(self, seq: str) -> datetime | None:
        """Stop the process of an attempt; called after the commit of the request."""
        if not self._instances.stop_whole(int(seq)):
            self._agent.stop(int(seq))
        return None

    # The end

    def _end(self, attempt: Attempt, result: Result) -> None:
        """Have the end of an attempt recorded: by `assign`, which is retried while the disk is full."""
        self._ended.setdefault(attempt.pool, []).append((attempt, result))
        self._service.reconciler.wake("assign", attempt.pool)

    def _finish(self, attempt: Attempt, result: Result) -> None:
        """Record the end of an attempt, in the transaction of `assign`."""
        service = self._service
        attempt = attempts.current(service, attempt)
        attempts.remove(service, attempt)
        task = service.store.tasks.by_seq(attempt.task or 0)
        node = service.store.nodes.get(attempt.pool, attempt.node)
        completed = False
        if task is not None and attempt.stop is not Stop.DISCARD:
            subtasks.close(service, task)
            completed = task_ends.advance(service, attempt, task, result)
        for other in self._instances.free_nodes(attempt):
            self._release(other, counted=False, succeeded=False)
        if node is not None:
            self._release(node, counted=completed, succeeded=completed and result.succeeded)
        service.reconciler.wake("node", attempt.pool, attempt.node)
        service.reconciler.wake("job", attempt.job or "")

    def _release(self, node: Row, *, counted: bool, succeeded: bool) -> None:
        document = node.document
        document["totalTasksRun"] += counted
        document["totalTasksSucceeded"] += succeeded
        if document["state"] == "running" and not any(a.is_task for a in attempts.on_node(self._service, *node.keys)):
            idle = document["schedulingState"] == "enabled"
            NODE.enter(document, "idle" if idle else "offline", self._service.now())
        self._service.store.nodes.save(node)
