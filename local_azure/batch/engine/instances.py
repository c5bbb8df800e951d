"""Runs multi-instance tasks: a coordination command on each of several nodes, then the task's own on the first one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from local_azure.batch.engine import attempts, environment, pool_specs, subtasks
from local_azure.batch.engine.attempts import Attempt, Kind
from local_azure.batch.engine.job_tasks import JobTasks
from local_azure.batch.engine.service import Service
from local_azure.batch.node.node_agent import Execution, NodeAgent
from local_azure.batch.node.runner import RunningCommand
from local_azure.batch.node.work import Result, Work
from local_azure.batch.state.store import Row

MASTER_PORT = 6000  # as in the example of Azure's reference, which says that it is not for tasks


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A node of a multi-instance task, and the attempt that holds it; the number 0 is the primary task."""

    number: int
    attempt: Attempt
    node: Row


class Instances:
    def __init__(self, service: Service, agent: NodeAgent, job_tasks: JobTasks) -> None:
        self._service = service
        self._agent = agent
        self._job_tasks = job_tasks
        self._groups: dict[int, Sequence[Instance]] = {}  # those of subtasks, by the attempt of their primary task

    def hold(self, primary: Attempt, others: Sequence[Instance]) -> None:
        self._groups[primary.seq] = others

    def release(self, primary: Attempt) -> None:
        """Forget an attempt whose end is recorded."""
        self._groups.pop(primary.seq, None)

    def free_nodes(self, primary: Attempt) -> list[Row]:
        """End what holds the other nodes of the task; returns those that are left."""
        held = [each.attempt for each in self._groups.get(primary.seq, ())]
        for attempt in held:
            attempts.remove(self._service, attempt)
            self._service.reconciler.wake("node", attempt.pool, attempt.node)
        found = (self._service.store.nodes.get(attempt.pool, attempt.node) for attempt in held)
        return [node for node in found if node]

    def stop_whole(self, seq: int) -> bool:
        """Stop the whole task for the reason for which a node of a subtask is to be free; False if it is none."""
        primaries = (key for key, group in self._groups.items() if any(each.attempt.seq == seq for each in group))
        if (primary := next(primaries, None)) is None:
            return False
        with self._service.store.transaction():
            found = {each.seq: each for each in attempts.where(self._service, "seq IN (?, ?)", primary, seq)}
            if len(found) == 2 and (reason := found[seq].stop):
                attempts.stop(self._service, found[primary], reason)
        return True

    async def carry_out(self, primary: Instance, task: Row, job: Row, work: Work, execution: Execution) -> Result:
        """Carry out one attempt of the task; `work` is that of its own command."""
        instances = [primary, *self._groups.get(primary.attempt.seq, ())]
        numbers = [each.number for each in instances[1:]]
        if not all(await asyncio.gather(*(self._is_prepared(job, each.node) for each in instances[1:]))):
            return Result(interrupted=True)
        self._record(task, dict.fromkeys(numbers))
        execution.also = Execution(stopping=execution.stopping)
        try:
            result = await self._run(instances, task, job, work, execution, execution.also)
        finally:
            execution.also.stop()
            await asyncio.gather(*(command.outcome() for command in execution.also.commands), return_exceptions=True)
            for each in instances:
                self._status_file(each).unlink(missing_ok=True)
        self._record(task, dict.fromkeys(numbers, Result(exit_code=0)))
        return result

    async def _is_prepared(self, job: Row, node: Row) -> bool:
        return not self._job_tasks.needs_preparation(job, node) or await self._job_tasks.prepare(job, node)

    async def _run(
        self, instances: Sequence[Instance], task: Row, job: Row, work: Work, execution: Execution, others: Execution
    ) -> Result:
        """Run the coordination command on all nodes, then the task's own; what the first has started lives on."""
        began = asyncio.get_running_loop().time()
        everywhere = of_all([each.node for each in instances])
        coordinations = {each.number: self._coordination(each, task, job, work, everywhere) for each in instances}
        failed = await self._coordinate(task, coordinations, others)
        if failed or execution.stopping:
            return failed or Result(interrupted=True)
        left = work.time_limit
        if left is not None:
            left = max(0.001, left - (asyncio.get_running_loop().time() - began))
        own = of_one(instances[0], work.directory)
        work = replace(work, environment={**work.environment, **everywhere, **own}, time_limit=left)
        return await self._agent.perform(work, execution)

    async def _coordinate(
        self, task: Row, coordinations: Mapping[int, tuple[Path, Work]], execution: Execution
    ) -> Result | None:
        """Run all; returns the result of the task if one of them fails, which ends the others."""

        async def one(number: int, shared: Path, work: Work) -> Result | None:
            ended = await self._agent.coordinate(work, shared, execution)
            if isinstance(ended, RunningCommand):
                return None
            self._record(task, {number: ended})
            execution.stop()  # the others may wait for this one
            return ended

        ends = await asyncio.gather(*(one(number, *part) for number, part in coordinations.items()))
        failed = [result for result in ends if result]
        return next((result for result in failed if not result.interrupted), failed[0] if failed else None)

    def _status_file(self, instance: Instance) -> Path:
        return self._service.data / "attempts" / f"{instance.attempt.seq}-coordination.json"

    def _coordination(
        self, instance: Instance, task: Row, job: Row, work: Work, everywhere: Mapping[str, str]
    ) -> tuple[Path, Work]:
        """The directory that is AZ_BATCH_TASK_SHARED_DIR on the node, and the coordination there."""
        service, attempt = self._service, instance.attempt
        settings = task.document["multiInstanceSettings"]
        root = service.node_directory(attempt.pool, attempt.node)
        shared = root / environment.job_directory(job.document["id"]) / task.document["id"]
        directory = shared / str(instance.number) if instance.number else shared
        pool = service.pool(attempt.pool).document["id"]
        variables = environment.of_task(
            service, task.document, job.document, pool=pool, node=instance.node.document, root=root, directory=directory
        )
        coordination = Work(
            command_line=settings["coordinationCommandLine"],
            directory=directory,
            environment={**variables, **everywhere, **of_one(instance, shared)},
            status_file=self._status_file(instance),
            identities=work.identities,
            resource_files=settings.get("commonResourceFiles", ()),
            container=work.container,
            time_limit=work.time_limit,
        )
        return shared, coordination

    def _record(self, task: Row, results: Mapping[int, Result | None]) -> None:
        with self._service.store.transaction():
            row = self._service.store.tasks.by_seq(task.seq)
            if row is not None:
                subtasks.record(self._service, row, results)
                self._service.store.tasks.save(row)


def begin_subtasks(service: Service, task: Row, nodes: Sequence[Row], slots: int) -> Sequence[Instance]:
    """Hold the nodes for the subtasks of a task that starts on another one. The caller saves the task."""
    info = task.document["nodeInfo"]
    instances, shown = [], []
    for number, node in enumerate(nodes, 1):
        attempt = attempts.add(service, Kind.SUBTASK, node.keys[0], node.id, job=task.keys[0], slots=slots)
        instances.append(Instance(number=number, attempt=attempt, node=node))
        of_node = {"affinityId": node.document["affinityId"], "nodeId": node.document["id"]}
        shown.append({**info, **of_node, "taskRootDirectory": f"{info['taskRootDirectory']}/{number}"})
    subtasks.begin(service, task, shown)
    return instances


def of_all(nodes: Sequence[Row]) -> dict[str, str]:
    """The variables that are the same for all instances; the primary task's node is the first."""
    addresses = [node.document["ipAddress"] for node in nodes]
    cores = [f"{node.document['ipAddress']} {pool_specs.cores(node.document['vmSize'])}" for node in nodes]
    return {
        "AZ_BATCH_HOST_LIST": ",".join(addresses),
        "AZ_BATCH_NODE_LIST": ";".join(addresses),
        "AZ_BATCH_MASTER_NODE": f"{addresses[0]}:{MASTER_PORT}",
        "CCP_NODES": " ".join([str(len(nodes)), *cores]),
    }


def of_one(instance: Instance, shared: Path) -> dict[str, str]:
    return {
        "AZ_BATCH_IS_CURRENT_NODE_MASTER": str(instance.number == 0).lower(),
        "AZ_BATCH_TASK_SHARED_DIR": str(shared),
    }
