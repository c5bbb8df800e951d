"""How fast Batch tasks complete, and how long those that are left need at that speed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.reporting.text import rough_span

_RECENT = timedelta(minutes=5)  # of which the rate is, or longer until enough have completed
_ENOUGH = 20  # completed
_SAMPLES_APART = timedelta(seconds=10)
_KNOWN_AFTER = timedelta(seconds=30), timedelta(minutes=5)  # the least and the most, to warn of a rate
_MUCH_LATER = 2  # times the time that a warning has named
_SECOND, _MINUTE = timedelta(seconds=1), timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the present speed means for what is left."""

    per_minute: float
    time_left: timedelta
    least: timedelta  # that is left, if what has completed so far was slow by chance

    def __str__(self) -> str:
        rate = f"{self.per_minute:,.0f}" if self.per_minute >= 10 else f"{self.per_minute:.2g}"
        return f"{rate} per minute, about {rough_span(self.time_left)} left"


def estimate(*, done: int, left: int, elapsed: timedelta, faster: float = 1.0) -> Estimate | None:
    """The estimate from what was completed in the elapsed time; None where nothing was.

    done, left: Batch tasks, or files, or anything that takes about the same time each; faster: how many times as many
    run at once now as on average in the elapsed time.
    """
    if done <= 0 or elapsed <= timedelta():
        return None
    time_left = elapsed * (left / done / max(1.0, faster))
    return Estimate(
        per_minute=done / (elapsed / _MINUTE), time_left=time_left, least=time_left * (1 - 1 / math.sqrt(done))
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    time: datetime
    completed: int
    ran: float  # seconds that Batch tasks have run, all together


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Completed Batch tasks over recent time, from the counts of each look since the first task ran."""

    samples: tuple[_Sample, ...] = ()  # oldest first; the recent time begins with the first
    latest: _Sample | None = None
    running: int = 0

    def after(self, *, completed: int, running: int, now: datetime) -> Rate:
        """The rate with a further look."""
        if self.latest is None:
            first = _Sample(time=now, completed=completed, ran=0.0)
            return Rate(samples=(first,), latest=first, running=running) if completed or running else self
        ran = self.latest.ran + (self.running + running) / 2 * ((now - self.latest.time) / _SECOND)
        latest = _Sample(time=now, completed=max(completed, self.latest.completed), ran=ran)
        samples = self.samples
        if latest.completed > samples[-1].completed and now - samples[-1].time >= _SAMPLES_APART:
            samples = (*samples, latest)
        while len(samples) > 1 and _suffices(samples[1], latest):
            samples = samples[1:]
        return Rate(samples=samples, latest=latest, running=running)

    @property
    def elapsed(self) -> timedelta:
        """The recent time that the rate is of."""
        return self.latest.time - self.samples[0].time if self.latest else timedelta()

    def estimate(self, left: int) -> Estimate | None:
        """How long the Batch tasks that are left need; None until one has completed."""
        if self.latest is None:
            return None
        first, latest = self.samples[0], self.latest
        running_on_average = (latest.ran - first.ran) / max(self.elapsed / _SECOND, 1e-6)
        faster = self.running / running_on_average if running_on_average else 1.0  # nodes that came only now
        return estimate(done=latest.completed - first.completed, left=left, elapsed=self.elapsed, faster=faster)


def _suffices(sample: _Sample, latest: _Sample) -> bool:
    return latest.time - sample.time >= _RECENT and latest.completed - sample.completed >= _ENOUGH


def is_late(found: Estimate, *, known_for: timedelta, ends_in: timedelta, lifetime: timedelta) -> bool:
    """Whether what is left will not be done when the run ends, even if what was done so far was slow by chance.

    known_for: how long the speed was measured. Until that is a twentieth of the run's lifetime, or 5 minutes, nothing
    is late: the first tasks may be slow, and further nodes may be starting.
    """
    return known_for >= max(_KNOWN_AFTER[0], min(_KNOWN_AFTER[1], lifetime / 20)) and found.least > ends_in


def is_much_later(found: Estimate, *, warned_of: timedelta | None) -> bool:
    """Whether to warn of lateness (again); warned_of: the time that was left by the last warning, less what passed."""
    return warned_of is None or found.time_left > _MUCH_LATER * warned_of
