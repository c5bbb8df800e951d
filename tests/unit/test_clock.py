from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from local_azure.batch.engine.reconciler import Reconciler
from local_azure.batch.state.clock import Clock


@pytest.mark.asyncio
async def test_moved_clock_wakes_those_who_wait_for_that_time():
    clock = Clock()
    waiting = asyncio.create_task(clock.wait(asyncio.Event(), clock.now() + timedelta(hours=1)))
    await asyncio.sleep(0)
    clock.advance(timedelta(hours=1))
    await asyncio.wait_for(waiting, 5)


def test_moving_the_clock_does_not_move_the_machine_time():
    clock = Clock()
    clock.advance(timedelta(days=3))
    assert timedelta(days=3) <= clock.now() - clock.machine_time() + timedelta(seconds=1) < timedelta(days=3, seconds=2)


@pytest.mark.asyncio
async def test_agenda_visits_what_is_woken_and_what_is_due():
    clock, visits = Clock(), []
    reconciler = Reconciler(clock)

    def visit(name: str):
        visits.append(name)
        return clock.now() + timedelta(hours=1) if visits == ["pool"] else None

    reconciler.register("pool", visit)
    running = asyncio.create_task(reconciler.run())
    reconciler.wake("pool", "pool")
    await _until(lambda: visits == ["pool"])
    clock.advance(timedelta(minutes=61))
    await _until(lambda: visits == ["pool", "pool"])
    clock.advance(timedelta(hours=5))
    reconciler.wake("pool", "other")
    await _until(lambda: visits == ["pool", "pool", "other"])
    running.cancel()


@pytest.mark.asyncio
async def test_failed_reconcile_is_retried_and_does_not_stop_others(caplog):
    clock, visits = Clock(), []
    reconciler = Reconciler(clock)

    def visit(name: str) -> None:
        visits.append(name)
        if visits.count("bad") == 1 and name == "bad":
            raise OSError("disk full")

    reconciler.register("pool", visit)
    running = asyncio.create_task(reconciler.run())
    reconciler.wake("pool", "bad")
    reconciler.wake("pool", "good")
    await _until(lambda: visits == ["bad", "good"])
    clock.advance(timedelta(minutes=1))
    await _until(lambda: visits == ["bad", "good", "bad"])
    running.cancel()
    assert "disk full" in caplog.text


async def _until(holds):
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not so within 2.5 s")


@pytest.mark.asyncio
@pytest.mark.parametrize("steps", range(5))
async def test_cancelled_wait_is_cancelled_at_any_moment(steps: int) -> None:
    clock, event = Clock(), asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, clock.now() + timedelta(hours=1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    if waiting.cancel():
        await asyncio.wait([waiting])
        assert waiting.cancelled()
