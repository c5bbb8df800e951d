"""The progress of a run's Batch tasks, and when it is logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from azure.batch.models import BatchTaskCounts, BatchTaskState

from tasks.run.outcomes import TaskOutcome

CHANGES_APART = timedelta(seconds=5)  # at least, so that a fast job is not slowed down by its log
_SHORTEST, _LONGEST = timedelta(seconds=30), timedelta(minutes=5)  # between two lines of the log


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The Batch tasks of a job by state, and the files that need none because a previous attempt has done them."""

    total: int
    completed: int
    succeeded: int
    failed: int
    running: int
    queued: int
    earlier: int = 0
    files: int = 0  # of the Batch tasks, where these have several each; 0: one each

    @classmethod
    def of_counts(cls, counts: BatchTaskCounts, *, total: int, earlier: int = 0, files: int = 0) -> Progress:
        """By the service's counts, which may lag behind the tasks."""
        return cls(
            total=total,
            completed=counts.completed,
            succeeded=counts.succeeded,
            failed=counts.failed,
            running=counts.running,
            queued=counts.active,
            earlier=earlier,
            files=files if files > total else 0,
        )

    @classmethod
    def of_outcomes(cls, outcomes: Sequence[TaskOutcome], *, earlier: int = 0, files: int = 0) -> Progress:
        return cls(
            total=len(outcomes),
            completed=sum(outcome.completed for outcome in outcomes),
            succeeded=sum(outcome.succeeded for outcome in outcomes),
            failed=sum(outcome.failed for outcome in outcomes),
            running=sum(outcome.state == BatchTaskState.RUNNING for outcome in outcomes),
            queued=sum(outcome.state == BatchTaskState.ACTIVE for outcome in outcomes),
            earlier=earlier,
            files=files if files > len(outcomes) else 0,
        )

    @property
    def left(self) -> int:
        return self.total - self.completed

    @property
    def all_files(self) -> int:
        """The files of the run, done earlier or not."""
        return self.earlier + (self.files or self.total)

    @property
    def files_done(self) -> int:
        """About how many of them are done: as if each Batch task had as many as the others."""
        return self.earlier + (self.files or self.total) * self.completed // max(self.total, 1)

    def now(self, waiting_for: str = "") -> str:
        """The log line while the tasks are watched."""
        return f"{self._done()}, {self.running:,} running, {self.queued:,} queued{self._others()}" + (
            f"; {waiting_for}" if waiting_for else ""
        )

    def at_the_end(self, problem: str = "") -> str:
        """The log line after the tasks were watched."""
        left = f", {self.left:,} not completed" if self.left else ""
        reason = f": {problem}" if left and problem else ""
        return f"{self._done()}{left}{self._others()}{reason}"

    def _done(self) -> str:
        files = f" with {self.files:,} files" if self.files else ""
        return (
            f"{self.completed:,} of {self.total:,} Batch tasks{files} completed "
            f"({self.succeeded:,} succeeded, {self.failed:,} failed)"
        )

    def _others(self) -> str:
        return f"; {self.earlier:,} files done earlier" if self.earlier else ""


def change_is_due(*, silent: timedelta, watched: timedelta, next_look: timedelta) -> bool:
    """Whether to log progress that has changed: after a tenth of the time watched so far, 5 to 30 seconds."""
    return silent + next_look > min(_SHORTEST, max(CHANGES_APART, watched / 10))


def table_is_due(*, age: timedelta, watched: timedelta) -> bool:
    """Whether to list tasks for their table again: after a fifth of the time watched so far, 5 seconds to 5 minutes."""
    return age >= min(_LONGEST, max(CHANGES_APART, watched / 5))


def is_due(*, silent: timedelta, unchanged: timedelta, next_look: timedelta) -> bool:
    """Whether to log the progress again, so that the log has a line at least every half minute.

    What has not changed for long is repeated less often: after a tenth of that time, at most five minutes.
    """
    return silent + next_look > min(_LONGEST, max(_SHORTEST, unchanged / 10))
