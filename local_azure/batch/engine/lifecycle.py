"""Ends jobs, when their tasks are done, at their time limit or by request, and removes expired task files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from local_azure.batch.engine import attempts, environment, pool_deletion, subtasks
from local_azure.batch.engine.attempts import Stop
from local_azure.batch.engine.job_tasks import JobTasks
from local_azure.batch.engine.service import Service
from local_azure.batch.node.node_agent import NodeAgent
from local_azure.batch.state.states import JOB
from local_azure.batch.state.store import Row
from local_azure.batch.state.wire import UNLIMITED, after, parse_duration, parse_timestamp, timestamp

DELETED_AT_ONCE = 1000  # tasks of a job; requests are served in between


class Lifecycle:
    """Drives jobs to their next state and removes task directories after their retention time."""

    def __init__(self, service: Service, agent: NodeAgent, job_tasks: JobTasks) -> None:
        self._service = service
        self._agent = agent
        self._job_tasks = job_tasks
        self._states: dict[str, Callable[[Row], datetime | None]] = {
            "active": self._active,
            "disabling": self._disabling,
            "disabled": self._limit,
            "enabling": self._enabling,
            "terminating": self._terminating,
            "deleting": self._deleting,
        }
        service.reconciler.register("job", self.reconcile_job)
        service.reconciler.register("retention", self.apply_retention)
        service.reconciler.register("remains", self.discard_remains)

    def resume(self) -> None:
        self.discard_remains()
        for job in self._service.store.jobs.where():
            self._service.reconciler.wake("job", job.id)
        self._service.reconciler.wake("retention")

    def reconcile_job(self, name: str) -> datetime | None:
        job = self._service.store.jobs.get(name)
        if job is None:
            return None
        with self._service.store.transaction():
            advance = self._states.get(job.document["state"])
            return advance(job) if advance else None

    def _enter(self, job: Row, state: str) -> None:
        change_state(self._service, job, state)
        self._service.store.jobs.save(job)
        self._service.reconciler.wake("job", job.id)

    def _active(self, job: Row) -> datetime | None:
        if job.document["onAllTasksComplete"] == "terminatejob" and not unfinished_tasks(self._service, job.id):
            terminate(self._service, job, "AllTasksComplete")
            return None
        return self._limit(job)

    def _limit(self, job: Row) -> datetime | None:
        """Apply the job's maxWallClockTime, which counts from its creation."""
        limit = parse_duration(job.document["constraints"]["maxWallClockTime"])
        if limit >= UNLIMITED:
            return None
        due = after(parse_timestamp(job.document["creationTime"]), limit)
        if due > self._service.now():
            return due
        terminate(self._service, job, "MaxWallClockTimeExpiry")
        return None

    def _disabling(self, job: Row) -> datetime | None:
        if attempts.of_job(self._service, job.id):
            return None  # the end of an attempt wakes the job
        if due := self._service.due(job.document, self._service.timings.termination):
            return due
        self._enter(job, "disabled")
        return None

    def _enabling(self, job: Row) -> datetime | None:
        if due := self._service.due(job.document, self._service.timings.termination):
            return due
        self._enter(job, "active")
        self._service.reconciler.wake("assign", str(job.document["executionInfo"].get("poolId", "")).lower())
        return None

    def _terminating(self, job: Row) -> datetime | None:
        if attempts.of_job(self._service, job.id) or self._job_tasks.release(job):
            return None
        if due := self._service.due(job.document, self._service.timings.termination):
            return due
        job.document["executionInfo"]["endTime"] = timestamp(self._service.now())
        self._enter(job, "completed")
        self._close(job)
        return None

    def _close(self, job: Row) -> None:
        """Wake the job schedule, and delete the auto pool, of a job that has ended."""
        if schedule := job.extra["schedule"]:
            self._service.reconciler.wake("schedule", schedule)
        pool_deletion.end_auto_pool(self._service, job.private.get("autoPool", ""))

    def _deleting(self, job: Row) -> datetime | None:
        if attempts.of_job(self._service, job.id) or self._job_tasks.release(job):
            return None
        if due := self._service.due(job.document, self._service.timings.removal):
            return due
        store = self._service.store
        some = "SELECT seq FROM tasks WHERE job = ? LIMIT ?"
        if store.execute(f"DELETE FROM tasks WHERE seq IN ({some})", job.id, DELETED_AT_ONCE).rowcount:
            self._service.reconciler.wake("job", job.id)
            return None
        store.execute("DELETE FROM task_counts WHERE job = ?", job.id)
        store.execute("DELETE FROM dependencies WHERE job = ?", job.id)
        store.jobs.remove(job)
        self._close(job)
        directory = environment.job_root(job.document["id"])
        for path in (self._service.data / "nodes").glob(f"*/*/{directory}"):
            self._service.discard(path)
        return None

    def apply_retention(self) -> datetime | None:
        """Remove the directories of completed tasks after their retention time."""
        store, now = self._service.store, timestamp(self._service.now())
        with store.transaction():
            for task in list(store.tasks.where("expires <= ? ORDER BY expires LIMIT 100", now)):
                for directory in subtasks.directories(self._service, task):
                    self._service.discard(directory)
                task.extra["expires"] = None
                task.private["cleaned"] = True
                store.tasks.save(task)
            following = store.value("SELECT min(expires) FROM tasks WHERE expires IS NOT NULL")
        return parse_timestamp(following) if following else None

    def discard_remains(self) -> None:
        """Move directories to the trash, before new ones can be created at their paths."""
        store = self._service.store
        for (path,) in store.execute("SELECT path FROM remains").fetchall():
            self._agent.discard(self._service.data / path)
            store.execute("DELETE FROM remains WHERE path = ?", path)


def unfinished_tasks(service: Service, job: str) -> int:
    found = service.store.value("SELECT sum(tasks) FROM task_counts WHERE job = ? AND state <> 'completed'", job)
    return int(found or 0)


def change_state(service: Service, job: Row, state: str) -> None:
    """Let the job enter the state, which modifies it."""
    now = service.now()
    JOB.enter(job.document, state, now)
    service.touch(job.document, now)


def begin_deletion(service: Service, job: Row) -> None:
    """Start to delete a job: running attempts are ended. Saves the job."""
    change_state(service, job, "deleting")
    _stop(service, job)


def terminate(service: Service, job: Row, reason: str) -> None:
    """Start to terminate a job: running attempts are ended, active tasks stay active. Saves the job."""
    change_state(service, job, "terminating")
    job.document["executionInfo"]["terminateReason"] = reason
    _stop(service, job)


def _stop(service: Service, job: Row) -> None:
    """End the running attempts of a job. Saves it."""
    service.store.jobs.save(job)
    for attempt in attempts.of_job(service, job.id):
        attempts.stop(service, attempt, Stop.TERMINATE)
    service.reconciler.wake("job", job.id)
