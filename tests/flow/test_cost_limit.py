"""A run that reaches its cost_limit keeps what is finished, deletes its nodes, and says how far it got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import tasks.budget
import tasks.record
import tasks.watching.decide
from flows.run_script import run_script
from tasks.accounts.clients import Azure
from tasks.errors import CostLimit, InputError
from tasks.reporting.report import RunFacts, report
from tasks.run.budget import Budget
from tasks.run.price import Price
from tasks.run.settings import PoolSettings
from tasks.watching.cost import within_cost
from tasks.watching.memory import Memory
from tasks.watching.snapshot import Snapshot

PRICE = Price(per_hour=0.36, source="a list of today")


class Listed:
    """Stands where prices are looked up: there is one for each VM size, or none."""

    price: Price | None = PRICE

    def __init__(self, batch_endpoint: str) -> None:
        pass

    def start(self, vm_sizes: Sequence[str]) -> None:
        pass

    def of(self, vm_size: str, *, wait: bool = True) -> Price | None:
        return self.price


class Spender:
    """Has spent the limit two seconds after one of two Batch tasks is done: nodes' times are read in whole seconds."""

    def __init__(self) -> None:
        self.one_is_done: datetime | None = None

    def __call__(self, snapshot: Snapshot, memory: Memory, budget: Budget | None, left: int, now: datetime) -> Memory:
        assert budget is not None
        if left == 1:
            self.one_is_done = self.one_is_done or now
            if now - self.one_is_done >= timedelta(seconds=2):
                budget = replace(budget, limit=0.06)
        return within_cost(snapshot, memory, budget, left, now)


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> list[RunFacts]:
    """Of runs on a local Azure that is taken for one that bills."""
    found: list[RunFacts] = []
    monkeypatch.setattr(tasks.budget, "is_loopback", lambda endpoint: False)
    monkeypatch.setattr(tasks.budget, "PriceLookup", Listed)
    monkeypatch.setattr(tasks.watching.decide, "within_cost", Spender())

    def keep(each: RunFacts) -> str:
        found.append(each)
        return report(each)

    monkeypatch.setattr(tasks.record, "report", keep)
    return found


def run(tmp_path: Path, **options: Any) -> Any:
    script = tmp_path / "copy.sh"
    script.write_text('case "$1" in *slow*) sleep 120;; esac\ncp "$1" "$OUTPUT_DIR/copy"\n')
    for name in ("fast.txt", "slow.txt"):
        (tmp_path / name).write_text(name)
    return run_script(
        str(script),
        [str(tmp_path / "*.txt")],
        pool=PoolSettings(dedicated_nodes=1, slots_per_node=2),
        output_folder=str(tmp_path / "results"),
        files_per_task=1,
        **options,
    )


def test_a_run_that_reaches_its_cost_limit_keeps_what_is_done(
    azure: Azure, facts: list[RunFacts], tmp_path: Path, prefect_server: None
) -> None:
    with pytest.raises(CostLimit) as ended:
        run(tmp_path, cost_limit=1.0)
    told = str(ended.value)
    assert told.startswith(
        "the run ends before its nodes cost more than cost_limit ($0.06): they have cost at most $0.0"
    )
    assert "1 of 2 Batch tasks have completed, 1 have not" in told
    assert [path.read_text() for path in (tmp_path / "results").rglob("copy")] == ["fast.txt"]
    assert [(outcome.file, outcome.succeeded) for outcome in ended.value.outcomes] == [
        ("fast.txt", True),
        ("slow.txt", False),
    ]
    (found,) = facts
    assert found.deleted == ("containers", "job", "pool")
    assert found.node_time is not None
    assert found.node_time.dedicated.running > 0
    assert found.node_time.both.unsure == 0
    assert found.estimate is not None
    assert 0 < found.estimate.most < 0.06
    with azure.batch() as batch:
        assert found.pool_id not in {pool.id for pool in batch.list_pools() if pool.state != "deleting"}


def test_a_limit_without_a_price_is_refused_before_anything_exists(
    azure: Azure, facts: list[RunFacts], tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listed, "price", None)
    with pytest.raises(InputError, match="cost_limit cannot be kept, because no price is known for"):
        run(tmp_path, cost_limit=1.0)
    assert facts == []
