"""Monitoring at the speed of a test, and with its events at the looks it names."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial

import pytest

from flows import nine_steps
from tasks.accounts.clients import Azure
from tasks.monitor import how_it_ended, monitor_tasks
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask, Monitored, TaskOutcome
from tasks.run.polling import Polling
from tasks.watching.watch import Patience
from tests.support.polling import LIMIT
from tests.support.runs import in_flow

Beat = Callable[[], None]


def pace(beat: Callable[[], None] = lambda: None) -> Polling:
    """Looks often, does something at every beat, and does not go on for ever where monitoring would."""
    deadline = time.monotonic() + LIMIT

    def sleep(seconds: float) -> None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        beat()

    return Polling(sleep=sleep)


class Time:
    """The time as monitoring sees it, which a test can advance."""

    def __init__(self) -> None:
        self._passed = timedelta()

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + self._passed

    def passes(self, minutes: float) -> None:
        self._passed += timedelta(minutes=minutes)

    def pace(self, beat: Beat = lambda: None) -> Polling:
        return Polling(sleep=pace(beat).sleep, now=self.now)


def once(happens: Callable[[], object], act: Callable[[], object]) -> Beat:
    """Something that is done at the first beat at which the other is true."""
    done: list[bool] = []

    def beat() -> None:
        if not done and happens():
            done.append(True)
            act()

    return beat


def monitor_at(environment: pytest.MonkeyPatch, pace: Polling) -> None:
    """Let the flow's monitoring look at that pace."""
    environment.setattr(nine_steps, "monitor_tasks", partial(monitor_tasks, polling=pace))


def watched(
    azure: Azure, run: Run, pool: UsedPool, added: list[AddedTask], looks: Polling, patience: Patience = Patience()
) -> Monitored:
    """How monitoring ended, also where it was given up."""
    return in_flow(lambda: how_it_ended(monitor_tasks(azure, run, pool, added, patience, looks, return_state=True)))


def watch(
    azure: Azure, run: Run, pool: UsedPool, added: list[AddedTask], looks: Polling, patience: Patience = Patience()
) -> Sequence[TaskOutcome]:
    """What became of the tasks, all of which have completed."""
    monitored = watched(azure, run, pool, added, looks, patience)
    assert monitored.problem is None, monitored.problem
    return monitored.outcomes


def is_logged(log: pytest.LogCaptureFixture, part: str) -> bool:
    return any(part in message for message in log.messages)
