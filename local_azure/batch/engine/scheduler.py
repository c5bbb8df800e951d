"""Assigns tasks to nodes, runs them, and moves them to their next state when their process has ended."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from local_azure.batch.engine import attempts, environment, task_ends
from local_azure.batch.engine.attempts import Attempt, Kind, Stop
from local_azure.batch.engine.job_tasks import JobTasks
from local_azure.batch.engine.placement import Place, choose
from local_azure.batch.engine.service import Service
from local_azure.batch.node.command import Outcome
from local_azure.batch.node.node_agent import Execution, NodeAgent
from local_azure.batch.node.work import Result, Work, task_ended
from local_azure.batch.state.states import NODE, TASK
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import UNLIMITED, parse_duration, timestamp

SUPERVISORS_LOST = 3  # per task; one more fails the task, which otherwise could run for ever by killing its supervisors
LOOK_AHEAD = 100  # active tasks considered beyond the number of free slots, as the first ones may need too many slots


class Scheduler:
    def __init__(self, service: Service, agent: NodeAgent, job_tasks: JobTasks) -> None:
        self._service = service
        self._agent = agent
        self._job_tasks = job_tasks
        service.reconciler.register("assign", self.assign)
        service.reconciler.register("attempt", self.stop_attempt)

    def resume(self) -> None:
        """Settle the attempts of the previous service; none of their processes is alive."""
        for attempt in attempts.where(self._service):
            outcome = Outcome.read(self._status_file(attempt))
            if attempt.kind is not Kind.TASK:
                # Start tasks and job preparation and release tasks are started again when they are needed.
                attempts.remove(self._service, attempt)
            elif outcome is None:
                self._finish(attempt, Result(interrupted=True))
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
            self._finish(attempt, Result(interrupted=True))
            return
        work = self._work(attempt, task, node)

        async def conclude(execution: Execution) -> None:
            result = await self._agent.result_of(self._agent.conclude(work, outcome, stopped=False))
            await self._agent.record(lambda: self._finish(attempt, result))

        self._agent.spawn(attempt.seq, conclude)

    # Assigning tasks to nodes

    def assign(self, pool_id: str) -> None:
        """Assign active tasks to the pool's free slots: jobs by priority, then tasks in the order of their creation."""
        started: list[Attempt] = []
        with self._service.store.transaction():
            pool = self._service.store.pools.get(pool_id)
            if pool is None or pool.document["state"] != "active":
                return
            places = self._places(pool)
            for job in self._service.store.jobs.where(
                "pool = ? AND state = 'active' ORDER BY priority DESC, seq", pool_id
            ):
                if not any(place.free > 0 for place in places):
                    break
                started += self._assign_job(job, pool, places)
        for attempt in started:
            self._spawn(attempt)

    def _places(self, pool: Row) -> list[Place]:
        used = dict(
            self._service.store.execute(
                "SELECT node, sum(slots) FROM attempts WHERE pool = ? GROUP BY node", pool.id
            ).fetchall()
        )
        nodes = self._service.store.nodes.where("pool = ? AND state IN ('idle', 'running') ORDER BY seq", pool.id)
        return [
            Place(node, pool.document["taskSlotsPerNode"], used.get(node.id, 0))
            for node in nodes
            if "leave" not in node.private and node.document["schedulingState"] == "enabled"
        ]

    def _assign_job(self, job: Row, pool: Row, places: list[Place]) -> list[Attempt]:
        room = self._parallel_room(job)
        usable = [place for place in places if not self._job_tasks.refuses(job, place.node)]
        free = [place.free for place in usable if place.free > 0]
        if not room or not free:
            return []
        tasks = self._service.store.tasks.where(
            # The first terms must be exactly those of the index tasks_to_run.
            "job = ? AND json_extract(document, '$.state') = 'active' AND blocked = 0"
            " AND slots <= ? ORDER BY seq LIMIT ?",
            job.id,
            max(free),
            min(room, sum(free) + LOOK_AHEAD),
        )
        started = []
        for task in list(tasks):
            place = choose(task, pool, usable)
            if place is not None:
                started.append(self._start(task, job, place))
                room -= 1
        return started

    def _parallel_room(self, job: Row) -> int:
        limit = int(job.document["maxParallelTasks"])
        if limit == -1:
            return 2**31
        running = self._service.store.value("SELECT count(*) FROM attempts WHERE job = ? AND task IS NOT NULL", job.id)
        return max(0, limit - int(running))

    def _start(self, task: Row, job: Row, place: Place) -> Attempt:
        """Record that the task runs on the node. The process is started after the commit."""
        now = self._service.now()
        slots = place.slots if task.private.get("exclusive") else task.document["requiredSlots"]
        node = place.node
        attempt = attempts.add(self._service, Kind.TASK, node.keys[0], node.id, job=job.id, task=task.seq, slots=slots)
        place.free -= slots
        place.used += slots
        TASK.enter(task.document, "preparing" if self._job_tasks.needs_preparation(job, node) else "running", now)
        task.document["nodeInfo"] = self._node_info(task, job, node)
        info = task.document["executionInfo"]
        for name in ("endTime", "exitCode", "result", "failureInfo"):
            info.pop(name, None)
        info["startTime"] = timestamp(now)
        task.extra["expires"] = None
        task.private.pop("cleaned", None)
        self._service.store.tasks.save(task)
        NODE.enter(node.document, "running", now)
        self._service.store.nodes.save(node)
        return attempt

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

    def _spawn(self, attempt: Attempt) -> None:
        async def run(execution: Execution) -> None:
            result = await self._agent.result_of(self._carry_out(attempt, execution))
            await self._agent.record(lambda: self._finish(attempt, result))

        self._agent.spawn(attempt.seq, run)

    async def _carry_out(self, attempt: Attempt, execution: Execution) -> Result:
        task = self._service.store.tasks.by_seq(attempt.task or 0)
        node = self._service.store.nodes.get(attempt.pool, attempt.node)
        if task is None or node is None or not await self._is_prepared(task, node):
            return Result(interrupted=True)
        return await self._agent.carry_out(self._work(attempt, task, node), execution)

    async def _is_prepared(self, task: Row, node: Row) -> bool:
        """Run the job's preparation on the node if needed, after which the task is running."""
        if task.document["state"] != "preparing":
            return True
        if not await self._job_tasks.prepare(self._service.job(task.keys[0]), node):
            return False
        with self._service.store.transaction():
            now, prepared = self._service.now(), self._service.store.tasks.by_seq(task.seq)
            if prepared is not None:
                TASK.enter(prepared.document, "running", now)
                prepared.document["executionInfo"]["startTime"] = timestamp(now)
                self._service.store.tasks.save(prepared)
        return prepared is not None

    def _work(self, attempt: Attempt, task: Row, node: Row) -> Work:
        service = self._service
        job = service.job(task.keys[0]).document
        root = service.node_directory(attempt.pool, attempt.node)
        directory = root / task.document["nodeInfo"]["taskRootDirectory"]
        pool = task.document["nodeInfo"]["poolId"]
        limit = parse_duration(task.document["constraints"]["maxWallClockTime"])
        base = environment.base(service, task.document, pool=pool, node=node.document, root=root, directory=directory)
        return Work(
            command_line=task.document["commandLine"],
            directory=directory,
            environment={
                **base,
                **environment.of_job(root, job, task.document["id"]),
                **environment.settings(job.get("commonEnvironmentSettings"), task.document.get("environmentSettings")),
            },
            status_file=self._status_file(attempt),
            resource_files=task.document.get("resourceFiles", ()),
            output_files=task.document.get("outputFiles", ()),
            container=task.document.get("containerSettings"),
            time_limit=None if limit >= UNLIMITED else limit.total_seconds(),
        )

    def stop_attempt(self, seq: str) -> datetime | None:
        """Stop the process of an attempt; called after the commit of the request."""
        self._agent.stop(int(seq))
        return None

    # The end

    def _finish(self, attempt: Attempt, result: Result) -> None:
        service = self._service
        with service.store.transaction():
            attempt = attempts.current(service, attempt)
            attempts.remove(service, attempt)
            task = service.store.tasks.by_seq(attempt.task or 0)
            node = service.store.nodes.get(attempt.pool, attempt.node)
            completed = False
            if task is not None and attempt.stop is not Stop.DISCARD:
                completed = self._advance(attempt, task, result)
            if node is not None:
                self._release(node, counted=completed, succeeded=completed and result.succeeded)
        self._status_file(attempt).unlink(missing_ok=True)
        for key in (
            ("assign", attempt.pool),
            ("node", attempt.pool, attempt.node),
            ("job", attempt.job or ""),
        ):
            service.reconciler.wake(*key)

    def _advance(self, attempt: Attempt, task: Row, result: Result) -> bool:
        """Move a task whose process has ended to its next state; returns True if the task is completed."""
        now = self._service.now()
        info = task.document["executionInfo"]
        lost = result.supervisor_lost and attempt.stop is None and _may_lose_supervisor(task)
        if lost or (result.interrupted and attempt.stop is not Stop.TERMINATE):
            if lost or attempt.stop is Stop.REQUEUE:
                info["requeueCount"] += 1
                info["lastRequeueTime"] = timestamp(now)
            self._reactivate(task)
            return False
        retries = task.document["constraints"]["maxTaskRetryCount"]
        if result.may_be_retried and (retries == -1 or info["retryCount"] < retries) and attempt.stop is None:
            info["retryCount"] += 1
            info["lastRetryTime"] = timestamp(now)
            self._reactivate(task)
            return False
        if result.interrupted:
            reason = task.private.pop("stopReason", "The task was ended by a user's request.")
            result = Result(exit_code=result.exit_code, failure=task_ended(reason))
        task_ends.complete(self._service, task, result)
        return True

    def _reactivate(self, task: Row) -> None:
        TASK.enter(task.document, "active", self._service.now())
        task.document.pop("nodeInfo", None)
        task.document["executionInfo"].pop("startTime", None)
        self._service.store.tasks.save(task)

    def _release(self, node: Row, *, counted: bool, succeeded: bool) -> None:
        document = node.document
        document["totalTasksRun"] += counted
        document["totalTasksSucceeded"] += succeeded
        if document["state"] == "running" and not any(a.task for a in attempts.on_node(self._service, *node.keys)):
            idle = document["schedulingState"] == "enabled"
            NODE.enter(document, "idle" if idle else "offline", self._service.now())
        self._service.store.nodes.save(node)


def _may_lose_supervisor(task: Row) -> bool:
    """Count a killed supervisor; returns True if the task may run again. The caller saves the task."""
    lost = int(task.private.get("supervisorsLost", 0)) + 1
    task.private["supervisorsLost"] = lost
    return lost <= SUPERVISORS_LOST
