"""What the state of a pool says of nodes that are still to come."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from azure.batch.models import AutoScaleRun, BatchPool

from tasks.errors import TasksFailed
from tasks.waiting import _refused

EVALUATED = datetime(2026, 11, 22, 9, 30, tzinfo=timezone.utc)


def empty_pool(*, settled_after: float, changed_after: float) -> BatchPool:
    """An empty pool whose formula asked for no node; the seconds count from that evaluation."""

    def at(seconds: float) -> str:
        return (EVALUATED + timedelta(seconds=seconds)).isoformat()

    return BatchPool(
        {
            "id": "pool",
            "allocationState": "steady",
            "allocationStateTransitionTime": at(settled_after),
            "lastModified": at(changed_after),
            "enableAutoScale": True,
            "targetDedicatedNodes": 0,
            "targetLowPriorityNodes": 0,
            "autoScaleRun": {"timestamp": EVALUATED.isoformat(), "results": "$TargetDedicatedNodes=0"},
        }
    )


@pytest.mark.parametrize("changed_after", [-60, 0, 1], ids=["before", "with it", "by what it changed"])
def test_an_empty_pool_whose_formula_asks_for_no_node_gets_none(changed_after: float) -> None:
    pool = empty_pool(settled_after=20, changed_after=changed_after)
    assert isinstance(pool.auto_scale_run, AutoScaleRun)
    with pytest.raises(TasksFailed, match="autoscale formula asks for none any more"):
        _refused(pool, [], own=True, helped=False)


def test_a_formula_that_is_newer_than_its_last_evaluation_is_given_the_time_to_be_evaluated() -> None:
    assert _refused(empty_pool(settled_after=20, changed_after=3600), [], own=True, helped=False) == ""
