"""What Batch tasks wrote to stderr, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from azure.batch import BatchClient
from azure.core.exceptions import AzureError
from azure.storage.blob import ContainerClient

from tasks.azure import Azure
from tasks.errors import without_secrets
from tasks.outcomes import TaskOutcome, log_blob
from tasks.parallel import in_parallel
from tasks.settings import Role, Run

_TAIL = 2000  # characters that are shown
_MOST_READ = 100_000  # bytes of them that are looked at
_MOST_TASKS = 100  # whose stderr is read at once


def with_stderr(azure: Azure, batch: BatchClient, run: Run, outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
    """The outcomes, those of the first hundred failed tasks with the end of their stderr."""
    failed = [outcome.id for outcome in outcomes if outcome.failed][:_MOST_TASKS]
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        found = dict(zip(failed, in_parallel(lambda id: _stderr(batch, container, run, id), failed), strict=True))
    return [replace(outcome, stderr=found.get(outcome.id, "")) for outcome in outcomes]


def tail(download: Callable[[], Iterable[bytes]]) -> str:
    """The end of a stderr.txt as further lines of a message; nothing where it is empty or cannot be had."""
    return as_lines(_end(download))


def as_lines(stderr: str) -> str:
    """The text as further lines of a message."""
    return "\n  stderr: " + stderr.replace("\n", "\n  stderr: ") if stderr else ""


def _stderr(batch: BatchClient, container: ContainerClient, run: Run, id: str) -> str:
    """From the blob in which Batch has stored it, for the node may be gone; else from the node."""
    blob = log_blob(id, "stderr.txt")
    stored = _end(lambda: container.download_blob(blob).chunks())
    return stored or _end(lambda: batch.download_task_file(run.job_id, id, "stderr.txt"))


def _end(download: Callable[[], Iterable[bytes]]) -> str:
    try:
        written = b"".join(download())[-_MOST_READ:]
    except AzureError:
        return ""
    return without_secrets(written.decode(errors="replace").strip())[-_TAIL:]  # first blanked, then cut
