"""The reconcile loop: brings every resource to its next state when that is due."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from local_azure.batch.state.clock import Clock

logger = logging.getLogger(__name__)

RETRY = timedelta(seconds=5)  # after a failure
MOST_ROUNDS = 10  # requests are served after these
REPLAYED = timedelta(days=1)  # after a clock that was moved by more, what is due before that is done at that time

Key = tuple[str, ...]  # the kind of resource, followed by its keys
Reconcile = Callable[..., "datetime | None"]


class Reconciler:
    """Calls the function registered for a kind of resource when a resource is woken, or its due time has come.

    The function reads the state from the store, does what is due, and returns its next due time, or None. Calling it
    too often is harmless, so a restarted service continues by waking everything.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._functions: dict[str, Reconcile] = {}
        self._woken: dict[Key, None] = {}  # an ordered set
        self._due: dict[Key, datetime] = {}
        self._queue: list[tuple[datetime, Key]] = []
        self._event = asyncio.Event()
        self._replayed = datetime.min.replace(tzinfo=timezone.utc)

    def register(self, kind: str, reconcile: Reconcile) -> None:
        self._functions[kind] = reconcile

    def wake(self, *key: str) -> None:
        self._woken[key] = None
        self._event.set()

    def wake_at(self, due: datetime, *key: str) -> None:
        """Wake the resource at that time, if it is not due earlier."""
        if key not in self._due or due < self._due[key]:
            self._schedule(key, due)
            self._event.set()

    def wake_all(self) -> None:
        """Wake all resources that have a due time: it may have moved."""
        for key in list(self._due):
            self.wake(*key)

    async def run(self) -> None:
        while True:
            self._event.clear()
            self._reconcile_all()
            if not self._woken:
                await self._clock.wait(self._event, self._queue[0][0] if self._queue else None)
            else:
                await asyncio.sleep(0)  # let requests in between

    def _reconcile_all(self) -> None:
        now = self._clock.now()
        moment = self._overdue(now)
        if moment is None:
            self._reconcile_due(now)
            return
        with self._clock.at(moment):
            self._reconcile_due(moment)
            for _ in range(MOST_ROUNDS):  # what these have woken has its time of that moment, too
                if self._woken:
                    self._reconcile_due(moment)

    def _overdue(self, now: datetime) -> datetime | None:
        """The earliest time at which something is due, if that has passed.

        It is done as at that time, so that a clock that was moved by hours goes through all states of these hours. What
        is due then once more has its turn at the present: otherwise time could stand still.
        """
        if not self._queue or self._queue[0][0] > now:
            return None
        moment = max(self._queue[0][0], now - REPLAYED)
        if moment <= self._replayed:
            return None
        self._replayed = moment
        return moment

    def _reconcile_due(self, moment: datetime) -> None:
        woken, self._woken = list(self._woken), {}
        while self._queue and self._queue[0][0] <= moment:
            due, key = heapq.heappop(self._queue)
            if self._due.get(key) == due:
                del self._due[key]
                woken.append(key)
        for key in dict.fromkeys(woken):
            self._reconcile(key)

    def _reconcile(self, key: Key) -> None:
        try:
            due = self._functions[key[0]](*key[1:])
        except Exception:
            # For example a full disk. It must not delay other resources, and is retried until it succeeds.
            logger.exception("%s: could not reconcile, retrying in %s s", " ".join(key), RETRY.seconds)
            due = self._clock.now() + RETRY
        if due is None:
            self._due.pop(key, None)
        elif due != self._due.get(key):  # otherwise the queue would grow each time the resource is woken
            self._schedule(key, due)

    def _schedule(self, key: Key, due: datetime) -> None:
        self._due[key] = due
        heapq.heappush(self._queue, (due, key))
