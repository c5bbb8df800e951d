"""A run ends before its nodes cost more than its cost_limit, and the pool's own deadline keeps it too."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tasks.errors import CostLimit, InputError
from tasks.reporting.cost import budget_of, lasting
from tasks.reporting.node_time import NodeLog
from tasks.resources.pool import scale
from tasks.run.budget import RESERVE, Budget
from tasks.run.identity import Run, UsedPool
from tasks.run.parameters import refuse_bad_limit
from tasks.run.price import Price
from tasks.run.settings import PoolSettings
from tasks.watching.cost import nodes_until, without_nodes
from tasks.watching.decide import Action
from tasks.watching.memory import Memory
from tasks.watching.snapshot import Part
from tests.support.watched import LIMITS, NOON, Service, Watched, counts, minute, node, pool, scaled_pool, tasks

PRICE = Price(per_hour=0.6, spot_per_hour=0.06, source="a list of today")
BUDGET = Budget(limit=1.0, per_hour=0.6, spot_per_hour=0.06, source=PRICE.source)
LIMITED = replace(LIMITS, budget=BUDGET)
TWO = UsedPool(id="pool", slots_per_node=1, own=True, dedicated_nodes=2, asked_at=NOON)  # 0.02 a minute
RUN = Run(workload="w", flow_run_id="0190f3e2-7c5b", started=NOON, lifetime=timedelta(hours=2), budget=BUDGET)


def running(*allocated: float) -> Service:
    """With nodes that were allocated at these minutes."""
    times = [minute(each).isoformat() for each in allocated]
    nodes = [
        node("running", id=f"n{at}", allocationTime=time, isDedicated=True, stateTransitionTime=time)
        for at, time in enumerate(times)
    ]
    return Service(counts=counts(running=1, completed=1), pool=pool(), nodes=nodes, tasks=tasks_done())


def tasks_done() -> Any:
    return tasks(replace(tasks_running(), state="completed", succeeded=True))


def tasks_running() -> Any:
    return next(iter(Service().tasks.values()))


def test_nodes_are_not_read_while_the_most_they_can_cost_is_within_the_limit() -> None:
    watched = Watched(TWO, LIMITED)
    watched.look(running(0, 0))
    watched.look(running(0, 0), at=0.1)
    assert watched.read == [Part.COUNTS]
    watched.look(running(0, 0), at=38)
    assert Part.POOL not in watched.read


def test_a_run_ends_before_its_nodes_cost_more() -> None:
    watched = Watched(TWO, LIMITED)
    decision = watched.look(running(0, 0), at=40.1)  # 0.80, and 0.20 for ten minutes more
    assert decision.action is Action.GIVE_UP
    assert isinstance(decision.problem, CostLimit)
    told = str(decision.problem)
    assert told.startswith(
        "the run ends before its nodes cost more than cost_limit ($1.00): they have cost at most $0.80, and until they "
        "are gone up to $0.20 more, by estimate (a list of today); 1 of 2 Batch tasks have completed, 1 have not: "
    )
    assert told.endswith(
        "Run again with a larger cost_limit: files with outputs here are not processed again in a retry"
    )


def test_what_the_rest_would_cost_is_told_where_the_speed_is_known() -> None:
    watched = Watched(TWO, LIMITED)
    for at in range(0, 40, 10):
        watched.look(Service(counts=counts(running=1, completed=0)), at=at)
    watched.look(running(0, 0), at=30)
    assert "at the speed so far they would cost about $" in str(watched.look(running(0, 0), at=40.1).problem)


def test_nodes_that_came_late_count_from_their_allocation() -> None:
    watched = Watched(TWO, LIMITED)
    decision = watched.look(running(20, 20), at=40.5)  # read: 0.41 so far
    assert (decision.action, Part.POOL in watched.read) == (Action.GO_ON, True)
    assert watched.memory.spent is not None
    assert round(watched.memory.spent.dollars, 6) == 0.41
    watched.look(running(20, 20), at=41.5)
    assert Part.POOL not in watched.read
    assert isinstance(watched.look(running(20, 20), at=60.5).problem, CostLimit)


def test_the_time_until_the_next_look_is_counted() -> None:
    watched = Watched(TWO, LIMITED)
    watched.memory = replace(watched.memory, next_look=timedelta(minutes=2))
    assert isinstance(watched.look(running(0, 0), at=38.5).problem, CostLimit)


@pytest.mark.parametrize("used", [replace(TWO, own=False), TWO], ids=["an existing pool", "no limit"])
def test_without_a_budget_or_a_pool_of_its_own_nothing_ends_a_run(used: UsedPool) -> None:
    limits = LIMITS if used.own else LIMITED
    assert Watched(used, limits).look(running(0, 0), at=100).action is Action.GO_ON


def test_the_pool_gives_up_its_nodes_before_they_cost_more() -> None:
    assert RUN.nodes_until(2, 0, NOON) == minute(40)
    assert RUN.nodes_until(2, 0, minute(30)) == minute(70)  # they cost nothing while files were uploaded
    assert RUN.nodes_until(0, 2, NOON) == RUN.expires  # 0.02 for ten minutes: they last for more than two hours
    assert replace(RUN, budget=None).nodes_until(2, 0, NOON) == RUN.expires
    assert 'time("2026-11-22T12:40:00Z")' in scale(RUN.nodes_until(2, 0, NOON), 2, 0)
    until_gone = (RUN.nodes_until(2, 0, NOON) + RESERVE - NOON) / timedelta(hours=1)
    assert BUDGET.hourly(2, 0) * until_gone <= BUDGET.limit


def test_nodes_that_are_added_bring_the_deadline_forward() -> None:
    memory = Memory.start(replace(TWO, spot_nodes=2), LIMITED, NOON)
    until = nodes_until(memory, LIMITED, minute(10), added=2)
    spent = BUDGET.hourly(2, 2) / 6
    later = BUDGET.hourly(4, 2) * ((until + RESERVE - minute(10)) / timedelta(hours=1))
    assert round(spent + later, 6) == BUDGET.limit
    assert nodes_until(memory, LIMITS, minute(10), added=2) == LIMITS.expires


def test_nodes_that_came_late_keep_the_pool_until_the_budget_ends() -> None:
    watched = Watched(replace(TWO, nodes_until=minute(40)), LIMITED)
    scaled = replace(running(20, 20), pool=scaled_pool())
    decision = watched.look(scaled, at=39.5)
    assert decision.action is Action.LATER_DEADLINE
    assert nodes_until(watched.memory, LIMITED, minute(39.5)) == minute(60)
    watched.memory = watched.memory.with_deadline(minute(60), minute(39.5))
    assert watched.look(scaled, at=40.5).action is Action.GO_ON
    assert watched.look(scaled, at=59.5).action is Action.GO_ON  # nothing is left to gain
    assert isinstance(watched.look(scaled, at=60.5).problem, CostLimit)


def test_a_pool_that_reached_its_deadline_too_soon_gets_a_later_one() -> None:
    watched = Watched(replace(TWO, nodes_until=minute(40)), LIMITED)
    watched.look(replace(running(20, 20), pool=scaled_pool()), at=25)
    over = scaled_pool(0, lastModified=minute(0).isoformat())
    idle = Service(counts=counts(), pool=over)
    assert watched.look(idle, at=41).action is Action.LATER_DEADLINE  # such as after an outage
    ended = Watched(replace(TWO, nodes_until=minute(40)), LIMITS).look(idle, at=41)
    assert "its autoscale formula asks for no nodes any more" in str(ended.problem)


def test_another_size_has_the_budget_that_is_left() -> None:
    memory = replace(Memory.start(TWO, LIMITED, NOON), nodes=NodeLog().noted(running(0, 0).nodes, minute(10)))
    assert nodes_until(memory, LIMITED, minute(30)) == minute(40)
    without = without_nodes(Memory.start(TWO, LIMITED, NOON), BUDGET, minute(30))
    assert nodes_until(without, LIMITED, minute(30)) == minute(70)  # no node has come
    assert nodes_until(without_nodes(memory, BUDGET, minute(10)), LIMITED, minute(10)) == minute(40)  # two had
    assert without_nodes(memory, None, NOON) == memory


OWN = PoolSettings(dedicated_nodes=2, vm_size=("Standard_D2s_v5",))


def test_the_log_has_how_long_the_budget_lasts() -> None:
    rest = "all nodes, at $1.2000 an hour at most, and 10 minutes for their removal (a list of today)"
    assert lasting(BUDGET, OWN, timedelta(hours=2)) == f"$1.0000 lasts 40 min 0 s for {rest}"
    assert lasting(BUDGET, OWN, timedelta(minutes=40)) == f"$1.0000 lasts longer than run_minutes for {rest}"


def test_the_budget_has_the_dearest_prices() -> None:
    found = budget_of(1.0, OWN, ["A", "B"], [PRICE, Price(per_hour=0.3, source="b")])
    assert found == Budget(limit=1.0, per_hour=0.6, spot_per_hour=0.3, source="a list of today")
    assert budget_of(None, OWN, ["A"], [None]) is None


@pytest.mark.parametrize(
    ("limit", "settings", "price", "told"),
    [
        (1.0, OWN, None, "cost_limit cannot be kept, because no price is known for A; leave out cost_limit and"),
        (
            0.1,
            OWN,
            PRICE,
            "cost_limit ($0.1000) is less than what the nodes cost in the 10 minutes until they are gone",
        ),
    ],
)
def test_a_limit_that_the_nodes_cannot_keep_is_refused(
    limit: float, settings: PoolSettings, price: Price | None, told: str
) -> None:
    with pytest.raises(InputError) as refused:
        budget_of(limit, settings, ["A"], [price])
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize(
    ("limit", "settings", "told"),
    [
        (0.0, OWN, "cost_limit is 0.0; it is an amount of US dollars above 0"),
        (float("nan"), OWN, "cost_limit is nan"),
        (1.0, PoolSettings(existing_pool_id="p"), "cost_limit is for the run's own pool"),
    ],
)
def test_a_limit_that_no_run_can_keep_is_refused_without_a_service(
    limit: float, settings: PoolSettings, told: str
) -> None:
    with pytest.raises(InputError) as refused:
        refuse_bad_limit(limit, settings)
    assert str(refused.value).startswith(told)
    refuse_bad_limit(None, settings)
