"""Work for a node and its result, with the failureInfo of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from local_azure.batch.node.command import Ending, Outcome
from local_azure.batch.state.store import Document


@dataclass(frozen=True, kw_only=True)
class Work:
    """A command with its files. stdout.txt, stderr.txt and wd are created in `directory`."""

    command_line: str
    directory: Path
    environment: Mapping[str, str]
    status_file: Path
    resource_files: Sequence[Document] = ()
    output_files: Sequence[Document] = ()
    identities: Set[str] = frozenset()  # the managed identities of the pool, resource ids in lower case
    time_limit: float | None = None  # seconds, file transfers included
    container: Document | None = None  # the containerSettings of the API, where it runs in a container


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of work: `failure` is the failureInfo of the API, None if it succeeded."""

    exit_code: int | None = None
    failure: Document | None = None
    interrupted: bool = False  # it was stopped, so it is no result of the task
    supervisor_lost: bool = False  # its supervisor was killed, so its exit code is unknown

    @property
    def succeeded(self) -> bool:
        return self.failure is None and not self.interrupted

    @property
    def may_be_retried(self) -> bool:
        """True for a program that ran and failed; not for a failed transfer, a missing program or a time limit."""
        return self.failure is not None and self.failure["code"] == "FailureExitCode"


def failure(category: str, code: str, message: str, **details: str) -> Document:
    """A failureInfo in the format of the API."""
    info: Document = {"category": category, "code": code, "message": message}
    if details:
        info["details"] = [{"name": name, "value": value} for name, value in details.items()]
    return info


def task_ended(reason: str) -> Document:
    return failure("UserError", "TaskEnded", "Task Was Ended", Message=reason)


def outcome_failure(outcome: Outcome, command_line: str) -> Document | None:
    """The failureInfo of a command; None if it succeeded."""
    if outcome.ending is Ending.EXITED:
        if outcome.exit_code == 0:
            return None
        return failure(
            "UserError",
            "FailureExitCode",
            "The task exited with an exit code representing a failure",
            Message="The task process exited with an unexpected exit code",
            AdditionalErrorCode="FailureExitCode",
        )
    if outcome.ending is Ending.TIME_LIMIT:
        return task_ended("The task exceeded its maximum wall clock time (maxWallClockTime) and was ended.")
    if outcome.ending is Ending.PROGRAM_NOT_FOUND:
        code, message = "CommandProgramNotFound", "The specified command program is not found"
        return failure("UserError", code, message, CommandLine=command_line, Message=outcome.message)
    if outcome.ending is Ending.SHIM_LOST:
        return failure("ServerError", "Unknown", "The supervisor of the task was killed", Message=outcome.message)
    message = "The specified command could not be launched"
    return failure("UserError", "CommandLaunchFailed", message, CommandLine=command_line, Message=outcome.message)
