"""Step 7: download the outputs, each checked before it counts as downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from uuid import uuid4

from azure.core.exceptions import ResourceNotFoundError, ServiceResponseError
from azure.storage.blob import ContainerClient, StorageStreamDownloader
from prefect.logging import get_run_logger
from prefect.runtime import task_run

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.errors import NotDownloaded, ResultsError
from tasks.errors.local_files import at
from tasks.errors.service import SERVICE_FAILURES, ServiceError, error_code
from tasks.inputs.content import new_md5
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.events import RunEvents
from tasks.run.identity import Role, Run
from tasks.run.outcomes import LOGS, Cause, TaskOutcome
from tasks.run.program import Done
from tasks.run.records import Output, Record
from tasks.run.results import Results
from tasks.run.uploads import UploadedFile, Uploads
from tasks.step import RETRIES, step
from tasks.watching.failures import Failures
from tasks.watching.logs import download_logs

_DAMAGED_TIMES = 3  # downloads of one blob that differ from it
_CONTAINER_GONE = ("ContainerNotFound", "ContainerBeingDeleted")


@dataclass(frozen=True, kw_only=True)
class Download:
    """The outputs that are being downloaded, as far as they have come: those of each input file by its name."""

    results: Results
    stored: dict[str, Done] = field(default_factory=dict)
    useless: dict[str, tuple[Cause, str]] = field(default_factory=dict)  # why, and the details
    stop: Event = field(default_factory=Event)  # set: no further one begins

    def fetch(
        self, azure: Azure, run: Run, files: Sequence[UploadedFile], meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Download the outputs of these files in their order. Raises one of SERVICE_FAILURES, or ResultsError."""
        with azure.blobs() as blobs:
            container = blobs.get_container_client(run.container(Role.OUTPUT))

            def fetch(file: UploadedFile) -> None:
                if self.stop.is_set():
                    return
                try:
                    record = _fetch(container, self.results, file)
                except _Useless as problem:
                    self.useless[file.name] = problem.cause, problem.detail
                    with suppress(ResourceNotFoundError):
                        container.delete_blob(file.record)  # so that a retry of the run processes the file again
                else:
                    self.stored[file.name] = Done(content=file.content, program=self.results.program, record=record)

            in_parallel(fetch, files, meanwhile=meanwhile)

    def judge(self, outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
        """The outcomes, those whose output is of no use without success."""
        useless = self.useless
        return [each.without_output(*useless[each.file]) if each.file in useless else each for each in outcomes]


@step("7 download output")
def download_output(
    azure: Azure,
    run: Run,
    uploads: Uploads,
    outcomes: Sequence[TaskOutcome],
    results: Results,
    board: TaskBoard | None = None,
) -> list[TaskOutcome]:
    """Download the outputs of the Batch tasks that succeeded, and what the others wrote to stdout and stderr.

    Returns the outcomes: a file whose output is missing, damaged or not readable has failed. Raises NotDownloaded where
    this machine or Blob Storage keeps outputs from being downloaded; the output container is then still needed.
    """
    done = {outcome.file for outcome in outcomes if outcome.succeeded}
    succeeded = [file for file in uploads.inputs if file.name in done]
    download = Download(results=results)
    try:
        _fetch_all(azure, run, succeeded, download)
    except (*SERVICE_FAILURES, ResultsError) as error:
        lacking = len(succeeded) - len(download.stored)
        raise _not_downloaded(azure, run, error, lacking, len(succeeded), results) from None
    outcomes = _report_useless(azure, run, download.judge(outcomes), download, board or TaskBoard())
    logger = get_run_logger()
    what = "records read, outputs stay in Blob Storage" if results.kept else f"downloaded to {results.folder}"
    logger.info("Outputs of %d of %d files: %s", len(download.stored), len(uploads.inputs), what)
    _download_logs(azure, run, outcomes, results)
    return list(outcomes)


def _fetch_all(azure: Azure, run: Run, succeeded: Sequence[UploadedFile], download: Download) -> None:
    results = download.results
    with at(results.folder):
        results.folder.mkdir(parents=True, exist_ok=True)
    download.stored.update(results.downloaded(succeeded))  # by a try of this step that has failed half-way
    missing = [file for file in succeeded if file.name not in download.stored]
    results.forget(file.name for file in missing)
    logger = get_run_logger()

    def report() -> None:
        logger.info("Outputs of %d of %d files: downloaded so far", len(download.stored), len(succeeded))

    try:
        download.fetch(azure, run, missing, report)
    except BaseException:  # half-way, while others may still be under way
        with suppress(ResultsError):
            results.remember(dict(download.stored))
        raise
    results.remember(dict(download.stored))


class _Useless(Exception):
    """The outputs of a file are of no use."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


def _fetch(container: ContainerClient, results: Results, file: UploadedFile) -> Record:
    """Download the file's outputs, which its record names. Raises _Useless where there are none of use."""
    if results.kept:
        return _record(container, file)
    folder = results.folder_of(file.name)
    with at(folder):
        shutil.rmtree(folder, ignore_errors=True)  # of a previous attempt, whose outputs may have had other names
        folder.mkdir(parents=True)
    record = _record(container, file)
    for output, path in results.paths(file.name, record):
        with at(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        _get(container, output.blob, path, output)
    if reason := results.unreadable(file.name):
        raise _Useless(Cause.UNREADABLE, reason)
    return record


def _record(container: ContainerClient, file: UploadedFile) -> Record:
    try:
        return Record.parse(_whole(container, file.record))
    except ResourceNotFoundError as error:
        if error_code(error) != "BlobNotFound":
            raise
        raise _Useless(Cause.NO_OUTPUT, f"no blob {file.record}") from None
    except ValueError as error:
        raise _Useless(Cause.DAMAGED, f"{file.record}: {error}") from None


def _whole(container: ContainerClient, name: str) -> bytes:
    """A small blob. Raises ValueError where it stays another than the node stored.

    Its MD5 is checked here: checked by the SDK, a connection that breaks is an error that the SDK does not try again.
    """
    for _ in range(_DAMAGED_TIMES):
        blob = container.download_blob(name)
        data = b"".join(_chunks(blob))
        stored = bytes(blob.properties.content_settings.content_md5 or b"")
        if not stored or new_md5(data).digest() == stored:
            return data
    raise ValueError(f"its MD5 is {new_md5(data).hexdigest()}, that of the blob is {stored.hex()}")


def _get(container: ContainerClient, blob: str, path: Path, expected: Output) -> None:
    """Put the blob at the path; raises _Useless where it is not there, or stays another than the node stored."""
    for _ in range(_DAMAGED_TIMES):
        try:
            difference = _download(container, blob, path, expected)
        except ResourceNotFoundError as error:
            if error_code(error) != "BlobNotFound":
                raise
            raise _Useless(Cause.NO_OUTPUT, f"no blob {blob}") from None
        if not difference:
            return
    raise _Useless(Cause.DAMAGED, difference)


def _download(container: ContainerClient, name: str, target: Path, expected: Output) -> str:
    """Put the blob at the target. Returns in what it differs from what is expected, and then it is not there."""
    # Written under another name first: a file that is there is a whole one.
    partial = target.with_name(f".{uuid4().hex}.part")
    digest = new_md5()
    size = 0
    try:
        with at(partial), partial.open("xb") as file:
            for chunk in _chunks(container.download_blob(name)):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        if size != expected.size:
            return f"{size:,} of {expected.size:,} bytes"
        if digest.hexdigest() != expected.md5:
            return f"its MD5 is {digest.hexdigest()}, that of the output was {expected.md5}"
        with at(target):
            partial.replace(target)
        return ""
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _chunks(blob: StorageStreamDownloader[bytes]) -> Iterator[bytes]:
    try:
        yield from blob.chunks()
    except OSError as error:  # of the connection, and not of this machine's files
        raise ServiceResponseError(str(error) or type(error).__name__) from None


def _not_downloaded(
    azure: Azure, run: Run, error: Exception, missing: int, total: int, results: Results
) -> ServiceError | NotDownloaded:
    """What the step raises: while it may be tried again, the error itself."""
    advice = "Free some space there or make it writable"
    reason = str(error)
    if not isinstance(error, ResultsError):
        failure = ServiceError.of(error)
        if failure.code in _CONTAINER_GONE or (failure.transient and 0 < (task_run.run_count or 0) <= RETRIES):
            return failure
        reason, advice = str(failure), "Wait until Blob Storage can be read"
    container = run.container(Role.OUTPUT)
    return NotDownloaded(
        f"{missing} of {total} outputs could not be downloaded from container {container} to {results.folder}\n"
        f"  reason: {reason}\n"
        f"  {_what_next(azure, run, advice)}"
    )


def _what_next(azure: Azure, run: Run, advice: str) -> str:
    if azure.ends_with_run:
        return f"The embedded local Azure ends with this run, and the container with it. {advice}, then run again"
    return (
        f"The container keeps them until {run.expires_text}. {advice}, then retry flow run {run.flow_run_id}: "
        "it downloads them and processes nothing again"
    )


def _report_useless(
    azure: Azure, run: Run, outcomes: Sequence[TaskOutcome], download: Download, board: TaskBoard
) -> list[TaskOutcome]:
    """Log the outputs of no use as the failures that they are; the outcomes with the end of their stderr."""
    useless = [outcome for outcome in outcomes if outcome.file in download.useless]
    if not useless:
        return list(outcomes)
    with azure.batch() as batch:
        events = RunEvents(account=azure.batch_account.name, flow_run_id=run.flow_run_id)
        failures = Failures(azure, batch, run, events)
        reported = {outcome.file: outcome for outcome in failures.report(useless)}
    failures.close()
    outcomes = [reported.get(outcome.file, outcome) for outcome in outcomes]
    completed = sum(outcome.completed for outcome in outcomes)
    status = f"{completed} of {len(outcomes)} Batch tasks completed; {len(useless)} of them left no output of use"
    board.show(outcomes, completed, len(outcomes), status)
    return outcomes


def _download_logs(azure: Azure, run: Run, outcomes: Sequence[TaskOutcome], results: Results) -> None:
    """Download what failed Batch tasks wrote to stdout and stderr, as far as it can be had."""
    folder = results.folder / LOGS
    try:
        with at(folder):
            logs = download_logs(azure, run, outcomes, results)
    except ResultsError as error:
        get_run_logger().warning("Logs of failed Batch tasks not downloaded: %s", error)
        return
    if logs:
        get_run_logger().info("%d logs of Batch tasks downloaded to %s", logs, folder)
