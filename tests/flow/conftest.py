"""What the tests of runs in trouble share: a local Azure that makes faults, and a run whose traces are removed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from flows import top_words as flow_module
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.monitor import monitor_tasks
from tasks.resources.leftovers import list_in_batch, list_in_storage
from tasks.resources.resource import Found
from tasks.run.identity import Run
from tasks.run.polling import Pace
from tests.conftest import DATA
from tests.flow.test_steps import job_and_pool_ids, new_run, wait_until


@contextmanager
def azure_with_faults(folder: Path) -> Iterator[dict[str, str]]:
    """The settings of a local Azure that makes faults on demand, and lives as long as the context."""
    arguments = ["--faults", "--batch-port=0", "--blob-port=0", "--until-stdin-closes"]
    with subprocess.Popen(
        [sys.executable, "-m", "local_azure", *arguments],
        cwd=DATA.parent,
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        yield dict(process.stdout.readline().rstrip("\n").split("=", 1) for _ in range(5))


def accounts_of(settings: dict[str, str], environment: pytest.MonkeyPatch) -> Azure:
    """The accounts, also set in the environment."""
    for name, value in settings.items():
        environment.setenv(name, value)
    azure = Azure.from_environment(settings)
    assert azure is not None
    return azure


@pytest.fixture(scope="session")
def troubled_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with azure_with_faults(tmp_path_factory.mktemp("troubled")) as settings:
        yield settings


@pytest.fixture
def troubled(no_azure: None, troubled_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """An Azure on which a test may ask for faults; afterwards there are none, and all takes its usual time."""
    azure = accounts_of(troubled_settings, monkeypatch)
    yield azure
    faults.ask("reset", {})


@pytest.fixture
def troubled_run(troubled: Azure) -> Iterator[Run]:
    """A run of the test's own, of which nothing is left after it."""
    run = new_run()
    yield run
    clear(troubled, run.name)


def clear(azure: Azure, name: str) -> None:
    """Delete what there is of that name, and wait until it is gone, also where it is being deleted already."""
    with azure.batch() as batch, azure.blobs() as blobs:
        for delete in (batch.begin_delete_job, batch.begin_delete_pool):
            with suppress(ResourceNotFoundError, ResourceExistsError):
                delete(name)
        for container in blobs.list_containers(name_starts_with=name):
            blobs.delete_container(container.name)
        wait_until(lambda: name not in job_and_pool_ids(batch))


def list_leftovers(azure: Azure) -> list[Found]:
    """All that runs have left in both accounts."""
    return list_in_batch(azure) + list_in_storage(azure)


def monitor_at(environment: pytest.MonkeyPatch, pace: Pace) -> None:
    """Let the flow's monitoring look at that pace."""
    environment.setattr(flow_module, "monitor_tasks", partial(monitor_tasks, pace=pace))


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """What Prefect's loggers write while the context lasts: caplog for fixtures that outlive a test."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("prefect")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
