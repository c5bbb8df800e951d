"""The attempts of each Batch task, as they are seen: the service does not count those that a preemption ends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tasks.run.outcomes import TaskOutcome

_BAD_LUCK = 1  # attempts of a task that may be lost soon after they began; more are a pattern


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    began: datetime  # by the service's clock
    node: str | None
    retries: int
    requeues: int  # as the service counts them
    seen: datetime  # first, by the clock of this machine


@dataclass(kw_only=True)
class Attempts:
    """What has been seen of each task's attempts, from one look to the next.

    soon: an attempt that lost its node before it had run for so long was short.
    """

    soon: timedelta
    _last: dict[str, _Attempt] = field(default_factory=dict)
    _losses: dict[str, int] = field(default_factory=dict)  # that the service does not count
    _lost_nodes: list[tuple[str, datetime]] = field(default_factory=list)
    _short: dict[str, list[timedelta]] = field(default_factory=dict)  # the short attempts since the last long one

    def seen(self, outcome: TaskOutcome, now: datetime) -> TaskOutcome:
        """The outcome, its requeues with those that were seen and that the service does not count.

        A task that is queued again, or that began again, without a further retry has lost its node.
        """
        last = self._last.get(outcome.id)
        if last is not None and outcome.started != last.began and outcome.retries == last.retries:
            self._lost(outcome.id, now - last.seen)
            self._lost_nodes += [(last.node, last.seen)] if last.node else []
            if outcome.requeues == last.requeues:
                self._losses[outcome.id] = self._losses.get(outcome.id, 0) + 1
        if outcome.started is None:
            self._last.pop(outcome.id, None)
        elif last is None or outcome.started != last.began:
            self._last[outcome.id] = _Attempt(
                began=outcome.started,
                node=outcome.node,
                retries=outcome.retries,
                requeues=outcome.requeues,
                seen=now,
            )
        return replace(outcome, requeues=outcome.requeues + self._losses.get(outcome.id, 0))

    def take_lost(self) -> list[tuple[str, datetime]]:
        """The nodes that attempts have lost since they were last taken, each with when that attempt was first seen."""
        lost, self._lost_nodes = self._lost_nodes, []
        return lost

    def _lost(self, id: str, lasted: timedelta) -> None:
        if lasted < self.soon:
            self._short.setdefault(id, []).append(lasted)
        else:
            self._short.pop(id, None)

    @property
    def in_vain(self) -> bool:
        """Whether any task is lost again and again, soon after it has begun."""
        return any(len(short) > _BAD_LUCK for short in self._short.values())

    def gets_further(self, outcome: TaskOutcome, now: datetime) -> bool:
        """Whether the task's present attempt is more than one of those that are lost again and again."""
        last, short = self._last.get(outcome.id), self._short.get(outcome.id, [])
        return last is not None and (len(short) <= _BAD_LUCK or now - last.seen > max(short))
