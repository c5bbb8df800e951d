"""Stdout and stderr of Batch tasks: their last lines, without secrets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from azure.batch import BatchClient
from azure.batch.models import BatchFileProperties
from azure.storage.blob import ContainerClient

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.errors.service import SERVICE_FAILURES
from tasks.run.file_outcomes import shown_end
from tasks.run.identity import Role, Run
from tasks.run.outcomes import LOGS, STREAMS, TaskOutcome, log_blob
from tasks.run.program import Done
from tasks.run.results import Results

_MOST_READ = 100_000  # bytes of which they are the end
_MOST_DOWNLOADED = 10 << 20  # bytes of a log that are downloaded: its end
_MOST_ASKED = 100  # Batch tasks whose logs are requested from their node, where Batch has stored none


def read_stderr(azure: Azure, batch: BatchClient, run: Run, tasks: Sequence[str]) -> dict[str, str]:
    """The end of stderr of these Batch tasks, by id; empty if there is none or it cannot be read."""
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))

        def read(id: str) -> str:
            # From the blob in which Batch has stored it, for the node may be gone; else from the node.
            stored = _end_of_blob(container, log_blob(id, "stderr.txt"), _MOST_READ)
            return _shown(stored or _end_on_node(batch, run, id, "stderr.txt", _MOST_READ))

        return dict(zip(tasks, in_parallel(read, tasks), strict=True))


def clear_logs(outcomes: Sequence[TaskOutcome], results: Results, kept: Collection[str] = ()) -> None:
    """Delete what a previous attempt of the run has left there of these files. Raises ResultsError."""
    if (results.folder / LOGS).is_dir():
        for outcome in outcomes:
            if not outcome.earlier and outcome.file not in kept:
                shutil.rmtree(results.logs_of(outcome.file), ignore_errors=True)


def download_logs(
    azure: Azure,
    run: Run,
    outcomes: Sequence[TaskOutcome],
    results: Results,
    groups: Collection[str] = (),
    logged: Collection[str] = (),
) -> int:
    """Put what scripts wrote to stdout and stderr into the results' folder, by file; returns how many logs that were.

    groups: ids of Batch tasks with several files. logged: files of them whose logs are there already.
    """
    wanted = _wanted(outcomes, results.done(), groups, logged)
    if not wanted:
        return 0
    with azure.blobs() as blobs, azure.batch() as batch:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        stored = _stored(container)
        failed = {outcome.id: None for outcome, _ in wanted if outcome.failed}
        unstored = [id for id in failed if not any(log_blob(id, stream) in stored for stream in STREAMS)]
        asked = set(unstored[:_MOST_ASKED])

        def read(id: str, stream: str) -> bytes | None:
            if (size := stored.get(log_blob(id, stream))) is not None:
                return _end_of_blob(container, log_blob(id, stream), _MOST_DOWNLOADED, size)
            return _end_on_node(batch, run, id, stream, _MOST_DOWNLOADED) if id in asked else None

        def download(log: tuple[TaskOutcome, str]) -> int:
            outcome, stream = log
            text = read(outcome.id, stream)
            if text is None:  # a task that could not start has written none
                return 0
            results.write_log(outcome.file, stream, text.decode(errors="surrogateescape"))
            return 1

        return sum(in_parallel(download, wanted))


def _wanted(
    outcomes: Sequence[TaskOutcome], done: Mapping[str, Done], groups: Collection[str], logged: Collection[str]
) -> list[tuple[TaskOutcome, str]]:
    """The logs to download: of Batch tasks with one file, or that left no record of one of several."""
    wanted: list[tuple[TaskOutcome, str]] = []
    ended: set[str] = set()
    for outcome in outcomes:
        if outcome.failed and outcome.file not in logged and outcome.id not in ended:
            wanted += [(outcome, stream) for stream in STREAMS]
            if outcome.id in groups:
                ended.add(outcome.id)  # once is enough
        if outcome.succeeded and not outcome.earlier and outcome.id not in groups and outcome.file in done:
            record = done[outcome.file].record
            sizes = zip(STREAMS, (record.stdout, record.stderr), strict=True)
            wanted += [(outcome, stream) for stream, size in sizes if size]
    return wanted


def _stored(container: ContainerClient) -> dict[str, int]:
    """The stored logs and their sizes; none if they cannot be listed, for example if the container was deleted."""
    try:
        return {blob.name: blob.size for blob in container.list_blobs(name_starts_with=f"{LOGS}/")}
    except SERVICE_FAILURES:
        return {}


def start_task_stderr(batch: BatchClient, pool_id: str, node_id: str) -> str:
    """The end of what a node's start task wrote to stderr, as further lines of a message."""
    path = "startup/stderr.txt"
    end = _end_of_file(
        lambda: batch.get_node_file_properties(pool_id, node_id, path),
        lambda part: batch.download_node_file(pool_id, node_id, path, ocp_range=part),
        _MOST_READ,
    )
    return as_lines(_shown(end))


def as_lines(stderr: str) -> str:
    """The text as further lines of a message."""
    return "\n  stderr: " + stderr.replace("\n", "\n  stderr: ") if stderr else ""


def _shown(end: bytes | None) -> str:
    return shown_end((end or b"").decode(errors="replace"))


def _end_of_blob(container: ContainerClient, blob: str, most: int, size: int | None = None) -> bytes | None:
    """The last bytes of a blob, whose size is given where it is known; None where it cannot be read."""
    try:
        if size is None:
            size = container.get_blob_client(blob).get_blob_properties().size
        return container.download_blob(blob, offset=max(0, size - most), length=most).readall() if size else b""
    except SERVICE_FAILURES:
        return None


def _end_on_node(batch: BatchClient, run: Run, task: str, stream: str, most: int) -> bytes | None:
    return _end_of_file(
        lambda: batch.get_task_file_properties(run.job_id, task, stream),
        lambda part: batch.download_task_file(run.job_id, task, stream, ocp_range=part),
        most,
    )


def _end_of_file(
    properties: Callable[[], BatchFileProperties], download: Callable[[str], Iterable[bytes]], most: int
) -> bytes | None:
    """The last bytes of a file on a node; None where it cannot be read."""
    try:
        size = properties().content_length or 0
        return b"".join(download(f"bytes={max(0, size - most)}-{size - 1}")) if size else b""
    except SERVICE_FAILURES:
        return None
