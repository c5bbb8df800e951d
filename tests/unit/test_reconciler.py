from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from local_azure.batch.engine.reconciler import Reconciler
from local_azure.batch.state.clock import Clock

HOUR = timedelta(hours=1)


class Recorder:
    """A resource that is due an hour after the start, and what it was called for."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.due: datetime | None = self.clock.now() + HOUR
        self.calls: list[str] = []
        self.reconciler = Reconciler(self.clock)
        self.reconciler.register("job", self.reconcile)

    def reconcile(self, name: str) -> datetime | None:
        self.calls.append(name)
        return self.due

    async def turns(self, count: int = 5) -> None:
        """Let the loop run; it waits for events and the clock only."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def __aenter__(self) -> Recorder:
        self._loop = asyncio.create_task(self.reconciler.run())
        await self.turns()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)


@pytest.mark.asyncio
async def test_queue_does_not_grow_with_each_call() -> None:
    async with Recorder() as recorder:
        for _ in range(20):
            recorder.reconciler.wake("job", "a")
            await recorder.turns()
        assert recorder.calls == ["a"] * 20
        assert len(recorder.reconciler._queue) == 1
        recorder.due = None
        recorder.clock.advance(2 * HOUR)
        await recorder.turns()
        assert recorder.calls == ["a"] * 21


@pytest.mark.asyncio
async def test_resource_is_woken_at_the_earliest_of_its_times() -> None:
    async with Recorder() as recorder:
        now, recorder.due = recorder.clock.now(), None
        for hours in (3, 1, 2):
            recorder.reconciler.wake_at(now + hours * HOUR, "job", "a")
        await recorder.turns()
        assert recorder.calls == []
        recorder.clock.advance(1.5 * HOUR)
        await recorder.turns()
        assert recorder.calls == ["a"]
        recorder.clock.advance(5 * HOUR)
        await recorder.turns()
        assert recorder.calls == ["a"]
