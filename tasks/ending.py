"""What a run ends with, where that is not its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import states
from prefect.logging import get_run_logger

from tasks.errors import Cancelled, NotDeleted, RunError, TasksFailed
from tasks.errors.text import listed
from tasks.record import RunRecord
from tasks.run.outcomes import TaskOutcome, missing
from tasks.watching.logs import as_lines

_MOST_FAILURES = 10  # in full


def failure_of(record: RunRecord[Any], not_deleted: str) -> RunError | None:
    """Why the run fails: what watching ended with, too many files without output, or what was not deleted.

    None where it succeeds. The error names the files without output, what became of their Batch tasks, and last what
    was not deleted; it carries the joined outputs of the others.
    """
    error = _of_files(record)
    if not_deleted:
        error = error.with_message(f"{error}\n{not_deleted}") if error else NotDeleted(not_deleted)
    return error and error.with_result(record.joined, record.outcomes)


def end_with(error: RunError) -> Any:
    """Raise the error; of a run that was cancelled, the state that says so, which the flow returns to be its own."""
    if isinstance(error, Cancelled):
        return states.Cancelled(message=str(error))
    raise error


def _of_files(record: RunRecord[Any]) -> RunError | None:
    lacking = missing(record.outcomes)
    lacks = f"the summary in {record.results.folder} lacks {listed([outcome.file for outcome in lacking])}"
    if record.problem is None and len(lacking) <= record.allowed:
        if lacking:
            get_run_logger().warning("%s; allow_failures is %d", lacks, record.allowed)
        return None
    details = "".join(
        _failure_lines(outcome, record.azure.names) for outcome in lacking[:_MOST_FAILURES] if outcome.failed
    )
    if record.problem is None:
        what = "files" if record.uploads and record.uploads.bundles else "Batch tasks"
        return TasksFailed(f"{len(lacking)} of {len(record.outcomes)} {what} failed; {lacks}{details}")
    return record.problem.with_message(f"{record.problem}\nTherefore {lacks}{details}")


def _failure_lines(outcome: TaskOutcome, names: Mapping[str, str]) -> str:
    return f"\n{outcome.file}: Batch task {outcome.id} {outcome.why(names)}{as_lines(outcome.stderr)}"
