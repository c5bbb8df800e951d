"""The errors of this project, each with a message for people.

RunError
 ├ InputError      the caller's input or settings cannot work; nothing was created
 ├ ServiceError    Azure Batch or Blob Storage refused a request, or did not answer (tasks/errors/service.py)
 ├ ConflictError   a resource with this run's name exists and is not this run's
 ├ RunTimeout      the run reached a time limit
 ├ CostLimit       the run ended before its nodes cost more than its limit
 ├ Stalled         no Batch task made progress for too long
 ├ Cancelled       somebody cancelled the run while it waited for its Batch tasks
 ├ TasksFailed     Batch tasks ended without success, or can never run
 ├ ResultsError    a file of the results cannot be read or written on this machine
 ├ NotDownloaded   outputs are in their container, but could not be downloaded
 └ NotDeleted      the run has succeeded, but some of its resources could not be deleted
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from tasks.errors.secrets import without_secrets
from tasks.errors.text import visible

if TYPE_CHECKING:
    from typing_extensions import Self


class RunError(Exception):
    """An error whose message is complete; it is shown without its traceback."""

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(without_secrets(message)))
        self._result: tuple[Any, Sequence[Any]] = (None, ())
        self._report_url = ""

    @property
    def summary(self) -> Any:
        """The joined outputs of the files that succeeded; None if the run failed earlier."""
        return self._result[0]

    @property
    def outcomes(self) -> Sequence[Any]:
        """The outcome of each file, as far as known."""
        return self._result[1]

    @property
    def report_url(self) -> str:
        """The page of the run's report; empty if there is none."""
        return self._report_url

    def with_message(self, message: str) -> Self:
        """The same error with another message."""
        other = copy(self)
        other.args = (visible(without_secrets(message)),)
        return other

    def with_result(self, summary: object, outcomes: Sequence[Any]) -> Self:
        """The same error with what the run has achieved."""
        other = copy(self)
        other._result = (summary, outcomes)
        return other

    def with_report(self, url: str) -> Self:
        other = copy(self)
        other._report_url = url
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self}"


class InputError(RunError, ValueError):
    """The caller's input or settings cannot work."""


class ConflictError(RunError):
    """A resource with this run's name exists and belongs to something else."""


class RunTimeout(RunError):
    """The run reached one of its time limits."""


class CostLimit(RunError):
    """The run ended before its nodes would have cost more than its limit."""


class Stalled(RunError):
    """No Batch task ran or ended for longer than the run was to wait."""


class Cancelled(RunError):
    """Somebody cancelled the run in the Prefect UI."""


class DeclaredCrashed(RunError):
    """The Prefect server counts the run as Crashed while its process still runs."""


class TasksFailed(RunError):
    """Batch tasks ended without success, or can never run."""


class ResultsError(RunError):
    """A file of the results cannot be read or written on this machine."""


class NotDownloaded(RunError):
    """Outputs are in the output container, which keeps them, but could not be downloaded."""


class NotDeleted(RunError):
    """The run has succeeded, but some of its resources could not be deleted."""
