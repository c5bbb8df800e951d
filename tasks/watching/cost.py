"""Ends a run before its nodes cost more than its cost_limit, decided without a client or clock.

What they cost at most is known without reading anything: as if all had come when the pool was asked for. Only when that
reaches the limit are the nodes read, and what they really cost counts from then on.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from tasks.errors import CostLimit
from tasks.reporting.node_time import NodeLog, node_time
from tasks.run.budget import Budget, Spent
from tasks.run.identity import UsedPool
from tasks.watching.memory import Memory
from tasks.watching.snapshot import Part, Snapshot


def within_cost(snapshot: Snapshot, memory: Memory, budget: Budget | None, left: int, now: datetime) -> Memory:
    """The memory with what the nodes have cost, where that had to be read. Raises CostLimit if the run is to end."""
    pool = memory.pool
    if budget is None or not pool.own:
        return memory
    began = pool.asked_at or memory.began
    known = memory.spent or Spent(at=min(began, memory.began))
    if _fits(_later(known, pool, budget, now), pool, budget, memory.next_look):
        return memory
    snapshot.need(Part.POOL)
    nodes = memory.nodes.noted(snapshot.nodes, now)
    spent = Spent(dollars=min(dollars_of(nodes, budget, now), _later(known, pool, budget, now).dollars), at=now)
    if _fits(spent, pool, budget, memory.next_look):
        return replace(memory, nodes=nodes, spent=spent)
    raise CostLimit(_message(spent, memory, budget, left))


def dollars_of(nodes: NodeLog, budget: Budget, now: datetime) -> float:
    """The most that these nodes have cost."""
    time = node_time(nodes, (), now, now)
    return (budget.per_hour * time.dedicated.total + budget.spot_per_hour * time.spot.total) / 3600


def _later(known: Spent, pool: UsedPool, budget: Budget, now: datetime) -> Spent:
    hours = (now - known.at) / timedelta(hours=1)
    return Spent(dollars=known.dollars + _hourly(pool, budget) * max(0.0, hours), at=now)


def _hourly(pool: UsedPool, budget: Budget) -> float:
    return budget.hourly(pool.dedicated_nodes + pool.added_nodes, pool.spot_nodes)


def _reserve(pool: UsedPool, budget: Budget) -> float:
    return budget.reserve(pool.dedicated_nodes + pool.added_nodes, pool.spot_nodes)


def _fits(spent: Spent, pool: UsedPool, budget: Budget, next_look: timedelta) -> bool:
    """Whether the run can go on until the next look and still delete its nodes within the limit."""
    until_then = _hourly(pool, budget) * (next_look / timedelta(hours=1))
    return spent.dollars + until_then + _reserve(pool, budget) < budget.limit


def _message(spent: Spent, memory: Memory, budget: Budget, left: int) -> str:
    seconds = memory.seconds_left
    rest = "how long they need is not known, as none has completed"
    if seconds is not None:
        rest = f"at the speed so far they would cost about ${_hourly(memory.pool, budget) * seconds / 3600:.2f} more"
    return (
        f"the run ends before its nodes cost more than cost_limit (${budget.limit:.2f}): they have cost at most "
        f"${spent.dollars:.2f}, and until they are gone up to ${_reserve(memory.pool, budget):.2f} more, by estimate "
        f"({budget.source}); {memory.completed} of {memory.tasks} Batch tasks have completed, {left} have not: {rest}. "
        "Run again with a larger cost_limit: files with outputs here are not processed again in a retry"
    )
