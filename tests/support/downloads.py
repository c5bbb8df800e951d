"""A run whose outputs are in its container, for the tests of step 7."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
from azure.core.pipeline.transport import HttpTransport
from azure.storage.blob import ContainerClient
from prefect.logging import disable_run_logger

from tasks.accounts.clients import Azure
from tasks.containers import create_containers
from tasks.errors import RunError
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.events import RunEvents
from tasks.run.identity import Role, Run
from tasks.run.results import Results
from tasks.run.uploads import UploadedFile, Uploads

NAMES = ("a.txt", "b.txt", "c.txt")


def parse(file: str, path: Path) -> None:
    if not path.read_text().startswith("output of "):
        raise RunError(f"{path} is no output")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, duration: None)
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
            container.upload_blob(file(name).output_name, f"output of {name}")
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
    return set(json.loads(results.path(".done.json").read_text()))
