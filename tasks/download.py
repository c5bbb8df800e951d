"""Step 7: download the outputs, each checked before it counts as downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from prefect.logging import get_run_logger
from prefect.runtime import task_run

from tasks.accounts.clients import Azure
from tasks.errors import NotDownloaded, ResultsError
from tasks.errors.codes import Code
from tasks.errors.local_files import at
from tasks.errors.service import SERVICE_FAILURES, ServiceError
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.events import RunEvents
from tasks.run.downloads import Download
from tasks.run.identity import Role, Run
from tasks.run.outcomes import LOGS, TaskOutcome
from tasks.run.results import Results
from tasks.run.uploads import UploadedFile, Uploads
from tasks.step import RETRIES, step
from tasks.watching.failures import Failures
from tasks.watching.logs import clear_logs, download_logs

_CONTAINER_GONE = (Code.CONTAINER_NOT_FOUND, Code.CONTAINER_BEING_DELETED)


@step("7 download output")
def download_output(
    azure: Azure,
    run: Run,
    uploads: Uploads,
    outcomes: Sequence[TaskOutcome],
    results: Results,
    board: TaskBoard | None = None,
) -> list[TaskOutcome]:
    """Download the outputs of the files that succeeded, and what the others wrote to stdout and stderr.

    Returns the outcomes: a file whose output is missing, damaged or not readable has failed. Raises NotDownloaded where
    this machine or Blob Storage keeps outputs from being downloaded; the output container is then still needed.
    """
    done = {outcome.file for outcome in outcomes if outcome.succeeded}
    succeeded = [file for file in uploads.inputs if file.name in done]
    download = Download(results=results, failed=_failed_in_groups(uploads, outcomes))
    try:
        _fetch_all(azure, run, uploads, outcomes, succeeded, download)
    except (*SERVICE_FAILURES, ResultsError) as error:
        lacking = len(succeeded) - len(download.stored)
        raise _not_downloaded(azure, run, error, lacking, len(succeeded), results) from None
    outcomes = _report_useless(azure, run, uploads, download.judge(outcomes), download, board or TaskBoard())
    logger = get_run_logger()
    what = "records read, outputs stay in Blob Storage" if results.kept else f"downloaded to {results.folder}"
    logger.info("Outputs of %d of %d files: %s", len(download.stored), len(uploads.inputs), what)
    _download_logs(azure, run, uploads, outcomes, download)
    return list(outcomes)


def _failed_in_groups(uploads: Uploads, outcomes: Sequence[TaskOutcome]) -> dict[str, set[str]]:
    failed: dict[str, set[str]] = {}
    for outcome in outcomes:
        if outcome.failed and outcome.id in uploads.bundles:
            failed.setdefault(outcome.id, set()).add(outcome.file)
    return failed


def _fetch_all(
    azure: Azure,
    run: Run,
    uploads: Uploads,
    outcomes: Sequence[TaskOutcome],
    succeeded: Sequence[UploadedFile],
    download: Download,
) -> None:
    results = download.results
    with at(results.folder):
        results.folder.mkdir(parents=True, exist_ok=True)
    download.stored.update(results.downloaded(succeeded))  # by a try of this step that has failed half-way
    clear_logs(outcomes, results, download.stored)
    missing = [file for file in succeeded if file.name not in download.stored]
    results.forget(file.name for file in missing)
    logger = get_run_logger()

    def report() -> None:
        logger.info("Outputs of %d of %d files: downloaded so far", len(download.stored), len(succeeded))

    try:
        download.fetch(azure, run, missing, uploads.bundles, report)
    except BaseException:  # half-way, while others may still be under way
        with suppress(ResultsError):
            results.remember(dict(download.stored))
        raise
    results.remember(download.stored)


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
    azure: Azure,
    run: Run,
    uploads: Uploads,
    outcomes: Sequence[TaskOutcome],
    download: Download,
    board: TaskBoard,
) -> list[TaskOutcome]:
    """Log the outputs of no use as the failures that they are; the outcomes with the end of their stderr."""
    useless = [outcome for outcome in outcomes if outcome.file in download.useless]
    if not useless:
        return list(outcomes)
    with azure.batch() as batch:
        events = RunEvents(account=azure.batch_account.name, flow_run_id=run.flow_run_id)
        failures = Failures(azure, batch, run, events, groups=uploads.bundles, of_files=True)
        reported = {outcome.file: outcome for outcome in failures.report(useless)}
    failures.close()
    outcomes = [reported.get(outcome.file, outcome) for outcome in outcomes]
    completed = sum(outcome.completed for outcome in outcomes)
    what = "files" if uploads.bundles else "Batch tasks"
    status = f"{completed} of {len(outcomes)} {what} completed; {len(useless)} of them left no output of use"
    board.show(outcomes, completed, len(outcomes), status)
    return outcomes


def _download_logs(
    azure: Azure, run: Run, uploads: Uploads, outcomes: Sequence[TaskOutcome], download: Download
) -> None:
    """Download what scripts wrote to stdout and stderr, as far as it can be had."""
    folder = download.results.folder / LOGS
    try:
        logs = download_logs(azure, run, outcomes, download.results, uploads.bundles, download.logged)
    except ResultsError as error:
        get_run_logger().warning("Logs of failed Batch tasks not downloaded: %s", error)
        return
    if logs := logs + sum(download.logged.values()):
        get_run_logger().info("%d logs downloaded to %s", logs, folder)
