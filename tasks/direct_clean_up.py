"""Deletes what a run created where the steps for that do not get to do it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from typing_extensions import Self

from tasks.accounts.clients import Azure
from tasks.resources.clean_up import clean_up_after
from tasks.run.identity import Run
from tasks.run.settings import CleanUp


class DirectCleanUp:
    """A context that, while it is armed, leaves nothing behind but what is to be kept, however it is left.

    For an exception that comes before the steps that delete, or that keeps them from running: Prefect starts no step of
    a run that it suspends, a second signal interrupts the clean-up after the first, and a retry can fail before it
    begins while what the previous attempt left still bills.
    """

    def __init__(self, azure: Azure, run: Run, clean_up: CleanUp) -> None:
        self.clean_up = clean_up
        self._azure = azure
        self._run = run
        self._outputs_left: Callable[[], bool] = lambda: False
        self._armed = (flow_run.run_count or 0) > 1

    def arm(self, outputs_left: Callable[[], bool] = lambda: False) -> None:
        """From now on there may be something to delete; outputs_left: whether containers hold what is nowhere else."""
        self._armed = True
        self._outputs_left = outputs_left

    def disarm(self) -> None:
        """The steps have deleted it, and it is confirmed."""
        self._armed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._armed:
            held = self._outputs_left()
            clean_up_after(self._azure, self._run, self.clean_up, get_run_logger(), held=held)
