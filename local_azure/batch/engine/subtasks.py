"""The subtasks of a multi-instance task as clients see them, and the directories of a task on its nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from local_azure.batch.engine.service import Service
from local_azure.batch.node.work import Result, task_ended
from local_azure.batch.state.states import SUBTASK
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import timestamp

_KEY = "subtasks"  # of a task's private data: from when it started last


def begin(service: Service, task: Row, nodes: list[Document]) -> None:
    """Note that the task runs on these nodes too; nodeInfo of each subtask. The caller saves the task."""
    task.private[_KEY] = [{"id": number, "nodeInfo": info} for number, info in enumerate(nodes, 1)]
    for subtask in task.private[_KEY]:
        SUBTASK.enter(subtask, "preparing", service.now())


def of(task: Row) -> list[Document]:
    return list(task.private.get(_KEY, ()))


def record(service: Service, task: Row, results: Mapping[int, Result | None]) -> None:
    """Note that these subtasks run, where they have no result yet, or have ended. The caller saves the task."""
    now = service.now()
    for subtask in of(task):
        if subtask["id"] not in results or subtask["state"] == "completed":
            continue
        result = results[subtask["id"]]
        SUBTASK.enter(subtask, "running" if result is None else "completed", now)
        subtask.update({"startTime": timestamp(now)} if result is None else _ended(result, timestamp(now)))


def _ended(result: Result, time: str) -> dict[str, Any]:
    failure = task_ended("The task was ended.") if result.interrupted else result.failure
    return {
        "endTime": time,
        "result": "failure" if failure else "success",
        **({"exitCode": result.exit_code} if result.exit_code is not None else {}),
        **({"failureInfo": failure} if failure else {}),
    }


def close(service: Service, task: Row) -> None:
    """Note that no subtask runs any more. The caller saves the task."""
    record(service, task, {subtask["id"]: Result(interrupted=True) for subtask in of(task)})


def directories(service: Service, task: Row) -> Iterator[Path]:
    """The directories of the task on all of its nodes."""
    if info := task.document.get("nodeInfo"):
        yield _on_node(service, info, info["taskRootDirectory"])
    for subtask in of(task):
        info = subtask["nodeInfo"]
        yield _on_node(service, info, PurePosixPath(info["taskRootDirectory"]).parent)


def _on_node(service: Service, info: Document, directory: str | PurePosixPath) -> Path:
    return service.node_directory(info["poolId"].lower(), info["nodeId"].lower()) / directory
