"""When to look at what: the one loop that drives every resource that is not settled to its next state."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from local_azure.batch.state.clock import Clock

logger = logging.getLogger(__name__)

RETRY = timedelta(seconds=5)  # after a visit that failed

Key = tuple[str, ...]  # the kind of resource, then its keys
Visit = Callable[..., "datetime | None"]


class Agenda:
    """Calls the visitor of a resource's kind when the resource is woken or the time has come that it asked for.

    A visitor looks at the state in the store, does what is due, and returns when it wants to be called at the latest;
    so it may be called too often, and after a restart it simply goes on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._visitors: dict[str, Visit] = {}
        self._woken: dict[Key, None] = {}  # an ordered set
        self._due: dict[Key, datetime] = {}
        self._queue: list[tuple[datetime, Key]] = []
        self._event = asyncio.Event()

    def visits(self, kind: str, visitor: Visit) -> None:
        self._visitors[kind] = visitor

    def wake(self, *key: str) -> None:
        self._woken[key] = None
        self._event.set()

    def wake_all(self) -> None:
        """Visit now whatever waits for a moment: it may come earlier than it was expected."""
        for key in list(self._due):
            self.wake(*key)

    async def run(self) -> None:
        while True:
            self._event.clear()
            self._visit_all()
            if not self._woken:
                await self._clock.wait(self._event, self._queue[0][0] if self._queue else None)
            else:
                await asyncio.sleep(0)  # let requests in between

    def _visit_all(self) -> None:
        woken, self._woken = list(self._woken), {}
        now = self._clock.now()
        while self._queue and self._queue[0][0] <= now:
            due, key = heapq.heappop(self._queue)
            if self._due.get(key) == due:
                woken.append(key)
        for key in dict.fromkeys(woken):
            self._visit(key)

    def _visit(self, key: Key) -> None:
        self._due.pop(key, None)
        try:
            due = self._visitors[key[0]](*key[1:])
        except Exception:
            # On a full disk, say. The others must not stay behind with it, and it goes on when that has passed.
            logger.exception("Cannot bring %s to its next state", " ".join(key))
            due = self._clock.now() + RETRY
        if due is not None:
            self._due[key] = due
            heapq.heappush(self._queue, (due, key))
