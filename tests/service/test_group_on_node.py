"""A Batch task with a group of files on a node of the service: it runs again after its end, and is terminated."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.batch import BatchClient
from azure.batch import models as m

import run_file
from tasks.run.records import FileRecord
from tests.support.batch_service import create_job, create_pool, task, wait_for, wait_for_task
from tests.support.blob_server import SAS, BlobServer, serving

SCRIPT = """\
import os, signal
def process_file(arguments):
    name = os.environ["INPUT_NAME"]
    with open(os.environ["LOG"], "a") as log:
        log.write(name)
    if name == os.environ.get("KILLS"):
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    if name == os.environ.get("WAITS"):
        signal.pause()
"""


@pytest.fixture
def storage() -> Iterator[BlobServer]:
    with serving() as server:
        yield server


def add(client: BatchClient, storage: BlobServer, folder: Path, retries: int = 0, **more: str) -> Path:
    """A Batch task with the files a, b and c; returns where its script notes which it has begun."""
    md5 = hashlib.md5(b"").hexdigest()
    files = [{"name": name, "size": 0, "md5": md5, "prefix": f"outputs/{name}"} for name in "abc"]
    (folder / "bundle").write_text(json.dumps({"files": files}) + "\n")
    (folder / "script.py").write_text(SCRIPT)
    values = {
        "PATH": os.environ["PATH"],
        "LOG": str(folder / "log"),
        "GROUP_FILE": str(folder / "bundle"),
        "GROUP_MEMBERS": "0-2",
        "OUTPUT_URL": f"{storage.endpoint}/out",
        "OUTPUT_SAS_TOKEN": SAS,
        "RECORD_URL": f"{storage.endpoint}/out/groups/g",
        "RECORD_SAS_TOKEN": SAS,
        **more,
    }
    settings = [m.EnvironmentSetting(name=name, value=value) for name, value in values.items()]
    create_pool(client)
    create_job(client)
    command = f"{sys.executable} {run_file.__file__} {folder / 'script.py'}"
    limits = m.BatchTaskConstraints(max_task_retry_count=retries)
    client.create_task("job", task("task", command, environment_settings=settings, constraints=limits))
    return folder / "log"


def outcomes(storage: BlobServer) -> list[tuple[str, int]]:
    records = [each for body in storage.blobs.values() for each in FileRecord.parse_list(body)]
    return [(each.name, each.record.exit_code) for each in records]


def test_a_file_that_ends_its_batch_task_takes_no_other_along(
    client: BatchClient, storage: BlobServer, tmp_path: Path
) -> None:
    log = add(client, storage, tmp_path, retries=2, KILLS="b")
    info = wait_for_task(client).execution_info
    assert (info.exit_code, info.retry_count) == (137, 2)
    assert log.read_text() == "abcb"
    assert outcomes(storage) == [("a", 0), ("c", 0), ("b", 137)]


def test_a_batch_task_that_is_terminated_stores_what_is_done(
    client: BatchClient, storage: BlobServer, tmp_path: Path
) -> None:
    log = add(client, storage, tmp_path, WAITS="b")
    wait_for(lambda: log.exists() and log.read_text() == "ab")
    client.terminate_task("job", "task")
    wait_for_task(client)
    wait_for(lambda: storage.blobs)
    assert outcomes(storage) == [("a", 0)]
