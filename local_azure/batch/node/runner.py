"""Run commands as processes of this machine, each under a shim that lets nothing of it survive.

The shim (shim.py) is bound to this process by a socket pair, the lease: when this process dies, however it
does, the kernel closes our end and the shim kills its command's whole tree. The same socket carries the
request to the shim and the outcome back, so waiting for a command costs one descriptor, no thread and no
polling. Knows nothing of Batch; anything that needs a supervised process may use it. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from local_azure.batch.node import shim, strays
from local_azure.batch.node.spawner import Nursery

DEFAULT_GRACE = 2.0  # seconds
BIRTHS_TRIED = 2  # the first may meet a nursery that was killed
SHIMS_END_WITHIN = 2.0  # seconds that the shims of a dead service have to end their trees by themselves


class Ending(Enum):
    """How a command came to its end. Except for the last, these are the words that the shim writes."""

    EXITED = shim.EXITED  #: ran to its end; death by signal n is exit code 128 + n
    TIME_LIMIT = shim.TIME_LIMIT  #: killed at its time limit
    TERMINATED = shim.TERMINATED  #: killed by request
    ORPHANED = shim.ORPHANED  #: killed because the service went away
    PROGRAM_NOT_FOUND = shim.PROGRAM_NOT_FOUND  #: there is no such program
    LAUNCH_FAILED = shim.LAUNCH_FAILED  #: it could not be started for another reason; the message says which
    SHIM_LOST = "shimlost"  #: the shim was killed; its command's processes were found by their mark and killed


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, complete: nothing is inherited from the service."""

    command_line: str  #: split like a POSIX command line, run without a shell
    working_directory: Path
    stdout: Path
    stderr: Path
    environment: Mapping[str, str]  #: all of it; the runner adds its two marks (see strays.py)
    status_file: Path  #: where the shim leaves the outcome, for a service that is restarted
    time_limit: float | None = None  #: seconds
    orphan_grace: float = 0.0  #: seconds from SIGTERM to SIGKILL when this process has died
    #: As on a node: programs unpack archives and share files by it. Other users are kept out by the mode of the
    #: directory above the command's.
    umask: int = 0o022


@dataclass(frozen=True, kw_only=True)
class Outcome:
    ending: Ending
    exit_code: int | None  #: None if the program never ran, or if nobody saw it end
    message: str = ""

    @classmethod
    def read(cls, status_file: Path) -> Outcome | None:
        """The outcome that a shim left behind; None if there is none, as after the shim's own death."""
        try:
            return cls.parse(status_file.read_bytes())
        except OSError:
            return None

    @classmethod
    def parse(cls, status: bytes | bytearray) -> Outcome | None:
        try:
            fields = json.loads(status)
            return cls(ending=Ending(fields["ending"]), exit_code=fields["exitCode"], message=fields["message"])
        except (ValueError, KeyError, TypeError):  # cut off, or not ours: as good as none
            return None


class Attempt:
    """A command being run under its shim."""

    pid: int  #: the shim's, which is also the id of its session

    def __init__(self, lease: socket.socket, mark: str, status_file: Path) -> None:
        self._mark = mark
        self._status_file = status_file
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._outbox = bytearray()
        self._inbox = bytearray()
        self._terminated = False
        self._born: asyncio.Future[bool] = self._loop.create_future()
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._recovery: asyncio.Task[None] | None = None
        self._loop.add_reader(lease, self._receive)

    async def outcome(self) -> Outcome:
        """Wait for the end. When this returns, no process of the command is alive."""
        return await asyncio.shield(self._outcome)

    def terminate(self) -> None:
        """Ask for the end of the whole tree: SIGTERM, and SIGKILL after the grace. May be repeated."""
        if not self._terminated and self._lease.fileno() >= 0:
            self._terminated = True
            self._send(shim.TERMINATE)

    def _send(self, data: bytes) -> None:
        self._outbox += data
        self._loop.add_writer(self._lease, self._flush)
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._lease.send(self._outbox)
        except BlockingIOError:
            return
        except OSError:  # the shim is gone; the reader is told, too, and knows what to do
            sent = len(self._outbox)
        del self._outbox[:sent]
        if not self._outbox:
            self._loop.remove_writer(self._lease)

    def _receive(self) -> None:
        try:
            data = self._lease.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # the shim was killed with something of ours unread
            data = b""
        self._inbox += data
        if not self._born.done() and b"\n" in self._inbox:
            pid, _, self._inbox = self._inbox.partition(b"\n")
            self.pid = int(pid)
            self._born.set_result(True)
        if not data:
            self._end()

    def _end(self) -> None:
        self._loop.remove_reader(self._lease)
        self._loop.remove_writer(self._lease)
        self._lease.close()
        outcome = Outcome.parse(self._inbox) or Outcome.read(self._status_file)
        if not self._born.done():
            self._outcome.cancel()
            self._born.set_result(False)
        elif outcome is not None:
            self._outcome.set_result(outcome)
        else:
            self._recovery = self._loop.create_task(self._recover())

    async def _recover(self) -> None:
        """The shim was killed before it could report: end what it supervised."""
        try:
            killed = await asyncio.to_thread(strays.kill_all, self._is_ours)
        except Exception as error:
            self._outcome.set_exception(error)
            return
        message = f"the supervising process {self.pid} was killed, and so were the {len(killed)} it left behind"
        self._outcome.set_result(Outcome(ending=Ending.SHIM_LOST, exit_code=None, message=message))

    def _is_ours(self, process: strays.Process) -> bool:
        # No new process gets the id of a session that still has members, so this is no stranger.
        return process.session == self.pid or process.carries(strays.ATTEMPT_VARIABLE, self._mark)


class Runner:
    """Starts commands on behalf of one data directory, and leaves none behind."""

    def __init__(self, instance: str, *, grace: float = DEFAULT_GRACE) -> None:
        """`instance` marks a data directory's processes; `grace` is the seconds from SIGTERM to SIGKILL."""
        if sys.platform != "linux":
            raise RuntimeError(
                f"Commands can be run on Linux only, not on {sys.platform}: their supervision needs child "
                "subreapers and /proc. Use a Linux machine, a container or WSL 2."
            )
        if not instance or "\0" in instance:
            raise ValueError(f"The instance {instance!r} cannot mark a process: give a non-empty text without NUL.")
        self._instance = instance
        self._grace = grace
        self._attempts: set[Attempt] = set()
        self._nursery: Nursery | None = None
        self._closed = False

    async def start(self, command: Command) -> Attempt:
        """Start a command. What is wrong with the command is told by its outcome.

        Raises OSError if the machine has no process or descriptor left, RuntimeError after close().
        """
        with contextlib.suppress(OSError):
            command.status_file.unlink()  # an older attempt's outcome must not pass for this one's
        for _ in range(BIRTHS_TRIED):
            attempt = self._begin(command)
            try:
                if await asyncio.shield(attempt._born):
                    return attempt
            except asyncio.CancelledError:
                attempt.terminate()
                raise
            self._drop_nursery()
        raise OSError("No supervising process could be started. Has this machine reached its limit of processes?")

    def kill_strays(self, *, shims_get: float = SHIMS_END_WITHIN) -> list[int]:
        """Kill every process of this instance, whoever started it; returns their pids. For a service's start.

        Blocks until they are gone, usually for milliseconds. Raises TimeoutError if one cannot be killed.
        """
        return strays.kill_all(
            lambda process: process.carries(strays.INSTANCE_VARIABLE, self._instance), shims_get=shims_get
        )

    async def close(self) -> None:
        """Terminate all attempts and wait until nothing of them is left."""
        self._closed = True
        for attempt in list(self._attempts):
            attempt.terminate()
        await asyncio.gather(*(attempt.outcome() for attempt in self._attempts), return_exceptions=True)
        self._drop_nursery()

    def _begin(self, command: Command) -> Attempt:
        mark = uuid.uuid4().hex
        attempt = Attempt(self._lease(), mark, command.status_file)
        self._attempts.add(attempt)
        attempt._outcome.add_done_callback(lambda _: self._attempts.discard(attempt))
        attempt._send(self._request(command, mark))
        return attempt

    def _lease(self) -> socket.socket:
        if self._closed:
            raise RuntimeError("The runner is closed and starts no more commands.")
        for _ in range(BIRTHS_TRIED):
            self._nursery = self._nursery or Nursery({strays.INSTANCE_VARIABLE: self._instance})
            try:
                return self._nursery.bear()
            except (BrokenPipeError, ConnectionResetError):
                self._drop_nursery()
        raise OSError("The process that starts the supervising processes is killed as soon as it starts.")

    def _drop_nursery(self) -> None:
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            nursery.close()

    def _request(self, command: Command, mark: str) -> bytes:
        """The message to the shim, not its arguments or environment, which `ps` shows: length, then JSON."""
        marks = {strays.INSTANCE_VARIABLE: self._instance, strays.ATTEMPT_VARIABLE: mark}
        paths = {
            name: _as_text(getattr(command, name)) for name in ("working_directory", "stdout", "stderr", "status_file")
        }
        payload = json.dumps(
            {
                "command_line": command.command_line,
                "environment": {**command.environment, **marks},
                "time_limit": command.time_limit,
                "grace": self._grace,
                "orphan_grace": command.orphan_grace,
                "umask": command.umask,
                **paths,
            }
        ).encode()
        return len(payload).to_bytes(shim.LENGTH_BYTES, "big") + payload


def _as_text(path: Path) -> str:
    """The path's bytes in the way the shim reads text, whatever this process's own locale."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")
