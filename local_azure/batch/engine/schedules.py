"""Drives job schedules: creates their jobs when they are due, and ends the schedules."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from local_azure.batch.engine import lifecycle, pool_deletion
from local_azure.batch.engine.job_creation import add_job
from local_azure.batch.engine.service import Service
from local_azure.batch.state.states import SCHEDULE
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import after, parse_duration, parse_timestamp, timestamp

_ENDED = ("completed", "deleting")


class Schedules:
    """Drives job schedules to their next state; each has one active job at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._states: dict[str, Callable[[Row], datetime | None]] = {
            "active": self._active,
            "disabled": self._expiry,
            "terminating": self._terminating,
            "deleting": self._deleting,
        }
        service.reconciler.register("schedule", self.reconcile)

    def resume(self) -> None:
        for schedule in self._service.store.schedules.where():
            self._service.reconciler.wake("schedule", schedule.id)

    def reconcile(self, name: str) -> datetime | None:
        schedule = self._service.store.schedules.get(name)
        if schedule is None:
            return None
        with self._service.store.transaction():
            advance = self._states.get(schedule.document["state"])
            return advance(schedule) if advance else None

    def _jobs(self, schedule: Row) -> list[Row]:
        return list(self._service.store.jobs.where("schedule = ?", schedule.id))

    def _active(self, schedule: Row) -> datetime | None:
        expiry = self._expiry(schedule)
        if schedule.document["state"] != "active":
            return None
        if any(job.document["state"] not in _ENDED for job in self._jobs(schedule)):
            return expiry  # the end of the job wakes the schedule
        due = next_run(schedule, self._service.now())
        if due is None:
            self._complete(schedule)
            return None
        if due > self._service.now():
            self._plan(schedule, due)
            return min(due, expiry) if expiry else due
        self._create_job(schedule, due)
        return expiry

    def _expiry(self, schedule: Row) -> datetime | None:
        """Complete the schedule if its doNotRunAfter has passed and it has no active job; returns a future one."""
        last = schedule.document.get("schedule", {}).get("doNotRunAfter")
        if last is None:
            return None
        if parse_timestamp(last) > self._service.now():
            return parse_timestamp(last)
        if all(job.document["state"] in _ENDED for job in self._jobs(schedule)):
            self._complete(schedule)
        return None

    def _create_job(self, schedule: Row, due: datetime) -> None:
        service, rule = self._service, schedule.document.get("schedule", {})
        number = schedule.private["jobs"] = schedule.private.get("jobs", 0) + 1
        job_id = f"{schedule.document['id']}:job-{number}"
        spec = schedule.document["jobSpecification"]
        add_job(service, job_id, spec, schedule)
        schedule.document["executionInfo"]["recentJob"] = {"id": job_id}
        if interval := rule.get("recurrenceInterval"):
            following = after(due, parse_duration(interval))
            schedule.document["executionInfo"]["nextRunTime"] = timestamp(following)
        else:
            schedule.document["executionInfo"].pop("nextRunTime", None)
        service.store.schedules.save(schedule)
        service.reconciler.wake("schedule", schedule.id)

    def _plan(self, schedule: Row, due: datetime) -> None:
        info = schedule.document["executionInfo"]
        if info.get("nextRunTime") != timestamp(due):
            info["nextRunTime"] = timestamp(due)
            self._service.store.schedules.save(schedule)

    def _complete(self, schedule: Row) -> None:
        now = self._service.now()
        SCHEDULE.enter(schedule.document, "completed", now)
        schedule.document["executionInfo"].pop("nextRunTime", None)
        schedule.document["executionInfo"]["endTime"] = timestamp(now)
        self._service.store.schedules.save(schedule)
        self._delete_auto_pool(schedule)

    def _terminating(self, schedule: Row) -> datetime | None:
        jobs = self._jobs(schedule)
        for job in jobs:
            if job.document["state"] not in (*_ENDED, "terminating"):
                lifecycle.terminate(self._service, job, "TerminateJobSchedule")
        if any(job.document["state"] not in _ENDED for job in jobs):
            return None
        if due := self._service.due(schedule.document, self._service.timings.termination):
            return due
        self._complete(schedule)
        return None

    def _deleting(self, schedule: Row) -> datetime | None:
        service = self._service
        jobs = self._jobs(schedule)
        for job in jobs:
            if job.document["state"] != "deleting":
                lifecycle.begin_deletion(service, job)
        if jobs:
            return None
        if due := self._service.due(schedule.document, service.timings.removal):
            return due
        service.store.schedules.remove(schedule)
        self._delete_auto_pool(schedule)
        return None

    def _delete_auto_pool(self, schedule: Row) -> None:
        auto: Document = schedule.document["jobSpecification"]["poolInfo"].get("autoPoolSpecification", {})
        if not auto.get("keepAlive"):
            pool_deletion.end_auto_pool(self._service, schedule.private.get("autoPool", ""))


def next_run(schedule: Row, now: datetime) -> datetime | None:
    """The time of the schedule's next job; None if there is none.

    A missed recurrence is skipped, as is one whose start window has passed.
    """
    rule = schedule.document.get("schedule", {})
    planned = schedule.document["executionInfo"].get("nextRunTime")
    if planned is None and schedule.private.get("jobs"):
        return None
    due = parse_timestamp(planned or rule.get("doNotRunUntil", schedule.document["creationTime"]))
    interval = parse_duration(rule["recurrenceInterval"]) if "recurrenceInterval" in rule else None
    if interval and due < now:
        due += (now - due) // interval * interval
    if "startWindow" not in rule or now <= after(due, parse_duration(rule["startWindow"])):
        return due
    return after(due, interval) if interval else None
