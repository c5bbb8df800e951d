"""Whole flow runs: their input files, changed Batch tasks, artifacts and logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch.models import BatchTaskCreateOptions
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State

import tasks.job
from tasks.resources.bulk import add_all
from tasks.run.previous_attempt import INPUT_NAME

Change = Callable[[BatchTaskCreateOptions], None]


def write_texts(folder: Path, names: Sequence[str]) -> list[str]:
    folder.mkdir()
    for name in names:
        (folder / f"{name}.txt").write_text(f"{name} {name} once")
    return [str(folder)]


def shell(script: str) -> Change:
    def change(task: BatchTaskCreateOptions) -> None:
        task.command_line = f"/bin/sh -c '{script}'"

    return change


def _as_it_is(task: BatchTaskCreateOptions) -> None:
    pass


def fates_of(environment: pytest.MonkeyPatch, changes: Mapping[str, Change]) -> None:
    """Change each Batch task before it is added to the job, as its file asks."""

    def add_changed(batch: BatchClient, job_id: str, added: Sequence[BatchTaskCreateOptions]) -> None:
        for task in added:
            settings = {setting.name: setting.value or "" for setting in task.environment_settings or ()}
            changes.get(Path(settings[INPUT_NAME]).stem, _as_it_is)(task)
        add_all(batch, job_id, added)

    environment.setattr(tasks.job, "add_all", add_changed)


def only_job(batch: BatchClient) -> str | None:
    return next((job.id for job in batch.list_jobs() if job.state == "active"), None)


def artifact(state: State[Any], key: str) -> Any:
    """The data of the run's artifact with that key."""
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        (found,) = [each for each in client.read_artifacts(artifact_filter=only) if each.key == key]
    return json.loads(str(found.data)) if found.type == "table" else found.data


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
