"""The service's time, which tests can move, and how long its transitions take."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone


@dataclass(frozen=True, kw_only=True)
class Timings:
    """How long each transition takes, in seconds.

    Azure's minutes are shortened to what a person does not notice, but never to nothing: a client that does
    not wait for a state must find out here and not in Azure.
    """

    allocation: float = 0.03  # a node is "creating"; at the least, a resize takes this long
    boot: float = 0.03  # a node is "starting", "rebooting", "reimaging", "deallocating"
    removal: float = 0.03  # a node is "leavingpool"; a pool, job or job schedule is "deleting"
    preemption: float = 1.0  # a spot node is "preempted" before it is created anew
    termination: float = 0.02  # a job or job schedule is "terminating", "disabling" or "enabling"


LONGEST_WAIT = 60.0  # seconds; then the machine's clock is looked at, which somebody may have set


class Clock:
    """UTC that never goes back, which `advance` moves forward; whoever waits for a moment that has come is woken."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._latest = datetime.min.replace(tzinfo=timezone.utc)
        self._waiting: set[asyncio.Event] = set()

    def now(self) -> datetime:
        """The machine's time, or one that flows on from the latest that was told, if the machine's was set back.

        Otherwise a node that became "creating" before would stay so for hours, and a task would end before it began.
        """
        moment = self.unmoved() + self._ahead
        if moment < self._latest:
            self._ahead += self._latest - moment
        self._latest = max(self._latest, moment)
        return self._latest

    def not_before(self, moment: datetime) -> None:
        """Go on from `moment`, if that is later than now."""
        self._latest = max(self._latest, moment)

    def unmoved(self) -> datetime:
        """The time that the clients have, too: what they sign is of this time, wherever the service has been moved."""
        return datetime.now(timezone.utc)

    def advance(self, by: timedelta) -> None:
        """Move the clock forward. Call it on the thread of the service's event loop."""
        self._ahead += by
        for event in self._waiting:
            event.set()

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        """Return when `event` is set; the clock sets it too, when it is moved and when `until` has come.

        It may be earlier: LONGEST_WAIT is the longest that anybody waits for a moment.
        """
        left = None if until is None else min(LONGEST_WAIT, max(0.0, (until - self.now()).total_seconds()))
        # Not asyncio.wait_for(): before Python 3.12 it ignores a cancel that meets the event, and the service whose
        # stop that was would wait for its own loop for ever.
        timer = None if left is None else asyncio.get_running_loop().call_later(left, event.set)
        self._waiting.add(event)
        try:
            await event.wait()
        finally:
            self._waiting.discard(event)
            if timer:
                timer.cancel()
