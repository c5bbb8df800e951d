"""Whether the state of a pool lets nodes still come."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from azure.batch.models import AutoScaleRun, BatchJob, BatchNode, BatchPool

from tasks.errors import TasksFailed
from tasks.run.identity import UsedPool
from tasks.watching.limits import Limits
from tasks.watching.obstacles import _refused, why_waiting
from tasks.watching.snapshot import Part, Snapshot

EVALUATED = datetime(2026, 11, 22, 9, 30, tzinfo=timezone.utc)
OWN = UsedPool(id="pool", slots_per_node=1, own=True)
LIMITS = Limits(job_id="job", tasks=1, expires=EVALUATED, lifetime=timedelta(hours=2), stall_minutes=30)


def empty_pool(
    *, settled_after: float, changed_after: float, asked: int = 0, refused: tuple[str, ...] = ()
) -> BatchPool:
    """An empty pool whose formula asked for so many nodes; the seconds count from that evaluation."""

    def at(seconds: float) -> str:
        return (EVALUATED + timedelta(seconds=seconds)).isoformat()

    return BatchPool(
        {
            "id": "pool",
            "state": "active",
            "allocationState": "steady",
            "allocationStateTransitionTime": at(settled_after),
            "lastModified": at(changed_after),
            "enableAutoScale": True,
            "targetDedicatedNodes": 0,
            "targetLowPriorityNodes": 0,
            "autoScaleRun": {
                "timestamp": EVALUATED.isoformat(),
                "results": f"$TargetDedicatedNodes={asked};$TargetLowPriorityNodes=0",
            },
            "resizeErrors": [{"code": code, "message": "No."} for code in refused],
        }
    )


@pytest.mark.parametrize("changed_after", [-60, 0, 1], ids=["before", "with it", "by what it changed"])
def test_an_empty_pool_whose_formula_asks_for_no_node_gets_none(changed_after: float) -> None:
    pool = empty_pool(settled_after=20, changed_after=changed_after)
    assert isinstance(pool.auto_scale_run, AutoScaleRun)
    with pytest.raises(TasksFailed, match="autoscale formula asks for no nodes any more"):
        _refused(pool, [], OWN, helped=False)


def test_a_new_formula_gets_the_time_to_be_evaluated() -> None:
    assert _refused(empty_pool(settled_after=20, changed_after=3600), [], OWN, helped=False).text == ""


def test_nodes_the_formula_asks_for_are_waited_for() -> None:
    assert _refused(empty_pool(settled_after=20, changed_after=0, asked=2), [], OWN, helped=False).text == ""


QUOTA = ("AccountCoreQuotaReached",)
NO_NODES = r"^pool pool got no nodes: AccountCoreQuotaReached: No\.; ask for a higher quota in the Azure portal"


def test_a_quota_that_is_used_up_is_final() -> None:
    pool = empty_pool(settled_after=20, changed_after=0, asked=2, refused=QUOTA)
    with pytest.raises(TasksFailed, match=NO_NODES):
        _refused(pool, [], OWN, helped=False)


def test_a_refusal_before_a_new_formula_is_not_final() -> None:
    pool = empty_pool(settled_after=20, changed_after=3600, asked=2, refused=QUOTA)
    assert _refused(pool, [], OWN, helped=False).text == "AccountCoreQuotaReached: No."


def looked_at(pool: BatchPool, *node_states: str, own: bool = True, added_after: float = 0) -> str:
    """What tasks wait for that were added so many seconds after the last evaluation of the pool's formula."""
    snapshot = Snapshot(
        read=frozenset(Part),
        pool=pool,
        nodes=[BatchNode({"id": f"node{index}", "state": state}) for index, state in enumerate(node_states)],
        job=BatchJob({"id": "job", "state": "active"}),
        tasks_added=EVALUATED + timedelta(seconds=added_after),
    )
    return why_waiting(snapshot, replace(OWN, own=own), LIMITS).text


def test_all_nodes_lost_is_final_once_no_more_will_come() -> None:
    def pool(allocation_state: str) -> BatchPool:
        return BatchPool({"id": "pool", "state": "active", "allocationState": allocation_state})

    assert looked_at(pool("resizing"), "unusable") == "nodes: 1 unusable"
    with pytest.raises(TasksFailed, match=r"^no node of pool pool can run tasks: all 1 are unusable$"):
        looked_at(pool("steady"), "unusable")


# An existing pool that scales itself: what is older than the run's tasks says nothing of what it does for them.


@pytest.mark.parametrize("added_after", [0, 10, 3600], ids=["with the evaluation", "while it settles", "later"])
def test_an_error_older_than_the_tasks_does_not_fail_the_run(added_after: float) -> None:
    pool = empty_pool(settled_after=20, changed_after=-3600, refused=QUOTA)
    waiting = looked_at(pool, own=False, added_after=added_after)
    assert waiting == "pool pool is steady, no node yet; Azure could not allocate: AccountCoreQuotaReached: No."


def test_an_error_from_after_the_tasks_were_added_does() -> None:
    pool = empty_pool(settled_after=20, changed_after=-3600, refused=QUOTA)
    with pytest.raises(TasksFailed, match=NO_NODES):
        looked_at(pool, own=False, added_after=-1)


def test_an_older_error_is_not_final_until_the_resize_has_ended() -> None:
    """The formula has seen the tasks; the change of size that it asked for has not ended."""
    pool = empty_pool(settled_after=-600, changed_after=-3600, refused=QUOTA)
    assert looked_at(pool, own=False, added_after=-30).startswith("pool pool is steady, no node yet")


def test_lost_nodes_are_not_final_before_the_formula_saw_the_tasks() -> None:
    pool = empty_pool(settled_after=20, changed_after=-3600)
    assert looked_at(pool, "starttaskfailed", own=False, added_after=60) == "nodes: 1 starttaskfailed"
    with pytest.raises(TasksFailed, match=r"^no node of pool pool can run tasks: all 1 are starttaskfailed$"):
        looked_at(pool, "starttaskfailed", own=False, added_after=-60)


def test_a_fixed_size_pool_without_nodes_is_final() -> None:
    pool = BatchPool(
        {
            "id": "pool",
            "state": "active",
            "allocationState": "steady",
            "allocationStateTransitionTime": EVALUATED.isoformat(),
            "targetDedicatedNodes": 2,
            "resizeErrors": [{"code": QUOTA[0], "message": "No."}],
        }
    )
    with pytest.raises(TasksFailed, match=NO_NODES):
        looked_at(pool, own=False, added_after=3600)
