"""The service's clock, which tests can move, and the duration of its transitions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum


@dataclass(frozen=True, kw_only=True)
class Timings:
    """The seconds that each transition takes; the defaults are those of the profile "fast".

    Never zero: a client that does not wait for a state must fail here already.
    """

    allocation: float = 0.03  # a node is "creating"
    boot: float = 0.03  # a node is "starting", "rebooting", "reimaging", "deallocating"
    removal: float = 0.03  # a node is "leavingpool"; a pool, job or job schedule is "deleting"
    auto_pool: float = 10.0  # the same of an auto pool and its nodes, so that a client that polls still reads them
    preemption: float = 1.0  # a spot node is "preempted" before it is created again
    termination: float = 0.02  # a job is "terminating", "disabling" or "enabling"; the minimum for a resize


class Profile(str, Enum):
    """Timings by name."""

    FAST = "fast"
    AZURE = "azure"  # minutes, as in Azure

    def timings(self) -> Timings:
        return _TIMINGS[self]


# Azure documents no times. Recorded answers have 2 seconds for a resize without nodes, and 4 for one that is stopped.
_TIMINGS = {
    Profile.FAST: Timings(),
    Profile.AZURE: Timings(allocation=120, boot=120, removal=120, auto_pool=120, preemption=300, termination=3),
}


LONGEST_WAIT = 60.0  # seconds; then the machine's clock is read again, as it may have been set


class Clock:
    """UTC that never goes back. `advance` moves it forward and wakes everything that waits for a time."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._latest = datetime.min.replace(tzinfo=timezone.utc)
        self._replayed: datetime | None = None
        self._waiting: set[asyncio.Event] = set()

    def now(self) -> datetime:
        """The machine's time plus the offset; continues from the latest value if the machine's clock was set back.

        Otherwise a node could stay "creating" for hours, and a task could end before it started.
        """
        if self._replayed is not None:
            return self._replayed
        moment = self.machine_time() + self._ahead
        if moment < self._latest:
            self._ahead += self._latest - moment
        self._latest = max(self._latest, moment)
        return self._latest

    @contextmanager
    def at(self, moment: datetime) -> Iterator[None]:
        """Let it be `moment`, which has passed, while the context lasts."""
        self._replayed = moment
        try:
            yield
        finally:
            self._replayed = None

    def not_before(self, moment: datetime) -> None:
        """Continue from `moment`, if that is later than now."""
        self._latest = max(self._latest, moment)

    def machine_time(self) -> datetime:
        """The machine's UTC, which clients use to sign requests, also when the clock was moved."""
        return datetime.now(timezone.utc)

    def advance(self, by: timedelta) -> None:
        """Move the clock forward. Call it on the thread of the service's event loop."""
        self._ahead += by
        for event in self._waiting:
            event.set()

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        """Return when `event` is set; the clock sets it when it is moved, at `until`, and after LONGEST_WAIT."""
        left = None if until is None else min(LONGEST_WAIT, max(0.0, (until - self.now()).total_seconds()))
        # Not asyncio.wait_for(): before Python 3.12 it loses a cancellation that coincides with the event, and the
        # service would never stop.
        timer = None if left is None else asyncio.get_running_loop().call_later(left, event.set)
        self._waiting.add(event)
        try:
            await event.wait()
        finally:
            self._waiting.discard(event)
            if timer:
                timer.cancel()
