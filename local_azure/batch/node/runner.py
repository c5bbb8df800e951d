"""Runs commands as processes of this machine, each under a shim that ends its whole process tree.

The shim (shim.py) is bound to this process by a socket pair, the lease: when this process ends for any reason, the
kernel closes our end and the shim kills the process tree of its command. The same socket carries the request to the
shim and the outcome back, so waiting for a command costs one descriptor, no thread and no polling. A shim whose command
has ended by itself gets the next one. Independent of Batch. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_azure.batch.node import leftovers, shim
from local_azure.batch.node.command import Command, Ending, Outcome
from local_azure.batch.node.supervisors import SPAWN_ATTEMPTS, Supervisor, Supervisors

DEFAULT_GRACE = 2.0  # seconds
SHIM_GRACE = 2.0  # seconds in which the shims of a killed service end their process trees


class RunningCommand:
    """A command running under its supervisor."""

    def __init__(self, supervisor: Supervisor, command: Command, mark: str, reuse: Callable[[Supervisor], None]):
        """`reuse` gets the supervisor when the command has ended by itself."""
        self._command = command
        self._supervisor = supervisor
        self._mark = mark
        self._reuse = reuse
        self._lease = supervisor.lease
        self._fd = supervisor.lease.fileno()  # the event loop would format a socket as text, and drop that
        self._loop = asyncio.get_running_loop()
        self._outbox = bytearray()
        self._inbox = bytearray()
        self._terminated = False
        self._started: asyncio.Future[bool] = self._loop.create_future()
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._recovery: asyncio.Task[None] | None = None
        self._loop.add_reader(self._fd, self._receive)
        if supervisor.pid:
            self._started.set_result(True)

    @property
    def pid(self) -> int:
        """The process id of the supervisor, which is the id of its session."""
        return self._supervisor.pid

    async def outcome(self) -> Outcome:
        """Wait for the end. Then no process of the command is alive."""
        return await asyncio.shield(self._outcome)

    async def ready(self) -> Outcome | None:
        """Wait until a background command has succeeded, and return None; its outcome if it ends before that."""
        ends: list[asyncio.Future[Any]] = [self._ready, self._outcome]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return None if self._ready.done() else self._outcome.result()

    def terminate(self) -> None:
        """End the whole process tree: SIGTERM, and SIGKILL after the grace. Idempotent."""
        if not self._terminated and not self._outcome.done():
            self._terminated = True
            self._send(shim.TERMINATE)

    def _send(self, data: bytes) -> None:
        self._outbox += data
        if not self._flush():
            self._loop.add_writer(self._fd, lambda: self._flush() and self._loop.remove_writer(self._fd))

    def _flush(self) -> bool:
        """Send what can be sent now; returns True if that is all."""
        try:
            sent = self._lease.send(self._outbox)
        except BlockingIOError:
            return False
        except OSError:  # the supervisor has ended; the reader is notified too and handles it
            sent = len(self._outbox)
        del self._outbox[:sent]
        return not self._outbox

    def _receive(self) -> None:
        try:
            data = self._lease.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # the supervisor was killed with unread data of ours
            data = b""
        self._inbox += data
        if not self._started.done() and b"\n" in self._inbox:
            pid, _, self._inbox = self._inbox.partition(b"\n")
            self._supervisor.pid = int(pid)
            self._started.set_result(True)
        if self._command.background and not self._ready.done():
            self._take_ready()
        if not data:
            self._end()
        elif self._inbox.endswith(b"\n"):
            self._report(Outcome.parse(self._inbox))

    def _take_ready(self) -> None:
        """Take the report from the inbox that the command has succeeded and its processes live on, if there is one."""
        line, end, following = self._inbox.partition(b"\n")
        outcome = Outcome.parse(line) if end else None
        if outcome and outcome.ending is Ending.READY:
            self._inbox = following
            self._ready.set_result(None)

    def _report(self, outcome: Outcome | None) -> None:
        if outcome and outcome.ending is Ending.EXITED and not self._terminated:
            self._detach()
            self._reuse(self._supervisor)
            self._outcome.set_result(outcome)
        else:
            self._lease.shutdown(socket.SHUT_WR)  # the supervisor exits

    def _detach(self) -> None:
        self._loop.remove_reader(self._fd)
        if self._outbox:
            self._loop.remove_writer(self._fd)

    def _end(self) -> None:
        self._detach()
        self._lease.close()
        outcome = Outcome.parse(self._inbox) or Outcome.read(self._command.status_file)
        if not self._started.done():
            self._outcome.cancel()
            self._started.set_result(False)
        elif outcome is not None:
            self._outcome.set_result(outcome)
        else:
            self._recovery = self._loop.create_task(self._recover())

    async def _recover(self) -> None:
        """Kill the processes of the command, whose shim was killed before it could report."""
        try:
            killed = await asyncio.to_thread(leftovers.kill_all, self._is_ours)
        except Exception as error:
            self._outcome.set_exception(error)
            return
        message = f"the supervisor {self.pid} was killed; its {len(killed)} remaining processes were killed, too"
        self._outcome.set_result(Outcome(ending=Ending.SHIM_LOST, exit_code=None, message=message))

    def _is_ours(self, process: leftovers.Process) -> bool:
        # No new process gets the id of a session that still has members, so this process belongs to the command.
        return process.session == self.pid or process.carries(leftovers.ATTEMPT_VARIABLE, self._mark)


class Runner:
    """Starts commands for one data directory, and ends them all when it is closed."""

    def __init__(self, instance: str, *, grace: float = DEFAULT_GRACE) -> None:
        """`instance` marks a data directory's processes; `grace` is in seconds, from SIGTERM to SIGKILL."""
        if sys.platform != "linux":
            raise RuntimeError(
                f"Commands can be run on Linux only, not on {sys.platform}: their supervision needs child "
                "subreapers and /proc. Use a Linux machine, a container or WSL 2."
            )
        if not instance or "\0" in instance:
            raise ValueError(f"The instance {instance!r} cannot mark a process: give a non-empty text without NUL.")
        self._instance = instance
        self._grace = grace
        self._commands: set[RunningCommand] = set()
        self._supervisors = Supervisors({leftovers.INSTANCE_VARIABLE: instance})
        self._closed = False

    async def start(self, command: Command) -> RunningCommand:
        """Start a command. Its own errors are in its outcome.

        Raises OSError if the machine is out of processes or descriptors, RuntimeError after close().
        """
        with contextlib.suppress(OSError):
            command.status_file.unlink()  # it may contain the outcome of a previous attempt
        for _ in range(SPAWN_ATTEMPTS):
            attempt = self._begin(command)
            try:
                if await asyncio.shield(attempt._started):
                    return attempt
            except asyncio.CancelledError:
                attempt.terminate()
                raise
            self._supervisors.restart()
        raise OSError("No supervisor could be started: check this machine's limit of processes.")

    def kill_leftovers(self, *, shim_grace: float = SHIM_GRACE) -> list[int]:
        """Kill every process of this instance, whichever process started it; returns their pids.

        Blocks until they have ended, usually for milliseconds. Raises TimeoutError if one cannot be killed.
        """
        return leftovers.kill_all(
            lambda process: process.carries(leftovers.INSTANCE_VARIABLE, self._instance), shim_grace=shim_grace
        )

    async def close(self) -> None:
        """Terminate all commands and wait until none of their processes is left."""
        self._closed = True
        for attempt in list(self._commands):
            attempt.terminate()
        await asyncio.gather(*(attempt.outcome() for attempt in self._commands), return_exceptions=True)
        self._supervisors.close()

    def _begin(self, command: Command) -> RunningCommand:
        if self._closed:
            raise RuntimeError("The runner is closed and starts no more commands.")
        mark = uuid.uuid4().hex
        supervisors = self._supervisors
        attempt = RunningCommand(supervisors.take(), command, mark, supervisors.give_back)
        self._commands.add(attempt)
        attempt._outcome.add_done_callback(lambda _: self._commands.discard(attempt))
        attempt._send(self._request(command, mark))
        return attempt

    def _request(self, command: Command, mark: str) -> bytes:
        """The request to the shim: length, then JSON. It is sent, as `ps` would show arguments and environment."""
        marks = {leftovers.INSTANCE_VARIABLE: self._instance, leftovers.ATTEMPT_VARIABLE: mark}
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
                "clean_up": list(command.clean_up),
                "background": command.background,
                **paths,
            }
        ).encode()
        return len(payload).to_bytes(shim.LENGTH_BYTES, "big") + payload


def _as_text(path: Path) -> str:
    """The path in the encoding that the shim expects, independent of this process's locale."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")
