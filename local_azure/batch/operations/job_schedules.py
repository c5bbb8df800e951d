"""Operations on job schedules."""

from __future__ import annotations

from datetime import datetime, timedelta

from local_azure.batch.engine import job_specs
from local_azure.batch.engine.job_creation import check_quota
from local_azure.batch.engine.service import Service
from local_azure.batch.operations import jobs
from local_azure.batch.rest.call import Call, Listing, Response, created, done, element, require_conditions
from local_azure.batch.rest.odata import Kind, Properties, one_of
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.states import SCHEDULE
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import check_id, parse_duration, parse_timestamp, timestamp

MINIMUM_INTERVAL = timedelta(minutes=1)

_FILTERABLE: Properties = {
    "id": Kind.TEXT,
    "displayName": Kind.TEXT,
    "state": one_of(*SCHEDULE.transitions),
    "stateTransitionTime": Kind.TIME,
    "previousState": one_of(*SCHEDULE.transitions),
    "creationTime": Kind.TIME,
    "lastModified": Kind.TIME,
}


def show(call: Call, row: Row) -> Document:
    info = row.document["executionInfo"]
    if recent := info.get("recentJob"):
        info = {**info, "recentJob": {**recent, "url": call.url("jobs", recent["id"])}}
    return {**row.document, "executionInfo": info, "url": call.url("jobschedules", row.document["id"])}


def create_job_schedule(service: Service, call: Call) -> Response:
    body = call.body("BatchJobScheduleCreateOptions")
    check_id("id", body["id"])
    body = _checked(service, body)
    if service.store.schedules.get(body["id"].lower()):
        raise BatchError(Code.JobScheduleExists)
    if service.store.jobs.get(body["id"].lower()):
        raise BatchError(Code.JobWithSameIdExists)
    check_quota(service)
    now = service.now()
    document = {**body, "creationTime": timestamp(now), "executionInfo": {}}
    service.touch(document)
    SCHEDULE.enter(document, "active", now)
    row = Row(keys=(body["id"].lower(),), document=document)
    _plan(row, now)
    service.store.schedules.add(row)
    service.reconciler.wake("schedule", row.id)
    return created(call, document, "jobschedules", document["id"])


def _check_rule(service: Service, rule: Document) -> None:
    for name in ("recurrenceInterval", "startWindow"):
        if name in rule and parse_duration(rule[name]) < MINIMUM_INTERVAL:
            raise invalid_property(f"schedule.{name}", rule[name], "it must be at least one minute")
    if "doNotRunAfter" in rule and parse_timestamp(rule["doNotRunAfter"]) <= service.now():
        raise invalid_property("schedule.doNotRunAfter", rule["doNotRunAfter"], "it has passed")


def _plan(row: Row, now: datetime) -> None:
    """Plan the next job: the first one now, or at the schedule's doNotRunUntil; a later one only if jobs recur."""
    rule = row.document.get("schedule", {})
    start = parse_timestamp(rule.get("doNotRunUntil", row.document["creationTime"]))
    if row.private.get("jobs") and start <= now:
        if "recurrenceInterval" not in rule:
            row.document["executionInfo"].pop("nextRunTime", None)
            return
        interval = parse_duration(rule["recurrenceInterval"])
        start += ((now - start) // interval + 1) * interval
    row.document["executionInfo"]["nextRunTime"] = timestamp(start)


def list_job_schedules(service: Service, call: Call) -> Response:
    listing = Listing(
        kind="jobschedules", filterable=_FILTERABLE, show=lambda row: show(call, row), model="BatchJobSchedule"
    )
    return listing.respond(call, lambda after: service.store.schedules.page((), after))


def get_job_schedule(service: Service, call: Call) -> Response:
    row = service.schedule(call.ids["jobScheduleId"])
    require_conditions(call, row.document)
    return element(call, "jobschedules", show(call, row), "BatchJobSchedule")


def job_schedule_exists(service: Service, call: Call) -> Response:
    row = service.schedule(call.ids["jobScheduleId"])
    require_conditions(call, row.document)
    return done(call, 200, row.document)


def list_jobs_from_schedule(service: Service, call: Call) -> Response:
    schedule = service.schedule(call.ids["jobScheduleId"])
    listing = Listing(kind="jobs", filterable=jobs.FILTERABLE, show=lambda row: jobs.show(call, row), model="BatchJob")
    condition = "schedule = ? AND id > ? ORDER BY id"
    return listing.respond(call, lambda after: service.store.jobs.where(condition, schedule.id, after))


def _changeable(service: Service, call: Call, *refused: str) -> Row:
    row = service.schedule(call.ids["jobScheduleId"])
    require_conditions(call, row.document)
    codes = {
        "deleting": Code.JobScheduleBeingDeleted,
        "terminating": Code.JobScheduleBeingTerminated,
        "completed": Code.JobScheduleCompleted,
    }
    if row.document["state"] in refused:
        raise BatchError(codes[row.document["state"]])
    return row


def _save(service: Service, call: Call, row: Row, status: int) -> Response:
    service.touch(row.document)
    service.store.schedules.save(row)
    service.reconciler.wake("schedule", row.id)
    return done(call, status, row.document)


def update_job_schedule(service: Service, call: Call) -> Response:
    patch = _checked(service, call.body("BatchJobScheduleUpdateOptions"))
    row = _changeable(service, call, "deleting", "terminating", "completed")
    return _change(service, call, row, patch)


def replace_job_schedule(service: Service, call: Call) -> Response:
    body = _checked(service, call.body("BatchJobSchedule"))
    row = _changeable(service, call, "deleting", "terminating", "completed")
    row.document.pop("metadata", None)
    return _change(service, call, row, {"schedule": {}, **body})


def _checked(service: Service, changes: Document) -> Document:
    """The changes, completed. Raises BatchError if they are invalid."""
    if "schedule" in changes:
        _check_rule(service, changes["schedule"])
    if "jobSpecification" in changes:
        changes["jobSpecification"] = job_specs.with_defaults(changes["jobSpecification"], scheduled=True)
    return changes


def _change(service: Service, call: Call, row: Row, changes: Document) -> Response:
    """Apply changes to future jobs; an active job is not changed."""
    row.document.update(changes)
    if "schedule" in changes:
        _plan(row, service.now())
    return _save(service, call, row, 200)


def disable_job_schedule(service: Service, call: Call) -> Response:
    return _enter(service, call, "disabled", 204)


def enable_job_schedule(service: Service, call: Call) -> Response:
    return _enter(service, call, "active", 204)


def terminate_job_schedule(service: Service, call: Call) -> Response:
    return _enter(service, call, "terminating", 202)


def _enter(service: Service, call: Call, state: str, status: int) -> Response:
    row = _changeable(service, call, "deleting", "terminating", "completed")
    SCHEDULE.enter(row.document, state, service.now())
    return _save(service, call, row, status)


def delete_job_schedule(service: Service, call: Call) -> Response:
    row = _changeable(service, call, "deleting")
    SCHEDULE.enter(row.document, "deleting", service.now())
    _save(service, call, row, 202)
    return Response(status=202)
