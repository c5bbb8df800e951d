"""What deletes when a run's own steps for that do not get to do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.accounts.clients import Azure
from tasks.resources.clean_up import clean_up_after
from tasks.run.identity import Run
from tasks.run.settings import CleanUp


class SafetyNet:
    """A context that a run with anything to delete leaves with nothing to delete, or as its clean_up says.

    For an exception that comes before the steps that delete, or that keeps them from running: Prefect starts no step of
    a run that it suspends, a second signal interrupts the first one's clean-up, and a retry can fail before it begins
    while what the first try has left still bills.
    """

    def __init__(self, azure: Azure, run: Run, clean_up: CleanUp) -> None:
        self._azure = azure
        self._run = run
        self.clean_up = clean_up
        self._outputs_left: Callable[[], bool] = lambda: False
        self._spread = (flow_run.run_count or 0) > 1

    def spread(self, outputs_left: Callable[[], bool] = lambda: False) -> None:
        """From now on there may be something to delete; outputs_left: whether containers hold what is nowhere else."""
        self._spread = True
        self._outputs_left = outputs_left

    def fold(self) -> None:
        """The steps have deleted it, and it is confirmed."""
        self._spread = False

    def __enter__(self) -> SafetyNet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._spread:
            held = self._outputs_left()
            clean_up_after(self._azure, self._run, self.clean_up, get_run_logger(), held=held)


def not_deleted(deletes: Mapping[str, PrefectFuture[None]], run: Run) -> str:
    """What was not deleted at the run's end, and why; empty where all was."""
    failed = [(thing, delete.state) for thing, delete in deletes.items() if not delete.state.is_completed()]
    if not failed:
        return ""
    lines = [f"Not deleted: {thing} {run.name}: {state.result(raise_on_failure=False)}" for thing, state in failed]
    return "\n".join([*lines, f"A sweep deletes it once it has expired ({run.expires_text}): see docs/clean-up.md"])
