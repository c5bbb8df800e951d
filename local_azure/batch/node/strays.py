"""Processes found by a variable in their environment, the one mark that a program keeps without knowing it.

The second net under the shim: it serves when a shim itself was killed, or a whole machine's worth of them. A
program that clears its environment *and* starts a session of its own *and* loses its shim is out of reach.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

INSTANCE_VARIABLE = "LOCAL_BATCH_INSTANCE"
ATTEMPT_VARIABLE = "LOCAL_BATCH_ATTEMPT"

RESCAN_DELAY = 0.005  # seconds between two looks at processes that have been killed
UNKILLABLE_AFTER = 30.0  # seconds after which a process in uninterruptible sleep is given up


@dataclass(frozen=True, kw_only=True)
class Process:
    """What identifies a living process as one of ours."""

    pid: int
    session: int
    environment: frozenset[bytes]

    def carries(self, variable: str, value: str) -> bool:
        return f"{variable}={value}".encode() in self.environment

    @property
    def is_shim(self) -> bool:
        """A shim carries its instance only; the commands carry their attempt as well."""
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
        except OSError:  # ended meanwhile, or a set-uid program that we may not look into
            continue
        if state not in (b"Z", b"X"):
            yield Process(pid=int(entry.name), session=int(session), environment=environment)


def kill_all(is_stray: Callable[[Process], bool], *, shims_get: float = 0.0) -> list[int]:
    """Kill what `is_stray` picks until a look finds none; returns the pids, those of shims included.

    As long as there is a shim, all are left alone for `shims_get` seconds: a shim whose service is gone is already
    ending its tree, gives it the grace that it is to have, and can prove that nothing is left of it.
    """
    started = time.monotonic()
    killed: set[int] = set()
    while strays := [process for process in living_processes() if is_stray(process)]:
        spent = time.monotonic() - started
        if spent > UNKILLABLE_AFTER:
            raise TimeoutError(f"processes {sorted(p.pid for p in strays)} do not end although they were killed")
        killed.update(stray.pid for stray in strays)
        if spent >= shims_get or not any(stray.is_shim for stray in strays):
            for stray in strays:
                _kill(stray.pid)
        time.sleep(RESCAN_DELAY)
    return sorted(killed)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
