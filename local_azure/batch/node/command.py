"""A command and its outcome, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from local_azure.batch.node import shim


class Ending(Enum):
    """How a command ended. All but the last are reported by the shim."""

    EXITED = shim.EXITED  #: ended by itself; exit code 128 + n if killed by signal n
    TIME_LIMIT = shim.TIME_LIMIT  #: killed at its time limit
    TERMINATED = shim.TERMINATED  #: killed by request
    ORPHANED = shim.ORPHANED  #: killed because the service ended
    PROGRAM_NOT_FOUND = shim.PROGRAM_NOT_FOUND  #: the program does not exist
    LAUNCH_FAILED = shim.LAUNCH_FAILED  #: it could not be started; the message gives the reason
    READY = shim.READY  #: not an end: the command succeeded, and what it has started lives on until it is terminated
    SHIM_LOST = "shimlost"  #: the shim was killed; the processes of its command were found by their mark and killed


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, complete: nothing is inherited from the service."""

    command_line: str  #: split like a POSIX command line, run without a shell
    working_directory: Path
    stdout: Path
    stderr: Path
    environment: Mapping[str, str]  #: complete; the runner adds its two marks (see leftovers.py)
    status_file: Path  #: the shim writes the outcome here, for a restarted service
    time_limit: float | None = None  #: seconds
    orphan_grace: float = 0.0  #: seconds from SIGTERM to SIGKILL when this process has ended
    #: As on a node: programs unpack archives and share files with it. The mode of the parent directory keeps other
    #: users out.
    umask: int = 0o022
    #: What removes what the command has left outside of its process tree; run unless it has ended by itself.
    clean_up: Sequence[str] = ()
    #: If the command succeeds, the processes that it has started live on until it is terminated.
    background: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    ending: Ending
    exit_code: int | None  #: None if the program never ran, or its exit code is unknown
    message: str = ""

    @classmethod
    def read(cls, status_file: Path) -> Outcome | None:
        """The outcome written by a shim; None if there is none, for example because the shim was killed."""
        try:
            return cls.parse(status_file.read_bytes())
        except OSError:
            return None

    @classmethod
    def parse(cls, status: bytes | bytearray) -> Outcome | None:
        try:
            fields = json.loads(status)
            return cls(ending=Ending(fields["ending"]), exit_code=fields["exitCode"], message=fields["message"])
        except (ValueError, KeyError, TypeError):  # incomplete, or not an outcome
            return None
