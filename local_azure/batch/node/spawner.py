"""The spawner: a process that forks a shim for every command (see shim.py)."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping

from local_azure.batch.node import shim


class Spawner:
    """A process of shim.py. It ends when this object's socket is closed, and so with this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            # `ps` and /proc show this command line and environment for each shim, and nothing of its command.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", shim.__file__],
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,  # so that the terminal's Ctrl-C does not reach it
            )

    def spawn(self) -> socket.socket:
        """Fork a shim; returns our end of its lease. Raises OSError if the spawner has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return ours

    def close(self) -> None:
        """End the spawner, not its shims. Blocks for milliseconds, until the process has exited."""
        self._control.close()
        self._process.wait()
