"""Batch tasks that lose their node while they run; the service does not count the requeue after a preemption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tasks.run.outcomes import TaskOutcome

_TOLERATED = 1  # short executions of one task in a row that may be lost by chance; more are a pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class _Execution:
    """One execution of a Batch task on a node."""

    started: datetime  # by the service's clock
    node: str | None
    retries: int
    requeues: int  # as the service counts them
    seen: datetime  # first, by the clock of this machine

    @classmethod
    def of(cls, outcome: TaskOutcome, started: datetime, now: datetime) -> _Execution:
        node, retries, requeues = outcome.node, outcome.retries, outcome.requeues
        return cls(started=started, node=node, retries=retries, requeues=requeues, seen=now)

    def has_lost_its_node(self, outcome: TaskOutcome) -> bool:
        """Whether the task was queued again, or started again, without a further retry."""
        return outcome.started != self.started and outcome.retries == self.retries


@dataclass(frozen=True, kw_only=True)
class LostNode:
    """A node that an execution has lost; seen is when that execution was first seen."""

    id: str
    seen: datetime


@dataclass(frozen=True, kw_only=True)
class NodeLosses:
    """The executions that lost their node, as found by comparing one listing of the tasks with the next.

    short: an execution that lost its node sooner than this after it began made no progress.
    """

    short: timedelta
    _last: Mapping[str, _Execution] = field(default_factory=dict)  # by Batch task that has not completed
    _uncounted: Mapping[str, int] = field(default_factory=dict)  # requeues that the service does not count
    _short: Mapping[str, tuple[timedelta, ...]] = field(default_factory=dict)  # since the last long execution

    def after(
        self, outcomes: Iterable[TaskOutcome], now: datetime
    ) -> tuple[NodeLosses, dict[str, TaskOutcome], list[LostNode]]:
        """The losses with these outcomes, the outcomes with all their requeues, and the nodes lost since the last."""
        last, uncounted, short = dict(self._last), dict(self._uncounted), dict(self._short)
        seen, lost = {}, []
        for outcome in outcomes:
            id, before = outcome.id, last.get(outcome.id)
            if before is not None and before.has_lost_its_node(outcome):
                lasted = now - before.seen
                short[id] = (*short.get(id, ()), lasted) if lasted < self.short else ()
                uncounted[id] = uncounted.get(id, 0) + (outcome.requeues == before.requeues)
                lost += [LostNode(id=before.node, seen=before.seen)] if before.node else []
            if outcome.started is None or outcome.completed:
                last.pop(id, None)
            elif before is None or outcome.started != before.started:
                last[id] = _Execution.of(outcome, outcome.started, now)
            more = uncounted.get(id, 0)
            seen[id] = replace(outcome, requeues=outcome.requeues + more) if more else outcome
        return replace(self, _last=last, _uncounted=uncounted, _short=short), seen, lost

    @property
    def keeps_losing_nodes(self) -> bool:
        """Whether any task loses its node again and again, soon after it has started."""
        return any(len(short) > _TOLERATED for short in self._short.values())

    def makes_progress(self, outcome: TaskOutcome, now: datetime) -> bool:
        """Whether the task's present execution is more than one of those that keep losing their node."""
        last, short = self._last.get(outcome.id), self._short.get(outcome.id, ())
        return last is not None and (len(short) <= _TOLERATED or now - last.seen > max(short))
