"""Finds and kills leftover processes by a variable in their environment, which programs rarely remove.

A fallback for the shim: it serves when shims were killed themselves. A program that clears its environment *and* starts
a session of its own *and* loses its shim is not found.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

INSTANCE_VARIABLE = "LOCAL_BATCH_INSTANCE"
ATTEMPT_VARIABLE = "LOCAL_BATCH_ATTEMPT"

RESCAN_DELAY = 0.005  # seconds between two scans for killed processes
UNKILLABLE_AFTER = 30.0  # seconds; then a process in uninterruptible sleep raises TimeoutError


@dataclass(frozen=True, kw_only=True)
class Process:
    """A living process, with what identifies it as one of ours."""

    pid: int
    session: int
    environment: frozenset[bytes]

    def carries(self, variable: str, value: str) -> bool:
        return f"{variable}={value}".encode() in self.environment

    @property
    def is_shim(self) -> bool:
        """True for a shim, which carries the instance only; commands carry their attempt as well."""
        return not any(entry.startswith(ATTEMPT_VARIABLE.encode() + b"=") for entry in self.environment)


def living_processes() -> Iterator[Process]:
    """Every process of this user except this one. Zombies have no environment and do not count."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            with open(f"/proc/{entry.name}/environ", "rb") as file:
                environment = frozenset(file.read().split(b"\0"))
            with open(f"/proc/{entry.name}/stat", "rb") as file:
                state, _, _, session = file.read().rpartition(b")")[2].split()[:4]
        except OSError:  # it has ended, or is a set-uid program that we may not read
            continue
        if state not in (b"Z", b"X"):
            yield Process(pid=int(entry.name), session=int(session), environment=environment)


def kill_all(is_leftover: Callable[[Process], bool], *, shim_grace: float = 0.0) -> list[int]:
    """Kill the processes for which `is_leftover` is true until a scan finds none; returns their pids, shims included.

    If there is a shim, nothing is killed for `shim_grace` seconds: a shim whose service has ended is already ending its
    process tree, with the right grace and more reliably.
    """
    started = time.monotonic()
    killed: set[int] = set()
    while found := [process for process in living_processes() if is_leftover(process)]:
        spent = time.monotonic() - started
        if spent > UNKILLABLE_AFTER:
            raise TimeoutError(f"processes {sorted(p.pid for p in found)} did not end after SIGKILL")
        killed.update(process.pid for process in found)
        if spent >= shim_grace or not any(process.is_shim for process in found):
            for process in found:
                _kill(process.pid)
        time.sleep(RESCAN_DELAY)
    return sorted(killed)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
