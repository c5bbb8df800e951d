"""Reports each failed Batch task, or file, once, as soon as it is seen: in the log and as an event."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from azure.batch import BatchClient
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.reporting.events import BatchTaskFailed, RunEvents
from tasks.run.identity import Run
from tasks.run.outcomes import CAUSES_OF_EXIT, Cause, TaskOutcome
from tasks.watching.logs import as_lines, read_stderr

_MOST_LOGGED = 10
_MOST_READ = 100  # Batch tasks whose stderr is read


class Failures:
    """The failures that were reported, and what was written to stderr.

    groups: ids of the Batch tasks with several files, whose events are left to the files.

    of_files: outcomes are those of files; stderr of a group's Batch task is not theirs.
    """

    def __init__(
        self,
        azure: Azure,
        batch: BatchClient,
        run: Run,
        events: RunEvents,
        *,
        groups: Collection[str] = (),
        of_files: bool = False,
    ) -> None:
        self._azure = azure
        self._batch = batch
        self._run = run
        self._events = events
        self._groups = groups
        self._of_files = of_files
        self._reported: set[str] = set()  # by file
        self._stderr: dict[str, str] = {}  # by Batch task
        self._logger = get_run_logger()

    def report(self, outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
        """Report those that are new; returns all outcomes, the failed ones with the end of their stderr."""
        new = [outcome for outcome in outcomes if outcome.failed and outcome.file not in self._reported]
        if read := [outcome.id for outcome in new if self._has_own_stderr(outcome)][: _MOST_READ - len(self._stderr)]:
            self._stderr |= read_stderr(self._azure, self._batch, self._run, read)
        for outcome in map(self._with_stderr, new):
            self._reported.add(outcome.file)
            if len(self._reported) <= _MOST_LOGGED:
                why = self._as_a_whole(outcome).why(self._azure.names)
                self._logger.error("Batch task %s (%s) %s%s", outcome.id, outcome.file, why, as_lines(outcome.stderr))
            if self._of_files or outcome.id not in self._groups:
                self._events.emit(_event(self._run, outcome))
        return [self._with_stderr(outcome) for outcome in outcomes]

    def close(self) -> None:
        """Log how many have not been named."""
        if (more := len(self._reported) - _MOST_LOGGED) > 0:
            self._logger.error("and %d more %s failed", more, "files" if self._of_files else "Batch tasks")

    def _as_a_whole(self, outcome: TaskOutcome) -> TaskOutcome:
        """Of a Batch task with several files, that it failed: what its exit code means holds of one of them."""
        if self._has_own_stderr(outcome) and outcome.id in self._groups and outcome.cause in CAUSES_OF_EXIT:
            return replace(outcome, cause=Cause.EXIT_CODE)
        return outcome

    def _has_own_stderr(self, outcome: TaskOutcome) -> bool:
        return not (self._of_files and outcome.id in self._groups)

    def _with_stderr(self, outcome: TaskOutcome) -> TaskOutcome:
        if outcome.id not in self._stderr or not self._has_own_stderr(outcome):
            return outcome
        return replace(outcome, stderr=self._stderr[outcome.id])


def _event(run: Run, outcome: TaskOutcome) -> BatchTaskFailed:
    failure = outcome.failure
    return BatchTaskFailed(
        job_id=run.job_id,
        task_id=outcome.id,
        file=outcome.file,
        category=failure.category if failure else "",
        code=failure.code if failure else "",
        message=failure.message if failure else outcome.reason,
        exit_code=outcome.exit_code,
        node=outcome.node,
        retries=outcome.retries,
        requeues=outcome.requeues,
    )
