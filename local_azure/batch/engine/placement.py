"""Chooses a node for a task."""

from __future__ import annotations

from local_azure.batch.state.store import Row


class Place:
    """A node that accepts tasks, with its free slots."""

    def __init__(self, node: Row, slots: int, used: int) -> None:
        self.node = node
        self.slots = slots
        self.free = slots - used
        self.used = used

    def take(self, task: Row) -> int:
        """Reserve what the task needs, which may be the whole node; returns the number of slots."""
        slots = self.slots if task.private.get("exclusive") else int(task.document["requiredSlots"])
        self.free -= slots
        self.used += slots
        return slots


def choose(task: Row, pool: Row, places: list[Place]) -> Place | None:
    """The node on which the task is to run: its affinity first, then the pool's node fill type."""
    fitting = [place for place in places if _fits(task, place)]
    if not fitting:
        return None
    wanted = task.document.get("affinityInfo", {}).get("affinityId")
    near = [place for place in fitting if wanted and place.node.document["affinityId"] == wanted]
    pack = pool.document["taskSchedulingPolicy"]["nodeFillType"].lower() == "pack"
    # `min` returns the first of equals, so nodes are filled in the order in which they joined.
    return min(near or fitting, key=lambda place: place.free if pack else place.used)


def _fits(task: Row, place: Place) -> bool:
    """True if the node has room for the task; a job manager task may need a whole node, or a dedicated one."""
    if task.private.get("dedicated") and not place.node.document["isDedicated"]:
        return False
    return place.used == 0 if task.private.get("exclusive") else place.free >= int(task.document["requiredSlots"])
