"""Supervisor processes (see shim.py), and the process that forks them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Mapping

from local_azure.batch.node import shim

MOST_IDLE = 16  # supervisors that are kept for the next commands
SPAWN_ATTEMPTS = 2  # the first may find that the spawner was killed


class Supervisor:
    """A process that runs one command after the other, by our end of its lease. It ends with this process."""

    pid = 0  #: 0 until it has started

    def __init__(self, lease: socket.socket) -> None:
        self.lease = lease

    def is_idle(self) -> bool:
        """True if the process is alive; call it between two commands."""
        try:
            self.lease.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """End the idle process. Blocks for milliseconds, until it has exited."""
        with self.lease, contextlib.suppress(OSError):
            self.lease.shutdown(socket.SHUT_WR)
            self.lease.setblocking(True)
            self.lease.recv(1)


class Supervisors:
    """The supervisors of a runner."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._spawner: Spawner | None = None
        self._idle: list[Supervisor] = []

    def take(self) -> Supervisor:
        """An idle supervisor, or a new one. Raises OSError if none can be started."""
        while self._idle:
            supervisor = self._idle.pop()
            if supervisor.is_idle():
                return supervisor
            supervisor.close()
        for _ in range(SPAWN_ATTEMPTS):
            self._spawner = self._spawner or Spawner(self._environment)
            try:
                return self._spawner.spawn()
            except (BrokenPipeError, ConnectionResetError):
                self.restart()
        raise OSError("The spawner of supervisors is killed as soon as it starts.")

    def give_back(self, supervisor: Supervisor) -> None:
        """Keep the supervisor, whose command has ended, for the next one."""
        if len(self._idle) < MOST_IDLE:
            self._idle.append(supervisor)
        else:
            supervisor.lease.close()

    def restart(self) -> None:
        """End the spawner; the next supervisor is forked by a new one."""
        spawner, self._spawner = self._spawner, None
        if spawner is not None:
            spawner.close()

    def close(self) -> None:
        """End the spawner and all idle supervisors."""
        self.restart()
        while self._idle:
            self._idle.pop().close()


class Spawner:
    """A process of shim.py. It ends when this object's socket is closed, and so with this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            # `ps` and /proc show this command line and environment for each supervisor, and nothing of its command.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", shim.__file__],
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,  # so that the terminal's Ctrl-C does not reach it
            )

    def spawn(self) -> Supervisor:
        """Fork a supervisor. Raises OSError if the spawner has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return Supervisor(ours)

    def close(self) -> None:
        """End the spawner, not its supervisors. Blocks for milliseconds, until the process has exited."""
        self._control.close()
        self._process.wait()
