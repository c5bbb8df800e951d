"""How long nodes lived, by the service's times: three runs whose bill is computed here from their own records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from azure.batch.models import BatchNode

from tasks.reporting.cost import Estimate, node_seconds
from tasks.reporting.node_time import KindTime, NodeLog, NodeTime, node_time
from tasks.run.outcomes import TaskOutcome
from tasks.run.price import Price

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
PRICE = Price(per_hour=0.36, spot_per_hour=0.072, source="a list")


def second(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Life:
    """What happens to a node in a synthetic run: when it is allocated, ready, preempted or gone, in seconds."""

    id: str
    allocated: float
    ready: float
    ends: float | None = None
    preempted: bool = False

    def at(self, time: float) -> BatchNode | None:
        """The node as the service lists it then; None while it is not listed."""
        if time < self.allocated or (self.ends is not None and time >= self.ends and not self.preempted):
            return None
        state, since = ("starting", self.allocated) if time < self.ready else ("idle", self.ready)
        if self.ends is not None and time >= self.ends:
            state, since = "preempted", self.ends
        times = {"allocationTime": second(self.allocated).isoformat(), "stateTransitionTime": second(since).isoformat()}
        if time >= self.ready:
            times["lastBootTime"] = second(self.ready).isoformat()
        return BatchNode({"id": self.id, "state": state, "isDedicated": not self.id.endswith("_p"), **times})

    def bill(self, end: float) -> float:
        """US dollars, for each second from its allocation to its end."""
        seconds = min(end, end if self.ends is None else self.ends) - self.allocated
        return seconds * (0.072 if self.id.endswith("_p") else 0.36) / 3600


def ran(node: str, began: float, ended: float) -> TaskOutcome:
    return TaskOutcome(
        id=f"{node}-{began}",
        file="a.txt",
        state="completed",
        node=node,
        started=second(began),
        seconds=ended - began,
        succeeded=True,
    )


def seen(lives: list[Life], looks: list[float]) -> NodeLog:
    log = NodeLog()
    for look in looks:
        log = log.noted([node for life in lives if (node := life.at(look))], second(look))
    return log


DEDICATED_ONLY = [Life(id="a_d", allocated=10, ready=130), Life(id="b_d", allocated=12, ready=150)]
PREEMPTED = [
    Life(id="a_p", allocated=20, ready=140, ends=1_000, preempted=True),
    Life(id="b_p", allocated=20, ready=150),
    Life(id="c_d", allocated=1_500, ready=1_620),
]
LATE_AND_EARLY = [
    Life(id="a_d", allocated=10, ready=130),
    Life(id="late_d", allocated=1_200, ready=1_400),
    Life(id="early_d", allocated=10, ready=130, ends=1_790),
]


@pytest.mark.parametrize(
    ("lives", "looks", "end", "most_off"),
    [
        (DEDICATED_ONLY, [3_600], 3_600, 0.0),
        (PREEMPTED, [60, 1_100, 3_600], 3_600, 0.0),
        (LATE_AND_EARLY, [60, 1_780, 1_800, 3_600], 3_600, 0.002),
    ],
    ids=["dedicated nodes only", "spot nodes, one preempted, and a dedicated one added", "one late, one gone early"],
)
def test_the_estimate_against_a_computed_bill(
    lives: list[Life], looks: list[float], end: float, most_off: float
) -> None:
    bill = sum(life.bill(end) for life in lives)
    estimate = Estimate(time=node_time(seen(lives, looks), (), NOON, second(end)), price=PRICE)
    assert estimate.least <= bill + 1e-9
    assert bill <= estimate.most + 1e-9
    assert (estimate.most - bill) / bill <= most_off + 1e-9
    print(f"bill ${bill:.6f}, estimate ${estimate.least:.6f} to ${estimate.most:.6f}")


def test_time_is_split_into_starting_idle_and_running() -> None:
    log = seen(DEDICATED_ONLY, [3_600])
    tasks = [ran("a_d", 200, 1_200), ran("a_d", 700, 2_200), ran("b_d", 3_000, 3_600)]  # two slots: time counts once
    time = node_time(log, tasks, NOON, second(3_600))
    assert time.dedicated == KindTime(starting=120 + 138, running=2_000 + 600, idle=3_590 + 3_588 - 258 - 2_600)
    assert time.spot == KindTime()
    assert node_seconds(time) == "7,178 node-seconds: 258 starting, 4,320 idle, 2,600 running"


def test_a_node_without_a_boot_is_starting_all_the_time() -> None:
    time = node_time(seen([Life(id="a_p", allocated=0, ready=900)], [600]), (), NOON, second(600))
    assert time.spot == KindTime(starting=600)
    assert node_seconds(time).endswith("600 starting, 0 idle, 0 running; all of spot nodes")


def test_a_start_task_belongs_to_the_start() -> None:
    node = Life(id="a_d", allocated=0, ready=60).at(600)
    assert node
    start_task = {"state": "completed", "exitCode": 0, "endTime": second(200).isoformat()}
    node = BatchNode({**dict(node), "startTaskInfo": start_task})
    assert node_time(NodeLog().noted([node], second(600)), (), NOON, second(600)).dedicated.starting == 200


def test_a_preempted_node_bills_nothing_until_it_returns() -> None:
    lives = [Life(id="a_p", allocated=0, ready=60, ends=500, preempted=True)]
    log = seen(lives, [100, 900, 1_000])
    assert node_time(log, (), NOON, second(1_000)).spot.total == 500
    back = BatchNode({**dict(lives[0].at(100) or {}), "state": "starting"})
    back["stateTransitionTime"] = second(1_200).isoformat()
    log = log.noted([back], second(1_300))
    assert node_time(log, (), NOON, second(1_300)).spot.total == 600
    back["state"] = "idle"
    back["stateTransitionTime"] = back["lastBootTime"] = second(1_400).isoformat()
    assert node_time(log.noted([back], second(2_000)), (), NOON, second(2_000)).spot == KindTime(
        starting=60 + 200, idle=440 + 600
    )


def test_a_node_that_nobody_saw_is_bounded_by_its_batch_tasks() -> None:
    time = node_time(seen(DEDICATED_ONLY, [3_600]), [ran("x_p", 100, 400)], NOON, second(3_600))
    assert (time.spot.total, time.spot.unsure, time.spot.running) == (3_600, 3_300, 300)
    told = str(Estimate(time=time, price=PRICE, files=10))
    assert told == "between **$0.7238** and **$0.7898**, $0.0790 a file"


@pytest.mark.parametrize(
    ("price", "told"),
    [
        (PRICE, "at $0.3600 for a dedicated node and hour and at $0.0720 for a spot node and hour (a list)."),
        (
            replace(PRICE, spot_per_hour=None),
            "at $0.3600 for a spot node and hour, the price of a dedicated one, which it never exceeds (a list).",
        ),
    ],
    ids=["with a spot price", "without one"],
)
def test_the_estimate_names_each_price_and_its_source(price: Price, told: str) -> None:
    time = NodeTime(dedicated=KindTime(running=3_600), spot=KindTime(running=3_600))
    assert told in Estimate(time=time, price=price).sentences


def test_nodes_that_could_not_be_looked_at_are_an_upper_bound() -> None:
    time = NodeTime.at_most(3_600, 0)
    assert node_seconds(time) == "at most 3,600 node-seconds"
    told: Any = Estimate(time=time, price=PRICE).sentences
    assert told.startswith("Estimated cost: at most **$0.3600** at $0.3600 for a dedicated node and hour (a list).")
    assert "No node could be looked at" in told
