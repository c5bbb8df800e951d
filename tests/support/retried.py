"""A flow run that is run again under its own id, as `prefect flow-run retry` does, and what became of it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, State
from prefect.flow_engine import run_flow
from prefect.states import Pending, Scheduled
from prefect.utilities.callables import get_call_parameters

from flows.top_words import top_words
from tasks.accounts.clients import Azure
from tasks.resources.clean_up import clean_up_after
from tasks.resources.finished import Saving
from tasks.run.identity import Run
from tasks.run.previous_attempt import records_there
from tasks.run.settings import CleanUp
from tasks.summary import Summary
from tests.support.attempts import Attempt, Boundary, Killed, Kind, Nodes, current_attempt

TEXTS = {"a.txt": "the cat and the dog the end", "b.txt": "a dog a day", "c.txt": "one two two"}
BETWEEN_ATTEMPTS = timedelta(minutes=10)  # by which the first attempt began earlier than the second


class Resumed:
    """A flow run and its attempts."""

    def __init__(self, nodes: Nodes, folder: Path, *, texts: Mapping[str, str] = TEXTS, **parameters: Any) -> None:
        azure = Azure.from_environment(os.environ)
        assert azure
        self.azure = azure
        self.nodes = nodes
        self.texts = folder / "texts"
        self.texts.mkdir(parents=True)
        for name, text in texts.items():
            (self.texts / name).write_text(text)
        self.parameters: dict[str, Any] = {
            "inputs": [str(self.texts)],
            "top_n": 2,
            "pool": {"dedicated_nodes": 1, "slots_per_node": 3},
            "limits": {"task_retries": 0},
            "output_folder": str(folder / "results"),
            **parameters,
        }
        self.attempts: list[Attempt] = []
        with get_client(sync_client=True) as client:
            self.id: UUID = client.create_flow_run(top_words, parameters=self.parameters, state=Pending()).id
        self.run = Run(
            workload="top-words",
            flow_run_id=str(self.id),
            started=datetime.now(timezone.utc),
            lifetime=timedelta(hours=2),
        )

    def first(self, ends: Boundary | None = None, kind: Kind = Kind.FAILED, **more: Any) -> State[Any] | None:
        """The first attempt; None where it was killed."""
        began = more.pop("began", None) or datetime.now(timezone.utc) - BETWEEN_ATTEMPTS
        return self._attempt(Attempt(began=began, ends=ends, kind=kind, **more))

    def retry(self, **more: Any) -> State[Any]:
        """Run it again, as `prefect flow-run retry` does."""
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self.id, Scheduled(message="Retried via CLI (local execution)"), force=True)
        state = self._attempt(Attempt(began=datetime.now(timezone.utc), **more))
        assert state
        return state

    def again(self, **more: Any) -> Summary:
        """Run it again, to its good end."""
        state = self.retry(**more)
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(self.id)
        assert (flow_run.run_count, flow_run.state_name) == (2, "Completed"), state.message
        summary = state.result()
        assert isinstance(summary, Summary)
        return summary

    def _attempt(self, present: Attempt) -> State[Any] | None:
        self.attempts.append(present)
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(self.id)
        parameters = get_call_parameters(top_words.fn, (), flow_run.parameters)
        token = current_attempt.set(present)
        try:
            state = run_flow(flow=top_words, flow_run=flow_run, return_type="state", parameters=parameters)
            assert isinstance(state, State)
            return state
        except Killed:
            return None
        finally:
            current_attempt.reset(token)

    def executions(self) -> list[tuple[str, int]]:
        """The file of each execution and the attempt whose Batch task it was, sorted."""
        known = {f"{each.began + timedelta(hours=2):%Y-%m-%dT%H:%M:%S}": at for at, each in enumerate(self.attempts)}
        return sorted((line["file"], known[line["expires"][:19]] + 1) for line in self.nodes.executions(self.run))

    def blobs(self) -> dict[str, str]:
        """The ETag of each blob that was uploaded, by its container's role and its name; an upload changes it."""
        found = {}
        with self.azure.blobs() as blobs:
            for role in ("application", "input"):
                container = blobs.get_container_client(f"{self.run.name}-{role}")
                if container.exists():
                    found.update({f"{role}/{blob.name}": str(blob.etag) for blob in container.list_blobs()})
        return found

    def records(self) -> Mapping[str, datetime]:
        """The records of the files that are done, and when each was written."""
        return records_there(self.azure, self.run)

    def there(self) -> list[str]:
        """What is still of the run in the accounts."""
        with self.azure.batch() as batch, self.azure.blobs() as blobs:
            found = [f"pool {pool.id}" for pool in batch.list_pools(select=["id"]) if pool.id == self.run.name]
            found += [f"job {job.id}" for job in batch.list_jobs(select=["id"]) if job.id == self.run.name]
            containers = blobs.list_containers(name_starts_with=self.run.name)
            return found + sorted(container.name for container in containers)

    def left_over(self) -> list[str]:
        """The same, once what is being deleted has had the time to vanish."""
        deadline = time.monotonic() + 10
        while (found := self.there()) and time.monotonic() < deadline:
            time.sleep(0.03)
        return found

    def clean_up(self) -> None:
        """As a hook or a sweep does it for this flow run."""
        token = current_attempt.set(self.attempts[-1])
        logger = logging.getLogger("tests.resume")
        saving = Saving(output_folder=self.parameters["output_folder"], seconds=60, logger=logger)
        try:
            clean_up_after(self.azure, self.run, CleanUp(), logger, saving=saving)
        finally:
            current_attempt.reset(token)

    def remove(self) -> None:
        """Delete what there is of the run, where a test had it kept or has failed."""
        with self.azure.batch() as batch, self.azure.blobs() as blobs:
            for delete in (batch.begin_delete_job, batch.begin_delete_pool):
                try:
                    delete(self.run.name)
                except (ResourceNotFoundError, ResourceExistsError):
                    continue
            for container in blobs.list_containers(name_starts_with=self.run.name):
                blobs.delete_container(container.name)

    def artifacts(self) -> list[Artifact]:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[self.id]))
        with get_client(sync_client=True) as client:
            return sorted(
                client.read_artifacts(artifact_filter=only), key=lambda each: each.created or self.run.started
            )


Start = Callable[..., Resumed]


@pytest.fixture
def start(watched: None, nodes: Nodes, tmp_path: Path) -> Iterator[Start]:
    """Flow runs with folders of their own; what a test leaves of them is deleted after it."""
    started: list[Resumed] = []

    def one(**parameters: Any) -> Resumed:
        started.append(Resumed(nodes, tmp_path / str(len(started)), **parameters))
        return started[-1]

    yield one
    for each in started:
        each.remove()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a summary contains, the names of the nodes apart."""

    by_file: list[list[Any]]
    overall: list[list[Any]]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, summary: Summary) -> Contents:
        by_file = summary.by_file.drop(columns="node").values.tolist()
        return cls(by_file=by_file, overall=summary.overall.values.tolist(), missing=summary.missing)


def nodes_of(summary: Summary) -> dict[str, str]:
    return dict(zip(summary.by_file["file"], summary.by_file["node"], strict=True))


def last_nodes(resumed: Resumed) -> dict[str, str]:
    """The node of the last execution of each file."""
    return {line["file"]: line["node"] for line in resumed.nodes.executions(resumed.run)}
