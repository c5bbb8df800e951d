"""Run commands as processes of this machine, each under a shim that lets nothing of it survive.

The shim (shim.py) is bound to this process by a socket pair, the lease: when this process dies, however it does, the
kernel closes our end and the shim kills its command's whole tree. The same socket carries the request to the shim and
the outcome back, so that waiting for any number of commands costs one descriptor each, no thread and no polling.
Knows nothing of Batch; anything that needs a supervised process may use it. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import marshal
import os
import shlex
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from local_azure.batch import shim, strays

DEFAULT_GRACE = 2.0  # seconds
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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    ending: Ending
    exit_code: int | None  #: None if the program never ran, or if nobody saw it end
    message: str = ""

    @classmethod
    def read(cls, status_file: Path) -> Outcome | None:
        """The outcome that a shim left behind; None if there is none, as after the death of shim and service."""
        try:
            return cls.parse(status_file.read_bytes())
        except OSError:
            return None

    @classmethod
    def parse(cls, status: bytes) -> Outcome | None:
        try:
            fields = json.loads(status)
            return cls(ending=Ending(fields["ending"]), exit_code=fields["exitCode"], message=fields["message"])
        except (ValueError, KeyError, TypeError):  # cut off, or not ours: as good as none
            return None


class Attempt:
    """A command being run under its shim."""

    def __init__(self, command: Command, mark: str, process: subprocess.Popen[bytes], lease: socket.socket) -> None:
        self.pid = process.pid  #: the shim's, which is also its session's id
        self._command = command
        self._mark = mark
        self._process = process
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._outbox = bytearray()
        self._inbox = bytearray()
        self._terminated = False
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._recovery: asyncio.Task[None] | None = None
        self._loop.add_reader(lease, self._receive)

    async def outcome(self) -> Outcome:
        """Wait for the end. When this returns, no process of the command is alive."""
        return await asyncio.shield(self._outcome)

    def terminate(self) -> None:
        """Ask for the end of the whole tree: SIGTERM, and SIGKILL after the grace. May be repeated."""
        if not self._terminated and not self._ended:
            self._terminated = True
            self._send(shim.TERMINATE)

    @property
    def _ended(self) -> bool:
        return self._lease.fileno() < 0

    def _send(self, data: bytes) -> None:
        if not self._outbox:
            self._loop.add_writer(self._lease, self._flush)
        self._outbox += data
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
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it was killed with something of ours unread
            data = b""
        if data:
            self._inbox += data
            return
        self._loop.remove_reader(self._lease)
        self._loop.remove_writer(self._lease)
        self._lease.close()
        # The kernel closes a process's descriptors in the course of its exit, so this wait is over at once.
        status = self._process.wait()
        outcome = Outcome.parse(self._inbox) or Outcome.read(self._command.status_file)
        if outcome is not None:
            self._outcome.set_result(outcome)
        else:
            self._recovery = self._loop.create_task(self._recover(status))

    async def _recover(self, status: int) -> None:
        """The shim was killed before it could report: end what it supervised."""
        try:
            killed = await asyncio.to_thread(strays.kill_all, self._is_ours)
            message = f"the supervising process ended with status {status} before its command; killed {len(killed)}"
            self._outcome.set_result(Outcome(ending=Ending.SHIM_LOST, exit_code=None, message=message))
        except Exception as error:
            self._outcome.set_exception(error)

    def _is_ours(self, process: strays.Process) -> bool:
        # The shim's pid remains the id of its session for as long as the session has members, so it is not reused.
        return process.session == self.pid or process.carries(strays.ATTEMPT_VARIABLE, self._mark)


class Runner:
    """Starts commands on behalf of one data directory, and leaves none behind."""

    def __init__(self, instance: str, *, grace: float = DEFAULT_GRACE) -> None:
        """`instance` marks the processes of a data directory; `grace` is the time from SIGTERM to SIGKILL in seconds."""
        if sys.platform != "linux":
            raise RuntimeError(
                f"Commands can be run on Linux only, not on {sys.platform}: their supervision needs child subreapers and "
                "/proc. Use a Linux machine, a container or WSL 2."
            )
        if not instance or "\0" in instance:
            raise ValueError(f"The instance {instance!r} cannot mark a process: give a non-empty text without NUL.")
        self._instance = instance
        self._grace = grace
        self._attempts: set[Attempt] = set()
        self._closed = False
        # The compiled file saves the shim 3 ms per start. It was written, or checked, when this module imported it.
        cached = shim.__cached__
        self._shim = cached if cached and os.path.exists(cached) else shim.__file__

    async def start(self, command: Command) -> Attempt:
        """Start a command. What is wrong with the command is told by its outcome.

        Raises OSError if the machine has no process or descriptor left, RuntimeError after close().
        """
        if self._closed:
            raise RuntimeError("The runner is closed and starts no more commands.")
        with contextlib.suppress(OSError):
            command.status_file.unlink()  # an older attempt's outcome must not pass for this one's
        mark = uuid.uuid4().hex
        ours, theirs = socket.socketpair()
        try:
            process = self._spawn(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        attempt = Attempt(command, mark, process, ours)
        self._attempts.add(attempt)
        attempt._outcome.add_done_callback(lambda _: self._attempts.discard(attempt))
        attempt._send(self._request(command, mark))
        return attempt

    def kill_strays(self) -> list[int]:
        """Kill every process of this instance, whoever started it; returns their pids. For the service's start.

        Blocks until they are gone, usually some milliseconds. Raises TimeoutError if one cannot be killed.
        """
        return strays.kill_all(
            lambda process: process.carries(strays.INSTANCE_VARIABLE, self._instance), shims_get=SHIMS_END_WITHIN
        )

    async def close(self) -> None:
        """Terminate all attempts and wait until nothing of them is left."""
        self._closed = True
        running = list(self._attempts)
        for attempt in running:
            attempt.terminate()
        await asyncio.gather(*(attempt.outcome() for attempt in running), return_exceptions=True)

    def _spawn(self, lease: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", self._shim],
            stdin=subprocess.DEVNULL,
            stdout=lease,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={strays.INSTANCE_VARIABLE: self._instance},
            start_new_session=True,  # out of reach of the terminal's Ctrl-C, and findable by its session's id
        )

    def _request(self, command: Command, mark: str) -> bytes:
        """The message to the shim: its length, then the marshalled request. Never a command line: `ps` shows those."""
        request: dict[str, object] = {
            "status_file": os.fsencode(command.status_file),
            "time_limit": command.time_limit,
            "grace": self._grace,
            "refused": "",
        }
        try:
            request |= {
                "argv": _split(command.command_line),
                "environment": self._environment(command.environment, mark),
                "working_directory": os.fsencode(command.working_directory),
                "stdout": os.fsencode(command.stdout),
                "stderr": os.fsencode(command.stderr),
            }
        except ValueError as error:
            request["refused"] = str(error)
        payload = marshal.dumps(request)
        return len(payload).to_bytes(shim.LENGTH_BYTES, "big") + payload

    def _environment(self, environment: Mapping[str, str], mark: str) -> dict[bytes, bytes]:
        marks = {strays.INSTANCE_VARIABLE: self._instance, strays.ATTEMPT_VARIABLE: mark}
        return {_encode(name): _encode(value) for name, value in {**environment, **marks}.items()}


def _split(command_line: str) -> list[bytes]:
    try:
        words = shlex.split(command_line)
    except ValueError as error:
        raise ValueError(f"the command line cannot be parsed: {error}") from error
    if not words:
        raise ValueError("the command line is empty")
    return [_encode(word) for word in words]


def _encode(text: str) -> bytes:
    # UTF-8 whatever the service's own locale: the text came as JSON. Surrogates stand for undecodable file names.
    return text.encode("utf-8", "surrogateescape")
