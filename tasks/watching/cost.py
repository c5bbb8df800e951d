"""Ends a run before its nodes cost more than its cost_limit, decided without a client or clock.

What they cost at most is known without reading anything: as if all had come when the pool was asked for. Only when that
reaches the limit are the nodes read, and what they really cost counts from then on. The deadline in the pool's formula
follows: it is when the budget ends by what was known when it was set.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from tasks.errors import CostLimit
from tasks.reporting.node_time import NodeLog, node_time
from tasks.resources.pool import FORMULAS_APART
from tasks.run.budget import Budget, Spent
from tasks.run.identity import UsedPool
from tasks.watching.limits import Limits
from tasks.watching.memory import Memory
from tasks.watching.snapshot import Part, Snapshot

# Before the deadline of the pool: the nodes are read, and then it is set anew, before Azure can act on the old one.
AHEAD = 2 * FORMULAS_APART


def within_cost(snapshot: Snapshot, memory: Memory, budget: Budget | None, left: int, now: datetime) -> Memory:
    """The memory with what the nodes have cost, where that had to be read. Raises CostLimit if the run is to end."""
    pool = memory.pool
    if budget is None or not pool.own:
        return memory
    known = at_most(memory, budget, now)
    soon = memory.next_look + AHEAD
    if _fits(known, pool, budget, soon) and not (pool.nodes_until and now + soon >= pool.nodes_until):
        return memory
    snapshot.need(Part.POOL)
    nodes = memory.nodes.noted(snapshot.nodes, now)
    spent = Spent(dollars=min(dollars_of(nodes, budget, now), known.dollars), at=now)
    if _fits(spent, pool, budget, memory.next_look):
        return replace(memory, nodes=nodes, spent=spent)
    raise CostLimit(_message(spent, memory, budget, left))


def dollars_of(nodes: NodeLog, budget: Budget, now: datetime) -> float:
    """The most that these nodes have cost."""
    time = node_time(nodes, (), now, now)
    return (budget.per_hour * time.dedicated.total + budget.spot_per_hour * time.spot.total) / 3600


def nodes_until(memory: Memory, limits: Limits, now: datetime, *, added: int = 0) -> datetime:
    """The deadline of the pool by what is known now; added: dedicated nodes that it is to get besides."""
    pool, budget = memory.pool, limits.budget
    if budget is None:
        return limits.expires
    spent = at_most(memory, budget, now).dollars
    dedicated = pool.dedicated_nodes + pool.added_nodes + added
    return min(limits.expires, now + budget.lasts(dedicated, pool.spot_nodes, spent))


def later_deadline(snapshot: Snapshot, memory: Memory, limits: Limits, now: datetime) -> datetime | None:
    """The deadline for the pool, where its nodes were read now and have cost less than they could; else None."""
    given, spent, pool = memory.pool.nodes_until, memory.spent, snapshot.pool
    if given is None or spent is None or spent.at != now or pool is None or not pool.enable_auto_scale:
        return None
    until = nodes_until(memory, limits, now)
    return until if until - given >= AHEAD else None


def without_nodes(memory: Memory, budget: Budget | None, now: datetime) -> Memory:
    """The memory with what the nodes have cost that were seen of a pool that has none now."""
    if budget is None:
        return memory
    dollars = min(dollars_of(memory.nodes.noted((), now), budget, now), at_most(memory, budget, now).dollars)
    return replace(memory, spent=Spent(dollars=dollars, at=now))


def at_most(memory: Memory, budget: Budget, now: datetime) -> Spent:
    """What the nodes have cost at most by what was read last: as if all had been there since."""
    pool = memory.pool
    known = memory.spent or Spent(at=min(pool.asked_at or memory.began, memory.began))
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
