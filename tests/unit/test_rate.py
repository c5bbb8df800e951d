"""How fast Batch tasks complete, how long the others need, and when that is too long."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

import pytest

from tasks.run.polling import Polling
from tasks.watching.rate import Estimate, Rate, estimate, is_late, is_much_later

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def hours(hours: float) -> timedelta:
    return timedelta(hours=hours)


@pytest.mark.parametrize(
    ("done", "left", "seconds", "text"),
    [
        (2, 1, 30, "4 per minute, about 15 s left"),
        (9, 9, 120, "4.5 per minute, about 2 min left"),
        (1, 9, 600, "0.1 per minute, about 1 h 30 min left"),
        (5_000, 95_000, 600, "500 per minute, about 3 h 10 min left"),
        (1_000, 3_000, 3600, "17 per minute, about 3 h left"),
        (5, 0, 60, "5 per minute, about 1 s left"),
    ],
)
def test_rate_and_time_left_follow_from_what_completed(done: int, left: int, seconds: int, text: str) -> None:
    assert str(estimate(done=done, left=left, elapsed=timedelta(seconds=seconds))) == text


@pytest.mark.parametrize(("done", "seconds"), [(0, 60), (1, 0)])
def test_nothing_is_known_until_something_completes(done: int, seconds: int) -> None:
    assert estimate(done=done, left=9, elapsed=timedelta(seconds=seconds)) is None


def test_few_that_completed_may_have_been_slow_by_chance() -> None:
    least = [found.least for done in (1, 4, 100) if (found := estimate(done=done, left=done, elapsed=hours(1)))]
    assert least == [hours(0), hours(0.5), hours(0.9)]


def rate_of(looks: Iterable[tuple[float, int, int]]) -> Rate:
    """Of looks: the minute, how many have completed, and how many run."""
    rate = Rate()
    for minute, completed, running in looks:
        rate = rate.after(completed=completed, running=running, now=NOON + timedelta(minutes=minute))
    return rate


def test_the_rate_counts_from_the_first_task_that_ran() -> None:
    assert str(rate_of([(0, 0, 0), (10, 0, 2), (12, 4, 2)]).estimate(8)) == "2 per minute, about 4 min left"


def test_what_completed_before_it_was_watched_is_no_speed() -> None:
    assert rate_of([(0, 500, 2), (1, 500, 2)]).estimate(8) is None


def test_the_rate_is_that_of_recent_minutes() -> None:
    slow = [(minute, minute, 4) for minute in range(60)]
    fast = [(60 + minute, 60 + 10 * minute, 4) for minute in range(8)]
    assert str(rate_of(slow).estimate(59)) == "1 per minute, about 59 min left"
    assert str(rate_of(slow + fast).estimate(100)) == "10 per minute, about 10 min left"


def test_of_slow_tasks_the_recent_time_is_long_enough_for_twenty() -> None:
    rate = rate_of((minute, minute // 30, 4) for minute in range(1201))
    assert (rate.elapsed, str(rate.estimate(20))) == (hours(10), "0.033 per minute, about 10 h left")


def test_many_looks_are_few_samples() -> None:
    rate = rate_of((look / 300, look, 4) for look in range(10_000))
    assert len(rate.samples) <= 32


def test_nodes_that_came_only_now_make_the_rest_faster() -> None:
    assert str(rate_of([(0, 0, 0), (1, 0, 1), (3, 2, 1), (3, 2, 10)]).estimate(40)) == (
        "1 per minute, about 4 min left"
    )


def test_counts_that_fall_behind_are_no_negative_speed() -> None:
    assert rate_of([(0, 5, 1), (1, 7, 1), (2, 6, 1)]).estimate(8) == estimate(
        done=2, left=8, elapsed=timedelta(minutes=2)
    )


FOUND = Estimate(per_minute=1, time_left=hours(3), least=hours(2))


@pytest.mark.parametrize(
    ("known_for", "ends_in", "lifetime", "late"),
    [
        (timedelta(minutes=5), hours(1.9), hours(2), True),
        (timedelta(minutes=5), hours(2), hours(2), False),
        (timedelta(minutes=4), hours(1.9), hours(2), False),
        (timedelta(minutes=1), hours(0.3), hours(1 / 3), True),
        (timedelta(seconds=29), hours(0.1), hours(0.1), False),
    ],
)
def test_late_is_what_no_chance_explains(
    known_for: timedelta, ends_in: timedelta, lifetime: timedelta, late: bool
) -> None:
    assert is_late(FOUND, known_for=known_for, ends_in=ends_in, lifetime=lifetime) is late


@pytest.mark.parametrize(("warned_of", "again"), [(None, True), (hours(1.4), True), (hours(1.5), False)])
def test_a_warning_is_repeated_that_was_wrong_by_half(warned_of: timedelta | None, again: bool) -> None:
    assert is_much_later(FOUND, warned_of=warned_of) is again


@pytest.mark.parametrize(
    ("waited", "seconds_left", "delay"),
    [(1, None, 0.2), (100, None, 10), (500, None, 14), (100, 60, 10), (100, 10, 5), (100, 1, 2), (1, 1, 0.2)],
)
def test_the_last_looks_are_closer_together(waited: float, seconds_left: float | None, delay: float) -> None:
    assert Polling().delay(waited, seconds_left) == delay
