"""Operations on jobs."""

from __future__ import annotations

from local_azure.batch.engine import job_tasks, lifecycle, task_ends
from local_azure.batch.engine.attempts import Stop
from local_azure.batch.engine.job_creation import add_job, check_quota
from local_azure.batch.engine.job_specs import check_numbers, check_pool, constraints, with_defaults
from local_azure.batch.engine.service import Service
from local_azure.batch.rest.call import Call, Listing, Response, created, done, element, require_conditions
from local_azure.batch.rest.odata import Kind, Properties, one_of
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.states import JOB
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import check_id

_STATES = one_of(*JOB.transitions)
FILTERABLE: Properties = {
    "id": Kind.TEXT,
    "displayName": Kind.TEXT,
    "state": _STATES,
    "stateTransitionTime": Kind.TIME,
    "previousState": _STATES,
    "previousStateTransitionTime": Kind.TIME,
    "creationTime": Kind.TIME,
    "lastModified": Kind.TIME,
    "priority": Kind.NUMBER,
    "onAllTasksComplete": one_of("noaction", "terminatejob"),
    "onTaskFailure": one_of("noaction", "performexitoptionsjobaction"),
    "usesTaskDependencies": Kind.FLAG,
    "executionInfo/poolId": Kind.TEXT,
    "executionInfo/startTime": Kind.TIME,
    "executionInfo/endTime": Kind.TIME,
    "executionInfo/terminateReason": Kind.TEXT,
    "executionInfo/schedulingError/category": one_of("UserError", "ServerError"),
    "executionInfo/schedulingError/code": Kind.TEXT,
}


def show(call: Call, row: Row) -> Document:
    return {**row.document, "url": call.url("jobs", row.document["id"])}


def create_job(service: Service, call: Call) -> Response:
    body = call.body("BatchJobCreateOptions")
    check_id("id", body["id"])
    if service.store.jobs.get(body["id"].lower()) is None:
        check_quota(service)
    document = add_job(service, body["id"], with_defaults(body)).document
    return created(call, document, "jobs", document["id"])


def list_jobs(service: Service, call: Call) -> Response:
    listing = Listing(kind="jobs", filterable=FILTERABLE, show=lambda row: show(call, row), model="BatchJob")
    return listing.respond(call, lambda after: service.store.jobs.page((), after))


def get_job(service: Service, call: Call) -> Response:
    row = service.job(call.ids["jobId"])
    require_conditions(call, row.document)
    return element(call, "jobs", show(call, row), "BatchJob")


def _changeable(service: Service, call: Call) -> Row:
    row = service.job(call.ids["jobId"])
    require_conditions(call, row.document)
    if row.document["state"] == "deleting":
        raise BatchError(Code.JobBeingDeleted)
    return row


def _save(service: Service, call: Call, row: Row, status: int) -> Response:
    service.touch(row.document)
    service.store.jobs.save(row)
    service.reconciler.wake("job", row.id)
    if pool := row.document["executionInfo"].get("poolId"):
        service.reconciler.wake("assign", pool.lower())
    return done(call, status, row.document)


def _updatable(service: Service, call: Call) -> Row:
    row = _changeable(service, call)
    state = row.document["state"]
    if state in ("terminating", "completed"):
        raise BatchError(Code.JobBeingTerminated if state == "terminating" else Code.JobCompleted)
    return row


def update_job(service: Service, call: Call) -> Response:
    patch = call.body("BatchJobUpdateOptions")
    check_numbers(patch)
    return _change(service, call, _updatable(service, call), patch)


def replace_job(service: Service, call: Call) -> Response:
    """Replace the job's properties: omitted ones get their defaults; the pool is required."""
    body = call.body("BatchJob")
    check_numbers(body)
    defaults = with_defaults({"poolInfo": body["poolInfo"]})
    row = _updatable(service, call)
    for name in ("priority", "maxParallelTasks", "allowTaskPreemption", "onAllTasksComplete", "constraints"):
        body.setdefault(name, defaults[name])
    row.document.pop("metadata", None)
    return _change(service, call, row, body)


def _change(service: Service, call: Call, row: Row, changes: Document) -> Response:
    document = row.document
    if (document["onAllTasksComplete"], changes.get("onAllTasksComplete")) == ("terminatejob", "noaction"):
        reason = "terminatejob cannot be changed back to noaction"
        raise invalid_property("onAllTasksComplete", "noaction", reason)
    if "constraints" in changes:  # replaced as a whole, also by PATCH
        changes["constraints"] = constraints(changes["constraints"])
    if "poolInfo" in changes and changes["poolInfo"] != document["poolInfo"]:
        check_pool(changes["poolInfo"])
        _change_pool(service, row, changes["poolInfo"])
    document.update(changes)
    return _save(service, call, row, 200)


def _change_pool(service: Service, row: Row, pool_info: Document) -> None:
    """Move the job to another pool, only while it is disabled, so that none of its tasks runs in the old one."""
    if row.document["state"] != "disabled":
        raise BatchError(
            Code.OperationInvalidForCurrentState, "The pool can be changed only while the job is disabled."
        )
    if "poolId" in pool_info:
        row.document["executionInfo"]["poolId"] = pool_info["poolId"]


def delete_job(service: Service, call: Call) -> Response:
    lifecycle.begin_deletion(service, _changeable(service, call))
    return Response(status=202)


def terminate_job(service: Service, call: Call) -> Response:
    body = call.optional_body("BatchJobTerminateOptions")
    row = _updatable(service, call)
    lifecycle.terminate(service, row, body.get("terminateReason", "UserTerminate"))
    return _save(service, call, row, 202)


_DISABLING = {"requeue": Stop.REQUEUE, "terminate": Stop.TERMINATE}


def disable_job(service: Service, call: Call) -> Response:
    body = call.body("BatchJobDisableOptions")
    row = _updatable(service, call)
    if row.document["state"] == "enabling":
        raise BatchError(Code.OperationInvalidForCurrentState, "The job is being enabled.")
    task_ends.disable(service, row, _DISABLING.get(body["disableTasks"]))
    return _save(service, call, row, 202)


def enable_job(service: Service, call: Call) -> Response:
    row = _updatable(service, call)
    state = row.document["state"]
    if state == "disabling":
        raise BatchError(Code.OperationInvalidForCurrentState, "The job is being disabled.")
    if state == "disabled":
        JOB.enter(row.document, "enabling", service.now())
    return _save(service, call, row, 202)


def list_job_preparation_and_release_task_status(service: Service, call: Call) -> Response:
    job = service.job(call.ids["jobId"])
    if "jobPreparationTask" not in job.document:
        raise BatchError(Code.JobPreparationTaskOrReleaseTaskNotSpecified)

    def show_status(row: Row) -> Document:
        node_url = call.url("pools", row.document["poolId"], "nodes", row.document["nodeId"])
        document = {**row.document, "nodeUrl": node_url}
        for name in document.keys() & {job_tasks.PREPARATION, job_tasks.RELEASE}:
            directory = f"{node_url}/files/{document[name]['taskRootDirectory']}"
            document[name] = {**document[name], "taskRootDirectoryUrl": directory}
        return document

    listing = Listing(
        kind="jobpreparationandreleasetaskstatuslist",
        filterable={"nodeId": Kind.TEXT, "poolId": Kind.TEXT},
        show=show_status,
        model="BatchJobPreparationAndReleaseTaskStatus",
    )
    return listing.respond(call, lambda after: service.store.job_nodes.page((job.id,), after))


def get_job_task_counts(service: Service, call: Call) -> Response:
    row = service.job(call.ids["jobId"])
    names = ("active", "running", "completed", "succeeded", "failed")
    tasks, slots = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    if service.faults.take_task_counts():
        return Response(document={"taskCounts": tasks, "taskSlotCounts": slots}, kind="taskcountsresult/@Element")
    found = service.store.execute("SELECT state, result, tasks, slots FROM task_counts WHERE job = ?", row.id)
    for state, result, count, slot_count in found:
        # A task that is waiting for its job's preparation counts as running.
        counted = ["running" if state == "preparing" else state]
        counted += {"success": ["succeeded"], "failure": ["failed"]}.get(result, []) if state == "completed" else []
        for name in counted:
            tasks[name] += count
            slots[name] += slot_count
    return Response(document={"taskCounts": tasks, "taskSlotCounts": slots}, kind="taskcountsresult/@Element")
