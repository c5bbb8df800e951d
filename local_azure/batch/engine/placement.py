"""Chooses the nodes for a task."""

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


def choose(task: Row, pool: Row, places: list[Place]) -> list[Place]:
    """The nodes on which the task is to run; none where it has to wait. The first is that of a primary task."""
    if settings := task.document.get("multiInstanceSettings"):
        return _choose_several(task, pool, places, settings["numberOfInstances"])
    fitting = [place for place in places if _fits(task, place)]
    return [_best(task, pool, fitting)] if fitting else []


def most_instances(pool: Row, places: list[Place]) -> int:
    """The most nodes that a multi-instance task can have now.

    In other pools than Azure documents for such tasks it waits for ever, as in Azure.
    """
    suitable = pool.document["enableInterNodeCommunication"] and pool.document["taskSlotsPerNode"] == 1
    return sum(place.used == 0 for place in places) if suitable else 0


def _choose_several(task: Row, pool: Row, places: list[Place], count: int) -> list[Place]:
    """As many nodes for itself."""
    free = [place for place in places if _fits(task, place) and place.used == 0]
    if len(free) < count:
        return []
    first = _best(task, pool, free)
    return [first, *[place for place in free if place is not first][: count - 1]]


def _best(task: Row, pool: Row, fitting: list[Place]) -> Place:
    """The node of the task's affinity, else by the pool's node fill type."""
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
