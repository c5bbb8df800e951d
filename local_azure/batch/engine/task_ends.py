"""Moves tasks whose process has ended to their next state; completes them and applies the consequences."""

from __future__ import annotations

from local_azure.batch.engine import attempts, dependencies, lifecycle
from local_azure.batch.engine.attempts import Attempt, Stop
from local_azure.batch.engine.exit_conditions import consequence
from local_azure.batch.engine.service import Service
from local_azure.batch.node.work import Result, task_ended
from local_azure.batch.state.states import TASK
from local_azure.batch.state.store import Row
from local_azure.batch.state.wire import UNLIMITED, after, parse_duration, timestamp

SUPERVISORS_LOST = 3  # per task; one more fails the task, which otherwise could run for ever by killing its supervisors


def advance(service: Service, attempt: Attempt, task: Row, result: Result) -> bool:
    """Move a task whose process has ended to its next state; returns True if the task is completed. Saves the task."""
    now = service.now()
    info = task.document["executionInfo"]
    lost = result.supervisor_lost and attempt.stop is None and _may_lose_supervisor(task)
    if lost or (result.interrupted and attempt.stop is not Stop.TERMINATE):
        if lost or attempt.stop is Stop.REQUEUE:
            info["requeueCount"] += 1
            info["lastRequeueTime"] = timestamp(now)
        _reactivate(service, task)
        return False
    retries = task.document["constraints"]["maxTaskRetryCount"]
    if result.may_be_retried and (retries == -1 or info["retryCount"] < retries) and attempt.stop is None:
        info["retryCount"] += 1
        info["lastRetryTime"] = timestamp(now)
        _reactivate(service, task)
        return False
    if result.interrupted:
        result = Result(exit_code=result.exit_code, failure=task_ended("The task was ended by a user's request."))
    complete(service, task, result)
    return True


def _may_lose_supervisor(task: Row) -> bool:
    """Count a killed supervisor; returns True if the task may run again. The caller saves the task."""
    lost = int(task.private.get("supervisorsLost", 0)) + 1
    task.private["supervisorsLost"] = lost
    return lost <= SUPERVISORS_LOST


def _reactivate(service: Service, task: Row) -> None:
    TASK.enter(task.document, "active", service.now())
    task.document.pop("nodeInfo", None)
    task.document["executionInfo"].pop("startTime", None)
    service.store.tasks.save(task)


def complete(service: Service, task: Row, result: Result) -> None:
    """Complete the task and apply the consequences. Saves the task.

    A task that never ran, because a client terminated it, ends its job only where its exit conditions say so.
    """
    now = service.now()
    TASK.enter(task.document, "completed", now)
    info = task.document["executionInfo"]
    info["endTime"] = timestamp(now)
    if result.exit_code is not None:
        info["exitCode"] = result.exit_code
    info["result"] = "success" if result.succeeded else "failure"
    if result.failure:
        info["failureInfo"] = result.failure
    if "nodeInfo" in task.document:
        retention = parse_duration(task.document["constraints"]["retentionTime"])
        task.extra["expires"] = None
        if retention < UNLIMITED:
            expires = after(now, retention)
            task.extra["expires"] = timestamp(expires)
            service.reconciler.wake_at(expires, "retention")
    follows = consequence(task.document.get("exitConditions"), result)
    task.extra["satisfies"] = int(follows.satisfies)
    service.store.tasks.save(task)
    if follows.satisfies:
        dependencies.satisfy(service, task)
    ran = "startTime" in info
    _act_on_job(service, task, follows.job_action if ran or task.document.get("exitConditions") else "none")


def _act_on_job(service: Service, task: Row, action: str) -> None:
    job = service.job(task.keys[0])
    if job.document["state"] not in ("active", "disabling", "disabled", "enabling"):
        return
    if task.private.get("killsJob"):
        lifecycle.terminate(service, job, "JMComplete")
    elif job.document["onTaskFailure"] != "performexitoptionsjobaction":
        return
    elif action == "terminate":
        lifecycle.terminate(service, job, "TaskFailed")
    elif action == "disable" and job.document["state"] == "active":
        disable(service, job, Stop.REQUEUE)


def disable(service: Service, job: Row, stop: Stop | None) -> None:
    """Start no more tasks of the job; running ones are stopped, or with None awaited. Saves the job."""
    lifecycle.change_state(service, job, "disabling")
    service.store.jobs.save(job)
    for attempt in attempts.of_job(service, job.id) if stop else ():
        attempts.stop(service, attempt, stop or Stop.REQUEUE)
    service.reconciler.wake("job", job.id)
