"""Decides which active tasks of a pool start on which of its nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge

from local_azure.batch.engine.job_tasks import JobTasks
from local_azure.batch.engine.placement import Place, choose, most_instances
from local_azure.batch.engine.service import Service
from local_azure.batch.state.store import Row

MORE = 1  # a job manager task, which may need a whole node, or a dedicated one


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A task of a job, and the nodes on which it is to start. The first is that of a primary task."""

    task: Row
    job: Row
    nodes: Sequence[Row]
    slots: int  # on each of them


def assignments(service: Service, job_tasks: JobTasks, pool_id: str) -> Iterator[Assignment]:
    """Active tasks for the pool's free slots: jobs by priority, then tasks in the order of their creation."""
    pool = service.store.pools.get(pool_id)
    if pool is None or pool.document["state"] != "active":
        return
    places = _places(service, pool)
    if not any(place.free > 0 for place in places):
        return
    for job in service.store.jobs.where("pool = ? AND state = 'active' ORDER BY priority DESC, seq", pool_id):
        usable = [place for place in places if not job_tasks.refuses(job, place.node)]
        yield from _of_job(service, job, pool, usable)
        if not any(place.free > 0 for place in places):
            break


def _places(service: Service, pool: Row) -> list[Place]:
    used = dict(
        service.store.execute("SELECT node, sum(slots) FROM attempts WHERE pool = ? GROUP BY node", pool.id).fetchall()
    )
    nodes = service.store.nodes.where("pool = ? AND state IN ('idle', 'running') ORDER BY seq", pool.id)
    return [
        Place(node, pool.document["taskSlotsPerNode"], used.get(node.id, 0))
        for node in nodes
        if "leave" not in node.private and node.document["schedulingState"] == "enabled"
    ]


def _of_job(service: Service, job: Row, pool: Row, places: list[Place]) -> list[Assignment]:
    room = _parallel_room(service, job)
    free = [place.free for place in places if place.free > 0]
    if not room or not free:
        return []
    chosen: list[Assignment] = []
    for task in _tasks_to_run(service, job, max(free), most_instances(pool, places), sum(free) + MORE):
        if len(chosen) == room or not any(place.free > 0 for place in places):
            break
        if places_of_task := choose(task, pool, places):
            slots = [place.take(task) for place in places_of_task]
            nodes = [place.node for place in places_of_task]
            chosen.append(Assignment(task=task, job=job, nodes=nodes, slots=slots[0]))
    return chosen


def _tasks_to_run(service: Service, job: Row, most_slots: int, most_instances: int, limit: int) -> Iterator[Row]:
    """Active tasks in the order of their creation: up to the limit of each number of slots and of instances.

    Where one does not fit any more, others of the same numbers do not either. No other tasks are read.
    """
    store = service.store
    # Exactly the terms of the index tasks_to_run.
    to_run = "job = ? AND json_extract(document, '$.state') = 'active' AND blocked = 0"
    # Not one comparison of both numbers: it would read all tasks of the same number of slots.
    instances_more = (
        f"SELECT slots, instances FROM tasks WHERE {to_run} AND slots = ? AND instances > ? ORDER BY instances LIMIT 1"
    )
    slots_more = f"SELECT slots, instances FROM tasks WHERE {to_run} AND slots > ? ORDER BY slots, instances LIMIT 1"

    def following(slots: int, instances: int) -> tuple[int, int] | None:
        more: tuple[int, int] | None = store.execute(instances_more, job.id, slots, instances).fetchone()
        return more or store.execute(slots_more, job.id, slots).fetchone()

    some = f"{to_run} AND slots = ? AND instances = ? ORDER BY seq LIMIT ?"
    found, slots, instances = [], 0, 0
    while (row := following(slots, instances)) and row[0] <= most_slots:
        slots, instances = row
        if instances <= most_instances:
            found.append(store.tasks.where(some, job.id, slots, instances, limit))
        else:
            instances = 2**31  # those of the next number of slots
    return merge(*found, key=lambda task: task.seq)


def _parallel_room(service: Service, job: Row) -> int:
    limit = int(job.document["maxParallelTasks"])
    if limit == -1:
        return 2**31
    running = service.store.value("SELECT count(*) FROM attempts WHERE job = ? AND task IS NOT NULL", job.id)
    return max(0, limit - int(running))
