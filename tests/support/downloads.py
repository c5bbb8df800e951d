"""A run whose outputs are in its container, for the tests of step 7."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from azure.core.pipeline.transport import HttpTransport
from azure.storage.blob import ContainerClient
from prefect.logging import disable_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.whole_blobs import WholeBlobs
from tasks.containers import create_containers
from tasks.errors import RunError
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.events import RunEvents
from tasks.run.identity import Role, Run
from tasks.run.records import Output, Record, quoted, record_blob
from tasks.run.results import Results
from tasks.run.uploads import UploadedFile, Uploads

NAMES = ("a.txt", "b.txt", "c.txt")
GROUP = "task-0"


def parse(file: str, folder: Path) -> None:
    (path,) = folder.iterdir()
    if not path.read_text().startswith("output of "):
        raise RunError(f"{path} is no output")


def output_blob(name: str) -> str:
    return f"outputs/{name}/{output_name(name)}"


def output_name(name: str) -> str:
    return f"{Path(name).stem}_OUTPUT.txt"


def store(container: ContainerClient, name: str, text: str) -> None:
    """The one output of the file, and the record of it, as a Batch task leaves them."""
    data = text.encode()
    output = Output(path=output_name(name), blob=output_blob(name), size=len(data), md5=hashlib.md5(data).digest())
    container.upload_blob(output_blob(name), data, overwrite=True)
    container.upload_blob(record_blob(name), json.dumps(record_of(name, Record(outputs=[output]))), overwrite=True)


def record_of(name: str, record: Record, data: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """What run_file.py writes of a file; `data` is what outputs have in the record itself, by their paths."""
    values = record.as_values()
    for output in values["outputs"]:
        if output["path"] in (data or {}):
            output["data"] = (data or {})[output["path"]]
    began = "2026-01-02T03:04:05.000+00:00"
    return {"name": quoted(name), "input": {"size": 1, "md5": "", "etag": ""}, "began": began, **values, **more}


def success(name: str, text: str | None = None, **more: Any) -> dict[str, Any]:
    """A record with the output in itself."""
    data = (f"output of {name}" if text is None else text).encode()
    output = Output(path=output_name(name), blob="", size=len(data), md5=hashlib.md5(data).digest())
    record = Record(outputs=[output], node="n1", task=GROUP, seconds=0.5)
    return record_of(name, record, {output.path: base64.b64encode(data).decode()}, **more)


def failure(name: str, **more: Any) -> dict[str, Any]:
    record = Record(outputs=(), exit_code=3, node="n1", task=GROUP, seconds=0.25, stdout=9, stderr=14)
    return record_of(name, record, problem="", stdout_end="so far", stderr_end="PUT ?sig=abc&x", **more)


def put(container: ContainerClient, number: int, *records: dict[str, Any], group: str = GROUP) -> None:
    container.upload_blob(f"groups/{group}/{number:05}.json", json.dumps(records), overwrite=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, duration: None)
    monkeypatch.setattr(WholeBlobs, "sleep", lambda self, seconds: None)
    monkeypatch.setattr(TaskBoard, "_show", lambda *given: None)
    monkeypatch.setattr(RunEvents, "emit", lambda *given: None)
    with disable_run_logger():
        yield


@pytest.fixture
def run() -> Run:
    return Run(
        workload="top-words", flow_run_id=str(uuid4()), started=datetime.now(timezone.utc), lifetime=timedelta(hours=1)
    )


@pytest.fixture
def container(azure: Azure, run: Run) -> Iterator[ContainerClient]:
    """The run's output container, with the outputs of all files."""
    with azure.blobs() as blobs:
        create_containers.fn(azure, run)
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        for name in NAMES:
            store(container, name, f"output of {name}")
        yield container
        for role in Role:
            blobs.delete_container(run.container(role))


def file(name: str) -> UploadedFile:
    return UploadedFile(
        name=name,
        size=1,
        task_id=f"task-{name[0]}",
        md5=hashlib.md5(name.encode()).hexdigest(),
        modified=datetime.now(timezone.utc),
        container="input",
        sas_url="",
    )


UPLOADS = Uploads(application=[file("s.txt")], inputs=[file(name) for name in NAMES])


def remembered(results: Results) -> set[str]:
    return set(json.loads((results.folder / ".done.json").read_text()))
