"""Operations on tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from local_azure.batch.engine import attempts, subtasks, task_ends, task_specs
from local_azure.batch.engine.attempts import Stop
from local_azure.batch.engine.service import Service
from local_azure.batch.engine.task_creation import add_task
from local_azure.batch.node.work import Result, task_ended
from local_azure.batch.rest import odata, shapes
from local_azure.batch.rest.call import Call, Listing, Response, created, done, element, require_conditions
from local_azure.batch.rest.odata import Kind, Properties, one_of
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.states import TASK
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import segment, timestamp

MAXIMUM_COLLECTION = 100  # tasks in one request

# "Success" as in recorded answers of Azure; "ClientError" is inferred from it. azure-batch 15.1.0 recognises a failure
# in lower case only, as the API's specification has it: its create_tasks reports a refused task as a success.
ADDED, REFUSED = "Success", "ClientError"

_STATES = one_of(*TASK.transitions)
_FILTERABLE: Properties = {
    "id": Kind.TEXT,
    "displayName": Kind.TEXT,
    "state": _STATES,
    "stateTransitionTime": Kind.TIME,
    "previousState": _STATES,
    "previousStateTransitionTime": Kind.TIME,
    "creationTime": Kind.TIME,
    "lastModified": Kind.TIME,
    "executionInfo/exitCode": Kind.NUMBER,
    "executionInfo/startTime": Kind.TIME,
    "executionInfo/endTime": Kind.TIME,
    "executionInfo/retryCount": Kind.NUMBER,
    "executionInfo/requeueCount": Kind.NUMBER,
    "executionInfo/result": one_of("success", "failure"),
    "executionInfo/failureInfo/category": one_of("UserError", "ServerError"),
    "executionInfo/failureInfo/code": Kind.TEXT,
    "nodeInfo/poolId": Kind.TEXT,
    "nodeInfo/nodeId": Kind.TEXT,
}


_INDEXED = {"id": "id", "executionInfo/result": "result", "state": "state"}  # the most selective first


def _shows(call: Call, job: str) -> Callable[[Row], Document]:
    """The function that gives a task of the job the format of the API; `job` is the job's id as written."""
    tasks_url = call.url("jobs", job, "tasks")
    url_of_node = cache(lambda pool, node: call.url("pools", pool, "nodes", node))

    def show(row: Row) -> Document:
        document = {**row.document, "url": f"{tasks_url}/{segment(row.document['id'])}"}
        return _with_urls(document, url_of_node)

    return show


def _with_urls(document: Document, url_of_node: Callable[[str, str], str]) -> Document:
    """The task or subtask, with the URLs of its node and of its directory there if it has one."""
    info = document.get("nodeInfo")
    if not info:
        return document
    node_url = url_of_node(info["poolId"], info["nodeId"])
    directory = f"{node_url}/files/{info['taskRootDirectory']}"
    return {**document, "nodeInfo": {**info, "nodeUrl": node_url, "taskRootDirectoryUrl": directory}}


def _accepting_job(service: Service, call: Call) -> Row:
    job = service.job(call.ids["jobId"])
    state = job.document["state"]
    refusals = {
        "deleting": Code.JobBeingDeleted,
        "terminating": Code.JobBeingTerminated,
        "completed": Code.JobCompleted,
    }
    if state in refusals:
        raise BatchError(refusals[state])
    return job


def create_task(service: Service, call: Call) -> Response:
    body = call.body("BatchTaskCreateOptions")
    task_specs.check(body)
    job = _accepting_job(service, call)
    row = add_task(service, job, body)
    _wake(service, job)
    return created(call, row.document, "jobs", job.document["id"], "tasks", row.document["id"])


def create_task_collection(service: Service, call: Call) -> Response:
    body = call.json()
    items = body.get("value") if isinstance(body, dict) else None
    if not isinstance(items, list):
        raise BatchError(Code.MissingRequiredProperty, "The property is value.", PropertyName="value")
    if len(items) > MAXIMUM_COLLECTION:
        raise invalid_property("value", len(items), f"at most {MAXIMUM_COLLECTION} tasks can be added at once")
    job = _accepting_job(service, call)
    tasks_url = call.url("jobs", job.document["id"], "tasks")
    results = [_add_one(service, call, job, item, tasks_url) for item in items]
    _wake(service, job)
    return Response(document={"value": results}, kind="taskaddresult")


def _add_one(service: Service, call: Call, job: Row, item: Any, tasks_url: str) -> Document:
    """Add one task of a collection; returns its result. Each is added or refused independently."""
    task_id = str(item.get("id", "")) if isinstance(item, dict) else ""
    try:
        body = call.checked(item, "BatchTaskCreateOptions")
        task_specs.check(body)
        document = add_task(service, job, body).document
    except BatchError as error:
        reason = error.document(call.request_id, timestamp(service.now()))
        return {"status": _status(service, REFUSED), "taskId": task_id, "error": reason}
    return {
        "status": _status(service, ADDED),
        "taskId": document["id"],
        "eTag": document["eTag"],
        "lastModified": document["lastModified"],
        "location": f"{tasks_url}/{segment(document['id'])}",
    }


def _status(service: Service, status: str) -> str:
    return status if service.faults.capitalised_statuses else status.lower()


def _wake(service: Service, job: Row) -> None:
    service.reconciler.wake("assign", str(job.document["executionInfo"].get("poolId", "")).lower())
    service.reconciler.wake("job", job.id)


def list_tasks(service: Service, call: Call) -> Response:
    job = service.job(call.ids["jobId"])
    listing = Listing(
        kind="tasks",
        filterable=_FILTERABLE,
        indexed=_INDEXED,
        show=_shows(call, job.document["id"]),
        model="BatchTask",
    )
    return listing.respond(call, lambda after, *among: service.store.tasks.page((job.id,), after, *among))


def get_task(service: Service, call: Call) -> Response:
    job = service.job(call.ids["jobId"])
    row = service.task(job.id, call.ids["taskId"])
    require_conditions(call, row.document)
    return element(call, "tasks", _shows(call, job.document["id"])(row), "BatchTask")


def list_subtasks(service: Service, call: Call) -> Response:
    """The subtasks of a multi-instance task, from when it started last; an ordinary task has none."""
    task = service.task(call.ids["jobId"], call.ids["taskId"])
    shown: list[Document] = [
        _with_urls(each, lambda pool, node: call.url("pools", pool, "nodes", node)) for each in subtasks.of(task)
    ]
    if text := call.query.get("select"):
        names = odata.parse_select(text, shapes.names("BatchSubtask"))
        shown = [odata.select(each, names) for each in shown]
    return Response(document={"value": shown}, kind="subtasksinfo")


def _changeable(service: Service, call: Call) -> tuple[Row, Row]:
    job = service.job(call.ids["jobId"])
    row = service.task(job.id, call.ids["taskId"])
    require_conditions(call, row.document)
    if job.document["state"] == "deleting":
        raise BatchError(Code.JobBeingDeleted)
    return job, row


def _save(service: Service, call: Call, job: Row, row: Row, status: int) -> Response:
    service.touch(row.document)
    service.store.tasks.save(row)
    _wake(service, job)
    return done(call, status, row.document)


def replace_task(service: Service, call: Call) -> Response:
    """Replace the task's constraints; omitted ones get their defaults."""
    given = call.body("BatchTask").get("constraints", {})
    task_specs.check_constraints(given)
    job, row = _changeable(service, call)
    if row.document["state"] == "completed":
        raise BatchError(Code.TaskCompleted)
    row.document["constraints"] = task_specs.constraints(given, job.document)
    return _save(service, call, job, row, 200)


def delete_task(service: Service, call: Call) -> Response:
    job, row = _changeable(service, call)
    for attempt in attempts.where(service, "task = ?", row.seq):
        attempts.stop(service, attempt, Stop.DISCARD)
    for directory in subtasks.directories(service, row):
        service.discard(directory)
    service.store.tasks.remove(row)
    _wake(service, job)
    return Response(status=200)


def terminate_task(service: Service, call: Call) -> Response:
    job, row = _changeable(service, call)
    if row.document["state"] == "completed":
        raise BatchError(Code.TaskCompleted)
    running = attempts.where(service, "task = ?", row.seq)
    for attempt in running:
        attempts.stop(service, attempt, Stop.TERMINATE)
    if not running:
        task_ends.complete(service, row, Result(failure=task_ended("The task was terminated before it ran.")))
    return _save(service, call, job, row, 204)


def reactivate_task(service: Service, call: Call) -> Response:
    job, row = _changeable(service, call)
    if row.document["state"] != "completed":
        raise BatchError(Code.TaskNotCompleted)
    if row.document["executionInfo"]["result"] == "success":
        raise BatchError(Code.TaskSucceeded)
    if job.document["state"] in ("terminating", "completed"):
        raise BatchError(Code.JobCompleted)
    TASK.enter(row.document, "active", service.now())
    row.document["executionInfo"] = {
        "retryCount": 0,
        "requeueCount": row.document["executionInfo"]["requeueCount"],
    }
    row.document.pop("nodeInfo", None)
    row.private.pop("supervisorsLost", None)
    row.extra["expires"] = None
    return _save(service, call, job, row, 204)
