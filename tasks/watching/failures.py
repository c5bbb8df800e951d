"""Reports each failed Batch task once, as soon as it is seen: in the log and as an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from azure.batch import BatchClient
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.reporting.events import BatchTaskFailed, RunEvents
from tasks.run.identity import Run
from tasks.run.outcomes import TaskOutcome
from tasks.watching.logs import as_lines, read_stderr

_MOST_LOGGED = 10
_MOST_READ = 100  # Batch tasks whose stderr is read


class Failures:
    """The failed Batch tasks that were reported, and what they wrote to stderr."""

    def __init__(self, azure: Azure, batch: BatchClient, run: Run, events: RunEvents) -> None:
        self._azure = azure
        self._batch = batch
        self._run = run
        self._events = events
        self._reported: set[str] = set()
        self._stderr: dict[str, str] = {}
        self._logger = get_run_logger()

    def report(self, outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
        """Report those that are new; returns all outcomes, the failed ones with the end of their stderr."""
        new = [outcome for outcome in outcomes if outcome.failed and outcome.id not in self._reported]
        if new:
            read = [outcome.id for outcome in new][: _MOST_READ - len(self._stderr)]
            self._stderr |= read_stderr(self._azure, self._batch, self._run, read)
        for outcome in self._with_stderr(new):
            self._reported.add(outcome.id)
            if len(self._reported) <= _MOST_LOGGED:
                self._logger.error(
                    "Batch task %s (%s) %s%s", outcome.id, outcome.file, outcome.why(), as_lines(outcome.stderr)
                )
            self._events.emit(_event(self._run, outcome))
        return self._with_stderr(outcomes)

    def close(self) -> None:
        """Log how many have not been named."""
        if (more := len(self._reported) - _MOST_LOGGED) > 0:
            self._logger.error("and %d more Batch tasks failed", more)

    def _with_stderr(self, outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
        return [replace(outcome, stderr=self._stderr.get(outcome.id, "")) for outcome in outcomes]


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
