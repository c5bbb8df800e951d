"""The service's end of the nursery: the process that forks a shim for every command (see shim.py)."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping

from local_azure.batch.node import shim


class Nursery:
    """One process of shim.py. It ends when this object's socket is closed, hence also with this process."""

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
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )

    def bear(self) -> socket.socket:
        """Ask for a shim; returns our end of its lease. Raises OSError if the nursery is gone."""
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
        """End the nursery, not its shims. Blocks for the milliseconds that the process takes to exit."""
        self._control.close()
        self._process.wait()
