"""Runs job preparation and job release tasks: on each node of a job, before and after its tasks."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from local_azure.batch.engine import attempts, environment
from local_azure.batch.engine.attempts import Attempt, Kind
from local_azure.batch.engine.service import Service
from local_azure.batch.node.node_agent import Execution, NodeAgent
from local_azure.batch.node.work import Result, Work, task_ended
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import UNLIMITED, parse_duration, timestamp

PREPARATION = "jobPreparationTaskExecutionInfo"
RELEASE = "jobReleaseTaskExecutionInfo"


class JobTasks:
    def __init__(self, service: Service, agent: NodeAgent) -> None:
        self._service = service
        self._agent = agent
        self._preparing: dict[tuple[str, str], asyncio.Future[bool]] = {}

    def refuses(self, job: Row, node: Row) -> bool:
        """True if the job's preparation has failed on the node, which then gets no task of the job."""
        if not job.document.get("jobPreparationTask", {}).get("waitForSuccess"):
            return False
        return self._preparation(job.id, node.id).get("result") == "failure"

    def needs_preparation(self, job: Row, node: Row) -> bool:
        return "jobPreparationTask" in job.document and self._preparation(job.id, node.id).get("state") != "completed"

    def _preparation(self, job: str, node: str) -> Document:
        row = self._service.store.job_nodes.get(job, node)
        return dict(row.document.get(PREPARATION, {})) if row and not row.private.get("stale") else {}

    async def prepare(self, job: Row, node: Row) -> bool:
        """Prepare the node for the job, once for all waiting tasks; returns True if tasks of the job may run there."""
        key = (job.id, node.id)
        if key not in self._preparing:
            future = self._preparing[key] = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda _: self._preparing.pop(key, None))
            attempt = attempts.add(self._service, Kind.PREPARATION, *node.keys, job=job.id)
            self._agent.spawn(attempt.seq, lambda execution: self._prepare(attempt, future, execution))
        return await asyncio.shield(self._preparing[key])

    async def _prepare(self, attempt: Attempt, future: asyncio.Future[bool], execution: Execution) -> None:
        try:
            prepared = await self._run(attempt, PREPARATION, "jobPreparationTask", execution)
        except BaseException:
            if not future.done():
                future.set_result(False)
            raise
        if not future.done():
            future.set_result(prepared)

    async def _run(self, attempt: Attempt, info_name: str, task_name: str, execution: Execution) -> bool:
        """Run the task with its retries; returns True if it succeeded, or its success is not required."""
        job = self._service.job(attempt.job or "")
        task = job.document[task_name]
        self._begin(attempt, info_name, job.document, task)
        retries = task.get("constraints", {}).get("maxTaskRetryCount", 0)
        count = 0
        while True:
            result = await self._agent.result_of(self._carry_out(attempt, job.document, task, execution))
            if not (result.may_be_retried and (retries == -1 or count < retries)):
                break
            count += 1
            retried: Document = {"retryCount": count, "lastRetryTime": timestamp(self._service.now())}
            await self._agent.record(partial(self._update, attempt, info_name, retried))
        await self._agent.record(partial(self._finish, attempt, info_name, result))
        self._service.reconciler.wake("job", job.id)
        return result.succeeded or not task.get("waitForSuccess", True)

    async def _carry_out(self, attempt: Attempt, job: Document, task: Document, execution: Execution) -> Result:
        return await self._agent.carry_out(self._work(attempt, job, task), execution)

    def _finish(self, attempt: Attempt, info_name: str, result: Result) -> None:
        with self._service.store.transaction():
            self._update(attempt, info_name, self._ended(result), stale=result.interrupted)
            attempts.remove(self._service, attempt)
        self._status_file(attempt).unlink(missing_ok=True)

    def _status_file(self, attempt: Attempt) -> Path:
        return self._service.data / "attempts" / f"{attempt.seq}.json"

    def _begin(self, attempt: Attempt, info_name: str, job: Document, task: Document) -> None:
        service = self._service
        pool = service.pool(attempt.pool).document["id"]
        info: Document = {
            "startTime": timestamp(service.now()),
            "state": "running",
            "taskRootDirectory": str(environment.job_directory(job["id"]) / task["id"]),
        }
        if info_name == PREPARATION:
            info["retryCount"] = 0
        row = service.store.job_nodes.get(attempt.job, attempt.node)
        if row is None:
            node = service.node(attempt.pool, attempt.node).document["id"]
            row = service.store.job_nodes.add(
                Row(
                    keys=(attempt.job, attempt.node),
                    document={"poolId": pool, "nodeId": node},
                    extra={"pool": attempt.pool},
                )
            )
        row.private.pop("stale", None)
        row.document[info_name] = info
        service.store.job_nodes.save(row)

    def _update(self, attempt: Attempt, info_name: str, changes: Document, *, stale: bool = False) -> None:
        row = self._service.store.job_nodes.get(attempt.job, attempt.node)
        if row is not None:
            if stale:
                row.private["stale"] = True  # interrupted, to be run again
            row.document[info_name].update(changes)
            self._service.store.job_nodes.save(row)

    def _ended(self, result: Result) -> Document:
        info: Document = {"state": "completed", "endTime": timestamp(self._service.now())}
        info["result"] = "success" if result.succeeded else "failure"
        if result.exit_code is not None:
            info["exitCode"] = result.exit_code
        if failed := task_ended("The task was ended by the service.") if result.interrupted else result.failure:
            info["failureInfo"] = failed
        return info

    def _work(self, attempt: Attempt, job: Document, task: Document) -> Work:
        service = self._service
        node = service.node(attempt.pool, attempt.node)
        root = service.node_directory(attempt.pool, attempt.node)
        directory = root / environment.job_directory(job["id"]) / task["id"]
        limit = parse_duration(task.get("maxWallClockTime") or task["constraints"]["maxWallClockTime"])
        pool = service.pool(attempt.pool).document["id"]
        return Work(
            command_line=task["commandLine"],
            directory=directory,
            environment=environment.of_task(
                service, task, job, pool=pool, node=node.document, root=root, directory=directory
            ),
            status_file=self._status_file(attempt),
            identities=service.identities(attempt.pool),
            resource_files=task.get("resourceFiles", ()),
            container=task.get("containerSettings"),
            time_limit=None if limit >= UNLIMITED else limit.total_seconds(),
        )

    def release(self, job: Row) -> bool:
        """Start the release task on every prepared node where it has not run; returns True if there was one."""
        if "jobReleaseTask" not in job.document:
            return False
        due = [row for row in self._service.store.job_nodes.where("job = ?", job.id) if self._needs_release(row)]
        for row in due:
            attempt = attempts.add(self._service, Kind.RELEASE, row.extra["pool"], row.id, job=job.id)
            self._spawn_release(attempt)
        return bool(due)

    def _needs_release(self, row: Row) -> bool:
        alive = self._service.store.nodes.get(row.extra["pool"], row.id)
        return (
            alive is not None
            and alive.document["state"] in ("idle", "running", "offline")
            and row.document.get(RELEASE, {}).get("state") != "completed"
        )

    def _spawn_release(self, attempt: Attempt) -> None:
        async def run(execution: Execution) -> None:
            await self._run(attempt, RELEASE, "jobReleaseTask", execution)

        self._agent.spawn(attempt.seq, run)


def forget(service: Service, node: Row, *, reimaged: bool) -> None:
    """Mark a restarted node to be prepared again, unless the job allows reboots without that."""
    for row in list(service.store.job_nodes.where("id = ?", node.id)):
        preparation = service.job(row.keys[0]).document.get("jobPreparationTask", {})
        succeeded = row.document.get(PREPARATION, {}).get("result") == "success"
        if reimaged or not succeeded or preparation.get("rerunOnNodeRebootAfterSuccess", True):
            row.private["stale"] = True
            service.store.job_nodes.save(row)
