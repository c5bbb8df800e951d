"""How often a Batch task has begun again without having failed: the service does not count what a preemption costs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from tasks.outcomes import TaskOutcome


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    began: datetime
    retries: int
    requeues: int  # as the service counts them


@dataclass
class Attempts:
    """What has been seen of each task's attempts, from one look to the next."""

    _last: dict[str, _Attempt] = field(default_factory=dict)
    _lost: dict[str, int] = field(default_factory=dict)

    def seen(self, outcome: TaskOutcome) -> TaskOutcome:
        """The outcome, its requeues with those that were seen and that the service does not count.

        A task that is queued again, or that began again, without a further retry or requeue has lost its node.
        """
        last = self._last.get(outcome.id)
        counted = last is not None and (outcome.retries, outcome.requeues) != (last.retries, last.requeues)
        if last is not None and not counted and outcome.started != last.began:
            self._lost[outcome.id] = self._lost.get(outcome.id, 0) + 1
        self._last.pop(outcome.id, None)
        if outcome.started is not None:
            self._last[outcome.id] = _Attempt(began=outcome.started, retries=outcome.retries, requeues=outcome.requeues)
        return replace(outcome, requeues=outcome.requeues + self._lost.get(outcome.id, 0))
