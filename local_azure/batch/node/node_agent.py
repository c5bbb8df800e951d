"""The agent of the nodes: makes directories, stages files in, runs a command, stages files out, says how it went."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from local_azure.batch.node import transfer
from local_azure.batch.node.runner import Attempt as Process
from local_azure.batch.node.runner import Command, Ending, Outcome, Runner
from local_azure.batch.state.auto_storage import PROPERTY, AutoStorage
from local_azure.batch.state.paths import make_private, remove_tree
from local_azure.batch.state.store import Document

logger = logging.getLogger(__name__)

TRANSFERS = 8  # nodes' file transfers at the same time

RETRY = 2.0  # seconds between attempts to write to a disk that is full

LOSS = "the local Blob Storage was found to have been killed; what was written to it shortly before is lost"

T = TypeVar("T")

NODE_DIRECTORIES = ("applications", "fsmounts", "shared", "startup", "volatile", "workitems")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A command with all that belongs to it. `directory` gets stdout.txt, stderr.txt and wd."""

    command_line: str
    directory: Path
    environment: Mapping[str, str]
    status_file: Path
    resource_files: Sequence[Document] = ()
    output_files: Sequence[Document] = ()
    time_limit: float | None = None  # seconds, for all of it


@dataclass(frozen=True, kw_only=True)
class Result:
    """How work ended: `failure` is the wire's failureInfo, None means success."""

    exit_code: int | None = None
    failure: Document | None = None
    interrupted: bool = False  # it was told to end, and so says nothing of the task
    supervisor_lost: bool = False  # nobody saw the program end: its supervising process was killed

    @property
    def succeeded(self) -> bool:
        return self.failure is None and not self.interrupted

    @property
    def may_be_retried(self) -> bool:
        """Only a program that ran and failed is: not a failed transfer, a missing program, a time limit."""
        return self.failure is not None and self.failure["code"] == "FailureExitCode"


@dataclass
class Execution:
    """Work in progress."""

    process: Process | None = None
    stopping: bool = False
    job: asyncio.Task[None] | None = field(default=None)

    def stop(self) -> None:
        self.stopping = True
        if self.process:
            self.process.terminate()


class NodeAgent:
    """Runs work for all nodes. Keeps nothing that outlives the process."""

    def __init__(self, runner: Runner, trash: Path, auto_storage: asyncio.Future[AutoStorage] | None = None) -> None:
        self._runner = runner
        self._trash = trash
        self._auto_storage = auto_storage
        self._executions: dict[int, Execution] = {}
        self._threads = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer")
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="remove")

    def spawn(self, seq: int, run: Callable[[Execution], Coroutine[Any, Any, None]]) -> None:
        """Let `run` carry out the attempt of that number."""
        execution = self._executions[seq] = Execution()
        execution.job = asyncio.get_running_loop().create_task(run(execution))
        execution.job.add_done_callback(lambda job: self._over(seq, job))

    async def result_of(self, work: Awaitable[Result]) -> Result:
        """What `work` comes to. What it does not foresee fails it, or it would be said to run for ever."""
        try:
            return await work
        except sqlite3.OperationalError:
            logger.exception("The disk is full, or the like: an attempt is given up, to be made again")
            return Result(interrupted=True)
        except Exception as error:
            logger.exception("An attempt could not be carried out")
            reason = _reason(error) if isinstance(error, OSError) else type(error).__name__
            return Result(failure=failure("servererror", "InternalError", f"The service could not run it: {reason}"))

    async def record(self, record: Callable[[], T]) -> T:
        """Carry out `record`, again and again while the disk is full: an end that is not recorded would be lost."""
        while True:
            try:
                return record()
            except sqlite3.OperationalError:
                logger.exception("The end of an attempt cannot be recorded yet")
                await asyncio.sleep(RETRY)

    def _over(self, seq: int, job: asyncio.Task[None]) -> None:
        self._executions.pop(seq, None)
        if not job.cancelled() and (error := job.exception()):
            logger.error("Attempt %s could not be carried out", seq, exc_info=error)

    def is_running(self, seq: int) -> bool:
        return seq in self._executions

    def stop(self, seq: int) -> None:
        if execution := self._executions.get(seq):
            execution.stop()

    async def close(self) -> None:
        """Forget all work, then end its processes: what is interrupted so is done again by the next service."""
        jobs = [execution.job for execution in self._executions.values() if execution.job]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await self._runner.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._chores.shutdown(wait=True)

    async def carry_out(self, work: Work, execution: Execution) -> Result:
        """All of one attempt. Whatever goes wrong with the work is in the result."""
        deadline = None if work.time_limit is None else asyncio.get_running_loop().time() + work.time_limit
        try:
            self._prepare(work.directory)
        except OSError as error:
            return Result(failure=failure("servererror", "ResourceDirectoryCreateFailed", _reason(error)))
        if work.resource_files:
            try:
                await self._stage_in(work)
            except transfer.TransferFailed as error:
                return Result(failure=self._transfer_failure(error))
        if execution.stopping:
            return Result(interrupted=True)
        outcome = await self._run(work, execution, deadline)
        return await self.conclude(work, outcome, stopped=execution.stopping)

    async def _stage_in(self, work: Work) -> None:
        linked = None
        if self._auto_storage and any(PROPERTY in file for file in work.resource_files):
            linked = await asyncio.shield(self._auto_storage)  # this work may be cancelled, the account not
        await self._in_thread(transfer.stage_in, work.resource_files, work.directory / "wd", auto_storage=linked)

    def _prepare(self, directory: Path) -> None:
        self.discard(directory)
        make_private(directory / "wd")
        for name in ("stdout.txt", "stderr.txt"):
            (directory / name).touch(mode=0o600)

    async def _run(self, work: Work, execution: Execution, deadline: float | None) -> Outcome:
        left = None if deadline is None else max(0.001, deadline - asyncio.get_running_loop().time())
        command = Command(
            command_line=work.command_line,
            working_directory=work.directory / "wd",
            stdout=work.directory / "stdout.txt",
            stderr=work.directory / "stderr.txt",
            environment=work.environment,
            status_file=work.status_file,
            time_limit=left,
        )
        try:
            execution.process = await self._runner.start(command)
        except OSError as error:
            return Outcome(ending=Ending.LAUNCH_FAILED, exit_code=None, message=_reason(error))
        if execution.stopping:
            execution.process.terminate()
        return await execution.process.outcome()

    async def conclude(self, work: Work, outcome: Outcome, *, stopped: bool) -> Result:
        """Upload what is to be uploaded, and judge. Also for an outcome that a former service did not get to record."""
        if outcome.ending is Ending.ORPHANED or (stopped and outcome.ending is Ending.SHIM_LOST):
            return Result(interrupted=True)
        if outcome.ending is Ending.TERMINATED:
            return Result(exit_code=outcome.exit_code, interrupted=True)
        failed = _outcome_failure(outcome)
        lost = outcome.ending is Ending.SHIM_LOST
        if work.output_files and not stopped and not lost:
            try:
                await self._in_thread(
                    transfer.stage_out,
                    work.output_files,
                    work.directory / "wd",
                    succeeded=failed is None,
                    environment=work.environment,
                )
            except transfer.TransferFailed as error:
                failed = failed or self._transfer_failure(error)
        return Result(exit_code=outcome.exit_code, failure=failed, supervisor_lost=lost)

    def _transfer_failure(self, error: transfer.TransferFailed) -> Document:
        """The failureInfo; for what is missing from a storage account that was killed, with that as a reason."""
        details = error.details
        linked = self._auto_storage.result() if self._auto_storage and self._auto_storage.done() else None
        if linked and linked.killed_at and error.code in ("BlobNotFound", "FileUploadContainerNotFound"):
            place = details.get("BlobSource") or details.get("Destination") or ""
            if place.startswith(linked.blob_endpoint):
                details = {**details, "DataLoss": f"{linked.killed_at:%Y-%m-%d %H:%M:%S} UTC: {LOSS}"}
        return failure(error.category, error.code, error.message, **details)

    async def _in_thread(self, function: Callable[..., None], *args: object, **kwargs: object) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def make_node(self, root: Path) -> None:
        for name in NODE_DIRECTORIES:
            make_private(root / name)

    def discard(self, path: Path) -> None:
        """Take a directory out of sight now and remove it when there is time; a crash leaves it in the trash."""
        make_private(self._trash)
        grave = self._trash / uuid.uuid4().hex
        try:
            os.rename(path, grave)
        except FileNotFoundError:
            return
        self._chores.submit(remove_tree, grave)

    def empty_trash(self) -> None:
        for grave in self._trash.iterdir() if self._trash.exists() else ():
            self._chores.submit(remove_tree, grave)


def failure(category: str, code: str, message: str, **details: str) -> Document:
    """A failureInfo as the service writes it."""
    info: Document = {"category": category, "code": code, "message": message}
    if details:
        info["details"] = [{"name": name, "value": value} for name, value in details.items()]
    return info


def task_ended(reason: str) -> Document:
    return failure("usererror", "TaskEnded", "Task Was Ended", Message=reason)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _outcome_failure(outcome: Outcome) -> Document | None:
    if outcome.ending is Ending.EXITED:
        if outcome.exit_code == 0:
            return None
        return failure(
            "usererror",
            "FailureExitCode",
            "The task exited with an exit code representing a failure",
            Message="The task process exited with an unexpected exit code",
            AdditionalErrorCode="FailureExitCode",
        )
    if outcome.ending is Ending.TIME_LIMIT:
        return task_ended("The task exceeded its maximum wall clock time (maxWallClockTime) and was ended.")
    if outcome.ending is Ending.PROGRAM_NOT_FOUND:
        message = "The specified command program is not found"
        return failure("usererror", "CommandProgramNotFound", message, Message=outcome.message)
    if outcome.ending is Ending.SHIM_LOST:
        return failure("servererror", "Unknown", "The task's supervising process was killed", Message=outcome.message)
    message = "The specified command could not be launched"
    return failure("usererror", "CommandLaunchFailed", message, Message=outcome.message)
