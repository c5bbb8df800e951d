"""Examples in the form of the specification are compared with the answers of the service, which has what they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.batch_service import RunningService
from tests.support.example_seeds import Refused, Seeds
from tests.support.examples import Example, differences, read
from tests.support.raw_requests import VERSION, Raw
from tests.support.replay import sender

TASK = {"id": "task", "state": "completed", "commandLine": "cmd /c x", "executionInfo": {"exitCode": 3}}
PARAMETERS = ("jobId", "taskId", "poolId", "nodeId", "filePath", "userName")


def example(
    folder: Path, method: str, path: str, response: Any = None, status: int = 200, body: Any = None, **ids: str
) -> Example:
    """The example, read from a specification that has no other."""
    (folder / "examples").mkdir()
    given = {"api-version": VERSION, **ids, **({} if body is None else {"body": body})}
    answer = {} if response is None else {"body": response}
    text = json.dumps({"parameters": given, "responses": {str(status): answer}})
    (folder / "examples" / "one.json").write_text(text, encoding="utf-8")
    declared = [{"name": name, "in": "path"} for name in PARAMETERS] + [{"name": "body", "in": "body"}]
    operation = {"parameters": declared, "x-ms-examples": {"One": {"$ref": "./examples/one.json"}}}
    specification = {"paths": {path: {method.lower(): operation}}}
    (folder / "BatchService.json").write_text(json.dumps(specification), encoding="utf-8")
    (found,) = read(folder)
    return found


def compared(service: RunningService, found: Example) -> list[str]:
    seeds = Seeds(Raw(service), found)
    seeds.plant()
    return differences(found, sender(service)(found.exchange(seeds.ids, seeds.body)))


def test_a_task_has_run_as_the_example_shows_it(service: RunningService, tmp_path: Path) -> None:
    found = example(tmp_path, "GET", "/jobs/{jobId}/tasks/{taskId}", TASK, jobId="job", taskId="task")
    assert (found.operation, found.status) == ("get_task", 200)
    assert compared(service, found) == []


def test_a_missing_property_and_another_type_are_named(service: RunningService, tmp_path: Path) -> None:
    shown = {**TASK, "stats": {}, "executionInfo": {"exitCode": "3"}}
    found = example(tmp_path, "GET", "/jobs/{jobId}/tasks/{taskId}", shown, jobId="job", taskId="task")
    assert compared(service, found) == ["without stats (object)", "executionInfo.exitCode is number, example text"]


def test_another_status_is_named_with_its_code(service: RunningService, tmp_path: Path) -> None:
    found = example(tmp_path, "PATCH", "/jobs/{jobId}", status=200, body={"priority": 1001}, jobId="job")
    assert compared(service, found) == ["status 400, example 200 (OutOfRangePriority)"]


def test_a_file_of_a_node_is_one_of_a_task_that_has_run(service: RunningService, tmp_path: Path) -> None:
    path = "/pools/{poolId}/nodes/{nodeId}/files/{filePath}"
    file = "workitems\\jobId\\job-1\\task1\\wd\\testFile.txt"
    found = example(tmp_path, "HEAD", path, poolId="pool", nodeId="tvm-1", filePath=file)
    assert compared(service, found) == []


def test_a_time_that_has_passed_is_a_later_one(service: RunningService, tmp_path: Path) -> None:
    body = {"name": "user", "password": "secret", "expiryTime": "2017-08-01T00:00:00Z"}
    found = example(
        tmp_path, "POST", "/pools/{poolId}/nodes/{nodeId}/users", status=201, body=body, poolId="pool", nodeId="tvm-1"
    )
    assert compared(service, found) == []


def test_a_node_that_is_started_was_deallocated(service: RunningService, tmp_path: Path) -> None:
    path = "/pools/{poolId}/nodes/{nodeId}/start"
    found = example(tmp_path, "POST", path, status=202, poolId="pool", nodeId="tvm-1")
    assert compared(service, found) == []


def test_an_example_without_an_id_cannot_be_sent(service: RunningService, tmp_path: Path) -> None:
    found = example(tmp_path, "PATCH", "/pools/{poolId}", body={"metadata": []})
    with pytest.raises(Refused, match="the example has no poolId"):
        compared(service, found)


def test_what_cannot_be_created_is_named(service: RunningService, tmp_path: Path) -> None:
    shown = {**TASK, "applicationPackageReferences": [{"applicationId": "app"}]}
    found = example(tmp_path, "GET", "/jobs/{jobId}/tasks/{taskId}", shown, jobId="job", taskId="task")
    with pytest.raises(Refused, match="409 InvalidApplicationPackageReferences"):
        compared(service, found)
