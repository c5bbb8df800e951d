"""What Batch tasks wrote to stderr, for people to read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from azure.batch import BatchClient
from azure.core.exceptions import AzureError
from azure.storage.blob import ContainerClient

from tasks.azure import Azure
from tasks.errors import without_secrets
from tasks.outcomes import LOGS, STREAMS, TaskOutcome, log_blob
from tasks.parallel import in_parallel
from tasks.results import Results
from tasks.settings import Role, Run

_TAIL = 2000  # characters that are shown
_MOST_READ = 100_000  # bytes of them that are looked at
_LONGEST = 10 << 20  # bytes of a log that are downloaded: its end
_MOST_TASKS = 100  # whose stderr is read at once


def with_stderr(azure: Azure, batch: BatchClient, run: Run, outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
    """The outcomes, those of the first hundred failed tasks with the end of their stderr."""
    failed = [outcome.id for outcome in outcomes if outcome.failed][:_MOST_TASKS]
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        found = dict(zip(failed, in_parallel(lambda id: _stderr(batch, container, run, id), failed), strict=True))
    return [replace(outcome, stderr=found.get(outcome.id, "")) for outcome in outcomes]


def download_logs(azure: Azure, run: Run, outcomes: Sequence[TaskOutcome], results: Results) -> int:
    """Put what the failed tasks wrote to stdout and stderr into the results' folder; returns how many files that were.

    Signatures are blanked on the way. What an earlier try of the run has put there goes.
    """
    shutil.rmtree(results.path(LOGS), ignore_errors=True)
    failed = [outcome.id for outcome in outcomes if outcome.failed]
    if not failed:
        return 0
    with azure.blobs() as blobs, azure.batch() as batch:
        container = blobs.get_container_client(run.container(Role.OUTPUT))

        def download(log: tuple[str, str]) -> bool:
            id, stream = log
            stored = _text(lambda: container.download_blob(log_blob(id, stream)).chunks())
            text = _text(lambda: batch.download_task_file(run.job_id, id, stream)) if stored is None else stored
            if text is None:  # a task that could not start has written none
                return False
            target = results.path(log_blob(id, stream))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(without_secrets(text), encoding="utf-8", errors="surrogateescape")
            return True

        return sum(in_parallel(download, [(id, stream) for id in failed for stream in STREAMS]))


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
    text = _text(download, most=_MOST_READ) or ""
    shown = without_secrets(text.encode(errors="surrogateescape").decode(errors="replace").strip())
    return shown[-_TAIL:]  # first blanked, then cut


def _text(download: Callable[[], Iterable[bytes]], most: int = _LONGEST) -> str | None:
    """The end of a file that is downloaded, as text; None where it cannot be had."""
    kept = b""
    try:
        for chunk in download():
            kept = (kept + chunk)[-most:]
    except AzureError:
        return None
    return kept.decode(errors="surrogateescape")
