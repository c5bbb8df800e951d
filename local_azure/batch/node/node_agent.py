"""The node agent: creates directories, stages files in, runs a command, stages files out, reports the result."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from local_azure.batch.node import containers
from local_azure.batch.node.command import Command, Ending, Outcome
from local_azure.batch.node.runner import Runner, RunningCommand
from local_azure.batch.node.staging import Staging
from local_azure.batch.node.work import Result, Work, failure, outcome_failure
from local_azure.batch.state.auto_storage import AutoStorage
from local_azure.batch.state.paths import make_private, remove_tree

logger = logging.getLogger(__name__)

RETRY = 2.0  # seconds between retries while the disk is full

T = TypeVar("T")

NODE_DIRECTORIES = ("applications", "fsmounts", "shared", "startup", "volatile", "workitems")


@dataclass
class Execution:
    """Work in progress. `also` is work that ends with it, of the other nodes of a multi-instance task."""

    commands: list[RunningCommand] = field(default_factory=list)
    stopping: bool = False
    task: asyncio.Task[None] | None = field(default=None)
    also: Execution | None = None

    def stop(self) -> None:
        self.stopping = True
        for command in self.commands:
            command.terminate()
        if self.also:
            self.also.stop()


class NodeAgent:
    """Runs work for all nodes. Its state ends with the process."""

    def __init__(
        self,
        runner: Runner,
        trash: Path,
        auto_storage: asyncio.Future[AutoStorage] | None = None,
        storage_token: Callable[[], str] | None = None,
        where: containers.Containers = containers.Containers.ENGINE,
    ) -> None:
        self._where = where  # tasks with containerSettings run
        self._runner = runner
        self._trash = trash
        self._staging = Staging(auto_storage, storage_token)
        self._executions: dict[int, Execution] = {}
        self._removals = ThreadPoolExecutor(1, thread_name_prefix="remove")

    def spawn(self, seq: int, run: Callable[[Execution], Coroutine[Any, Any, None]]) -> None:
        """Run the attempt with that number in the background."""
        execution = self._executions[seq] = Execution()
        execution.task = asyncio.get_running_loop().create_task(run(execution))
        execution.task.add_done_callback(lambda task: self._finished(seq, task))

    async def result_of(self, work: Awaitable[Result]) -> Result:
        """Await the result of `work`. An unexpected error fails it; otherwise it would appear to run for ever."""
        try:
            return await work
        except sqlite3.OperationalError:
            logger.exception("Attempt: interrupted by a database error, for example a full disk; it will run again")
            return Result(interrupted=True)
        except Exception as error:
            logger.exception("Attempt: failed with an unexpected error")
            reason = _reason(error) if isinstance(error, OSError) else type(error).__name__
            return Result(failure=failure("ServerError", "InternalError", f"The service could not run it: {reason}"))

    async def record(self, record: Callable[[], T]) -> T:
        """Call `record`, and retry while the disk is full, so that no end of an attempt is lost."""
        while True:
            try:
                return record()
            except sqlite3.OperationalError:
                logger.exception("Attempt: its end could not be recorded, retrying in %g s", RETRY)
                await asyncio.sleep(RETRY)

    def _finished(self, seq: int, task: asyncio.Task[None]) -> None:
        self._executions.pop(seq, None)
        if not task.cancelled() and (error := task.exception()):
            logger.error("Attempt %s: failed with an unexpected error", seq, exc_info=error)

    def stop(self, seq: int) -> None:
        if execution := self._executions.get(seq):
            execution.stop()

    async def close(self) -> None:
        """Cancel all work and end its processes; the next service runs it again."""
        tasks = [execution.task for execution in self._executions.values() if execution.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.close()
        self._staging.close()
        self._removals.shutdown(wait=True)

    async def carry_out(self, work: Work, execution: Execution) -> Result:
        """Carry out one attempt: files, command, files. Errors of the work are in the result."""
        failed = self._prepare(work.directory, work.directory)
        return failed or await self.perform(work, execution)

    async def perform(self, work: Work, execution: Execution) -> Result:
        """The same, in directories that are there already."""
        deadline = None if work.time_limit is None else asyncio.get_running_loop().time() + work.time_limit
        if failed := await self._staging.stage_in(work, work.directory / "wd"):
            return failed
        if execution.stopping:
            return Result(interrupted=True)
        left = None if deadline is None else max(0.001, deadline - asyncio.get_running_loop().time())
        running = await self._begin(work, execution, left)
        outcome = running if isinstance(running, Outcome) else await running.outcome()
        execution.commands.clear()
        return await self.conclude(work, outcome, stopped=execution.stopping)

    async def coordinate(self, work: Work, shared: Path, execution: Execution) -> RunningCommand | Result:
        """Make a node ready for a multi-instance task: its resource files go to `shared`, which has its directory.

        Returns the command that has succeeded, and whose processes live on until it is terminated; or, where there is
        none, the result of the task.
        """
        failed = self._prepare(shared, work.directory) or await self._staging.stage_in(work, shared)
        if failed or execution.stopping:
            return failed or Result(interrupted=True)
        running = await self._begin(work, execution, work.time_limit, background=True)
        outcome = running if isinstance(running, Outcome) else await running.ready()
        if outcome is None:
            assert isinstance(running, RunningCommand)
            return running
        return await self.conclude(work, outcome, stopped=execution.stopping)

    def _prepare(self, root: Path, directory: Path) -> Result | None:
        """Make the directory anew, and `root`, where it is in; returns the result of the work if that fails."""
        try:
            self.discard(root)
            make_private(directory / "wd")
            for name in ("stdout.txt", "stderr.txt"):
                (directory / name).touch(mode=0o600)
        except OSError as error:
            return Result(failure=failure("ServerError", "ResourceDirectoryCreateFailed", _reason(error)))
        return None

    async def _begin(
        self, work: Work, execution: Execution, time_limit: float | None, *, background: bool = False
    ) -> RunningCommand | Outcome:
        try:
            command = self._command(work, time_limit)
        except (containers.NoEngine, ValueError) as error:
            return Outcome(ending=Ending.LAUNCH_FAILED, exit_code=None, message=str(error))
        try:
            running = await self._runner.start(replace(command, background=background))
        except OSError as error:
            return Outcome(ending=Ending.LAUNCH_FAILED, exit_code=None, message=_reason(error))
        execution.commands.append(running)
        if execution.stopping:
            running.terminate()
        return running

    def _command(self, work: Work, time_limit: float | None) -> Command:
        command = Command(
            command_line=work.command_line,
            working_directory=work.directory / "wd",
            stdout=work.directory / "stdout.txt",
            stderr=work.directory / "stderr.txt",
            environment=work.environment,
            status_file=work.status_file,
            time_limit=time_limit,
        )
        if not work.container:
            return command
        if self._where is containers.Containers.HOST:
            name = work.environment.get("AZ_BATCH_TASK_ID", "of the node's start")
            logger.warning("Task %s: runs on this machine, not in a container of %s", name, work.container["imageName"])
            return command
        engine = containers.find_engine()
        run = containers.in_container(engine, work.container, work.command_line, work.environment)
        return replace(
            command,
            command_line=shlex.join(run.arguments),
            environment=run.environment,
            clean_up=run.clean_up,
        )

    async def conclude(self, work: Work, outcome: Outcome, *, stopped: bool) -> Result:
        """Upload the output files and return the result; also for an outcome of the previous service."""
        if outcome.ending is Ending.ORPHANED or (stopped and outcome.ending is Ending.SHIM_LOST):
            return Result(interrupted=True)
        if outcome.ending is Ending.TERMINATED:
            return Result(exit_code=outcome.exit_code, interrupted=True)
        failed = outcome_failure(outcome, work.command_line)
        lost = outcome.ending is Ending.SHIM_LOST
        if work.output_files and not stopped and not lost:
            not_stored = await self._staging.stage_out(work, succeeded=failed is None)
            failed = failed or not_stored
        return Result(exit_code=outcome.exit_code, failure=failed, supervisor_lost=lost)

    def make_node(self, root: Path) -> None:
        for name in NODE_DIRECTORIES:
            make_private(root / name)

    def discard(self, path: Path) -> None:
        """Move a directory to the trash, and remove it in the background; after a crash empty_trash() does."""
        make_private(self._trash)
        trashed = self._trash / uuid.uuid4().hex
        try:
            os.rename(path, trashed)
        except FileNotFoundError:
            return
        self._removals.submit(remove_tree, trashed)

    def empty_trash(self) -> None:
        for trashed in self._trash.iterdir() if self._trash.exists() else ():
            self._removals.submit(remove_tree, trashed)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
