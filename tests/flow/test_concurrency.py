"""Runs at the same time, on the same accounts and with the same input files, do not disturb each other."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.settings import PREFECT_LOGGING_TO_API_BATCH_INTERVAL, temporary_settings

import tasks.reporting.artifacts
from flows.top_words import top_words
from tasks.accounts.clients import Azure
from tasks.reporting.prefect_api import limited
from tasks.run.settings import PoolSettings
from tasks.summary import Summary
from tests.support.polling import LIMIT

RUNS = 5
TEXTS = {"a.txt": "the cat and the dog the end", "b.txt": "a dog a day"}
WORDS = [["a.txt", 1, "the", 3], ["a.txt", 2, "cat", 1], ["b.txt", 1, "a", 2], ["b.txt", 2, "dog", 1]]
NAME = re.compile(r"top-words-[0-9a-f]{12}")
KEYS = {"run-plan", "sas-links", "batch-task-states", "batch-task-progress", "top-words-by-file", "top-words-overall"}

pytestmark = pytest.mark.usefixtures("azure")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that has ended, with all that it has said, the artifacts by their keys."""

    id: UUID
    name: str  # of its resources
    state: str
    summary: Summary
    log: list[str]
    artifacts: dict[str, list[str]]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def ended(
    prefect_server: None, azure: Azure, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Ended]:
    """Five runs that began at the same moment."""
    # On a busy machine no artifact is to be lost, while Prefect's SQLite database is locked.
    patient = lambda seconds, retries: limited(seconds=LIMIT, retries=10)  # noqa: E731
    monkeypatch.setattr(tasks.reporting.artifacts, "limited", patient)
    together = Barrier(RUNS)

    def run() -> Any:
        together.wait(LIMIT)
        return top_words(
            inputs=[str(texts)],
            top_n=2,
            pool=PoolSettings(dedicated_nodes=1, slots_per_node=2),
            output_folder=str(tmp_path / "results"),
            return_state=True,
        )

    with temporary_settings({PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.2}), ThreadPoolExecutor(RUNS) as pool:
        states = [future.result() for future in [pool.submit(copy_context().run, run) for _ in range(RUNS)]]
    with get_client(sync_client=True) as client:
        return [_ended(client, state) for state in states]


def _ended(client: SyncPrefectClient, state: Any) -> Ended:
    id = state.state_details.flow_run_id
    summary = state.result()
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[id]))
    artifacts: dict[str, list[str]] = {}
    for artifact in client.read_artifacts(artifact_filter=only):
        artifacts.setdefault(str(artifact.key), []).append(f"{artifact.description} {artifact.data}")
    return Ended(
        id=id,
        name=summary.folder.name,
        state=state.name,
        summary=summary,
        log=_log(client, id),
        artifacts=artifacts,
    )


def _log(client: SyncPrefectClient, id: UUID) -> list[str]:
    """All lines of the run, once its last one has arrived."""
    deadline = time.monotonic() + LIMIT
    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[id]))
    while True:
        found = client.read_logs(log_filter=only, limit=200)
        lines = [log.message for log in found]
        if any("Finished in state" in log.message and log.task_run_id is None for log in found):
            return lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)


def left_over(azure: Azure, names: set[str]) -> list[str]:
    """What is still of these runs, once what is being deleted has had the time to vanish."""
    deadline = time.monotonic() + LIMIT
    with azure.batch() as batch, azure.blobs() as blobs:
        while True:
            found = [str(pool.id) for pool in batch.list_pools(select=["id"])]
            found += [str(job.id) for job in batch.list_jobs(select=["id"])]
            found += [container.name for container in blobs.list_containers()]
            found = [each for each in found if each[: len("top-words-") + 12] in names]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


def words(summary: Summary) -> list[list[Any]]:
    return summary.by_file[["file", "rank", "word", "count"]].values.tolist()


def test_five_runs_at_once_complete_alike_and_leave_nothing(ended: list[Ended], azure: Azure) -> None:
    names = {each.name for each in ended}
    assert len(names) == RUNS
    assert [each.state for each in ended] == ["Completed"] * RUNS
    assert [words(each.summary) for each in ended] == [WORDS] * RUNS
    overall = [each.summary.overall.values.tolist() for each in ended]
    assert overall == [overall[0]] * RUNS
    assert len({node for each in ended for node in each.summary.by_file["node"]}) == RUNS  # each on its own
    assert left_over(azure, names) == []
    for each in ended:
        mine = set(NAME.findall("\n".join(each.log)))
        assert mine == {each.name}  # and so it said something of its own
        others = {other.name for other in ended} - mine
        assert not [line for line in each.log if any(name in line for name in others)]
        assert set(each.artifacts) >= KEYS
        assert [len(each.artifacts[key]) for key in KEYS] == [1] * len(KEYS)
        # A plan names the earlier run, in the same folder of results, from which it knows the script's time.
        told = "\n".join(text for key, texts in each.artifacts.items() if key != "run-plan" for text in texts)
        assert set(NAME.findall(told)) == {each.name}
        nodes_of_others = {node for other in ended if other is not each for node in other.summary.by_file["node"]}
        assert not [node for node in nodes_of_others if node in told + "\n".join(each.log)]
        assert not [line for line in each.log if "Artifact not written" in line]
