"""Pools and nodes under any sequence of requests: states, counts and refusals are those of the contract."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from local_azure.batch.state.states import ALLOCATION, NODE, POOL
from tests.support.batch_service import (
    QUICK,
    RunningService,
    create_job,
    create_pool,
    pool_options,
    task,
    wait_for,
    wait_for_nodes,
)

SIZES = st.integers(0, 3)
WHICH = st.integers(0, 2)
DEALLOCATIONS = st.sampled_from(["requeue", "terminate", "taskcompletion"])
COMMANDS = st.sampled_from(["/bin/true", "/bin/sleep 0.05", "/bin/sleep 30"])
# Why an operation is refused on a node that is in a state in which it cannot be carried out.
REFUSALS = {
    "creating": "NodeBeingCreated",
    "starting": "NodeBeingStarted",
    "rebooting": "NodeBeingRebooted",
    "reimaging": "NodeBeingReimaged",
    "unusable": "NodeStateUnusable",
}
WRONG_STATE = "OperationInvalidForCurrentState"
GONE = ("PoolNotFound", "NodeNotFound")
RESTARTABLE = ("idle", "running", "starttaskfailed", "offline")


class PoolsAndNodes(RuleBasedStateMachine):
    """`deleted` is whether the pool is on its way out, `states` in which state each node was seen last."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.service = RunningService(Path(self.directory.name) / "batch", QUICK)
        self.service.start()
        self.client = self.service.client()
        self.client.create_pool(pool_options(target_dedicated_nodes=2, target_low_priority_nodes=1))
        create_job(self.client)
        self.tasks = 0
        self.deleted = False
        self.targets = (2, 1)
        self.allocation = "resizing"
        self.states: dict[str, str] = {}

    def teardown(self) -> None:
        try:
            self._comes_to_rest()
        finally:
            self.service.stop()
            self.directory.cleanup()

    def _refusal(self, action: Callable[[], object]) -> str | None:
        """The code with which the request is refused; it must be a conflict, or about something that is gone."""
        refusal: HttpResponseError | None = None
        try:
            action()
        except (ResourceExistsError, ResourceNotFoundError) as error:
            refusal = error
        if refusal is None:
            return None
        code = str(refusal.error.code)
        assert refusal.status_code == (404 if code in GONE else 409)
        return code

    def _pool(self) -> m.BatchPool | None:
        return next((pool for pool in self.client.list_pools() if pool.id == "pool"), None)

    def _nodes(self) -> list[m.BatchNode]:
        try:
            return list(self.client.list_nodes("pool"))
        except ResourceNotFoundError:
            assert self.deleted
            return []

    def _on_pool(self, action: Callable[[], object], *, allowed_in: str) -> bool:
        """Send a request that needs the pool's allocation to be in a state; whether it was granted.

        The service moves on by itself while we look, so the state before and the one after both explain a refusal.
        """
        before = self._pool()
        code = self._refusal(action)
        if self.deleted:
            assert code in ("PoolBeingDeleted", "PoolNotFound")
            return False
        after = self._pool()
        assert before is not None
        assert after is not None
        if code is None:
            assert allowed_in in _reachable(ALLOCATION.transitions, before.allocation_state or "")
            return True
        assert code == ("PoolBeingResized" if allowed_in == "steady" else WRONG_STATE)
        assert {before.allocation_state, after.allocation_state} != {allowed_in}
        return False

    @rule(dedicated=SIZES, spot=WHICH, option=DEALLOCATIONS)
    def resize(self, dedicated, spot, option):
        options = m.BatchPoolResizeOptions(
            target_dedicated_nodes=dedicated, target_low_priority_nodes=spot, node_deallocation_option=option
        )
        if self._on_pool(lambda: self.client.begin_resize_pool("pool", options), allowed_in="steady"):
            self.targets = (dedicated, spot)

    @rule()
    def stop_resize(self):
        self._on_pool(lambda: self.client.begin_stop_pool_resize("pool"), allowed_in="resizing")

    @rule(which=WHICH, option=DEALLOCATIONS)
    def remove_node(self, which, option):
        nodes = self._nodes()
        if not nodes:
            return
        node = nodes[which % len(nodes)]
        options = m.BatchNodeRemoveOptions(node_ids=[node.id], node_deallocation_option=option)
        granted = self._on_pool_or_without(lambda: self.client.begin_remove_nodes("pool", options))
        if granted:
            pool = self._pool()
            targets = (pool.target_dedicated_nodes or 0, pool.target_low_priority_nodes or 0)
            kind = 0 if node.is_dedicated else 1
            assert self.targets[kind] - targets[kind] in (0, 1)
            assert self.targets[1 - kind] == targets[1 - kind]
            self.targets = targets

    def _on_pool_or_without(self, action: Callable[[], object]) -> bool:
        """As _on_pool, for a request about a node which may have left meanwhile."""
        missing = False

        def act() -> None:
            nonlocal missing
            try:
                action()
            except ResourceNotFoundError as error:
                missing = error.error.code == "NodeNotFound"
                if not missing:
                    raise

        return self._on_pool(act, allowed_in="steady") and not missing

    def _on_node(self, which: int, action: Callable[[str], object], *allowed: str, already: str = "") -> None:
        """Send a request about a node that needs it to be in one of the states."""
        nodes = self._nodes()
        if not nodes:
            return
        node = nodes[which % len(nodes)]
        code = self._refusal(lambda: action(node.id))
        after = next((found.state for found in self._nodes() if found.id == node.id), "leavingpool")
        passed = _between(node.state, after)
        if code is None:
            assert passed & set(allowed), f"granted to a node that was {node.state}"
        elif code not in GONE and not (already and code == already):
            assert code in {REFUSALS.get(state, WRONG_STATE) for state in passed - set(allowed)}

    @rule(which=WHICH, option=st.sampled_from(["requeue", "terminate"]))
    def reboot(self, which, option):
        options: Any = {"nodeRebootOption": option}
        self._on_node(which, lambda node: self.client.begin_reboot_node("pool", node, options), *RESTARTABLE)

    @rule(which=WHICH, option=st.sampled_from(["requeue", "terminate"]))
    def reimage(self, which, option):
        options: Any = {"nodeReimageOption": option}
        self._on_node(which, lambda node: self.client.begin_reimage_node("pool", node, options), *RESTARTABLE)

    @rule(which=WHICH, option=DEALLOCATIONS)
    def disable_scheduling(self, which, option):
        options = m.BatchNodeDisableSchedulingOptions(node_disable_scheduling_option=option)
        self._on_node(
            which,
            lambda node: self.client.disable_node_scheduling("pool", node, options),
            *RESTARTABLE,
            "waitingforstarttask",
            "starting",
            already="NodeAlreadyInTargetSchedulingState",
        )

    @rule(which=WHICH)
    def enable_scheduling(self, which):
        self._on_node(
            which,
            lambda node: self.client.enable_node_scheduling("pool", node),
            *NODE.transitions,
            already="NodeAlreadyInTargetSchedulingState",
        )

    @rule(command=COMMANDS)
    def add_task(self, command):
        self.client.create_task("job", task(f"task{self.tasks}", command))
        self.tasks += 1

    @rule(seconds=st.sampled_from([1, 120, 7200]))
    def advance(self, seconds):
        self.service.advance(seconds=seconds)

    @rule()
    def preempt(self):
        if self._pool():
            self.service.admin("preempt", poolId="pool")

    @rule(chance=st.integers(0, 5))
    def delete_pool(self, chance):
        if chance:
            return  # or there would seldom be a pool
        code = self._refusal(lambda: self.client.begin_delete_pool("pool"))
        assert code in (("PoolBeingDeleted", "PoolNotFound") if self.deleted else (None,))
        self.deleted = True

    @rule()
    def create_pool_again(self):
        code = self._refusal(lambda: self.client.create_pool(pool_options(target_dedicated_nodes=1)))
        if not self.deleted:
            assert code == "PoolExists"
        elif code is None:
            self.deleted, self.targets, self.allocation = False, (1, 0), "resizing"
        else:
            assert code == "PoolBeingDeleted"

    @invariant()
    def nodes_move_as_they_may(self):
        found = {node.id: node for node in self._nodes()}
        for name, node in found.items():
            assert node.state in _reachable(NODE.transitions, self.states.get(name, "creating"))
            assert (node.running_tasks_count > 0) <= (node.state not in ("creating", "idle", "deallocated"))
            assert node.running_task_slots_count <= 1
            assert node.state != "idle" or node.scheduling_state == "enabled"
        self.states = {name: node.state for name, node in found.items()}

    @invariant()
    def pool_is_what_was_asked_for_and_moves_as_it_may(self):
        pool = self._pool()
        if pool is None:
            assert self.deleted
            return
        assert pool.state in _reachable(POOL.transitions, "deleting" if self.deleted else "active")
        assert (pool.state == "deleting") == self.deleted
        assert pool.allocation_state in _reachable(ALLOCATION.transitions, self.allocation)
        self.allocation = pool.allocation_state
        targets = (0, 0) if self.deleted else self.targets
        assert (pool.target_dedicated_nodes, pool.target_low_priority_nodes) == targets
        assert pool.current_dedicated_nodes + pool.current_low_priority_nodes <= 3 + 2 + 3

    @invariant()
    def counts_are_of_the_states_there_are(self):
        for counts in self.client.list_pool_node_counts():
            for tally in (counts.dedicated, counts.low_priority):
                parts = {name: value for name, value in tally.as_dict().items() if name != "total"}
                assert sum(parts.values()) == tally.total

    def _comes_to_rest(self) -> None:
        """Without further requests the pool has its nodes, or is gone; and says so in the same numbers everywhere."""
        for item in self.client.list_tasks("job"):
            if item.state != "completed":
                self._refusal(partial(self.client.terminate_task, "job", item.id))
        if self.deleted:
            wait_for(lambda: self._pool() is None)
            return
        wait_for(self._is_at_rest)
        pool, nodes = self._pool(), self._nodes()
        dedicated = sum(bool(node.is_dedicated) for node in nodes)
        assert (pool.current_dedicated_nodes, pool.current_low_priority_nodes) == (dedicated, len(nodes) - dedicated)
        (counts,) = self.client.list_pool_node_counts()
        assert (counts.dedicated.total, counts.low_priority.total) == (dedicated, len(nodes) - dedicated)
        if not pool.resize_errors:
            assert (dedicated, len(nodes) - dedicated) == self.targets
        assert counts.dedicated.idle + counts.low_priority.idle == sum(node.state == "idle" for node in nodes)

    def _is_at_rest(self) -> bool:
        self.service.advance(seconds=2)  # a preempted node takes a second to come back
        pool = self._pool()
        return pool.allocation_state == "steady" and all(node.state in ("idle", "offline") for node in self._nodes())


def _reachable(transitions: Mapping[str, str], state: str) -> set[str]:
    """The states that may come after a state, at once or later."""
    found, new = {state}, [state]
    while new:
        following = set(transitions[new.pop()].split()) - found
        found |= following
        new += following
    return found


def _between(before: str, after: str) -> set[str]:
    """The states that a node may have passed through which was in one state before a request and in another after."""
    return {before} if before == after else _reachable(NODE.transitions, before)


TestPoolsAndNodes = PoolsAndNodes.TestCase
TestPoolsAndNodes.settings = settings(
    max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_removal_of_a_leaving_node_leaves_the_target_alone(client):
    first, second = sorted(create_pool(client, target_dedicated_nodes=2), key=lambda node: node.allocation_time)
    create_job(client)
    client.create_tasks("job", [task(name, "/bin/sleep 30") for name in ("one", "two")])
    wait_for_nodes(client, "pool", "running", "running")
    options = m.BatchPoolResizeOptions(target_dedicated_nodes=1, node_deallocation_option="taskcompletion")
    client.begin_resize_pool("pool", options)
    client.begin_stop_pool_resize("pool")
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    client.begin_remove_nodes("pool", m.BatchNodeRemoveOptions(node_ids=[second.id]))
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    assert client.get_pool("pool").target_dedicated_nodes == 1
    assert [node.id for node in client.list_nodes("pool")] == [first.id]
