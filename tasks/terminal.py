"""The console and the signals of a command: a run goes on without the first, and cleans up after the second."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any


class _Console(io.FileIO):
    """Standard output or error; what cannot be written, because the reader or the terminal has gone, is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def outlive_console() -> None:
    """Let no reader that leaves (`| head`), no closed descriptor and no encoding end what this process does."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # one that was closed: else the next file would take its place
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        if before is not None:
            with suppress(OSError):
                before.flush()
        console = io.TextIOWrapper(
            io.BufferedWriter(_Console(number, "w", closefd=False)),
            encoding=before.encoding if before else "utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, console)
        setattr(sys, f"__{name}__", console)


def exit_on_termination() -> None:
    """Let SIGTERM end this process as `exit` does, so that what was started for it is stopped: Prefect's server."""
    _replace_default(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def terminate_on_hangup() -> None:
    """Let a terminal that is closed, or an SSH connection that is lost, have the effect of SIGTERM.

    Under `nohup` the signal stays ignored.
    """
    _replace_default(signal.SIGHUP, _terminate)


def interrupt_at_once() -> None:
    """Let Ctrl-C interrupt a run that blocks an event loop, as under `prefect flow-run retry`.

    asyncio would cancel the loop's task, which has no effect before the run has ended.
    """
    from asyncio import get_running_loop  # takes 40 ms, which a command does not need for its help

    with suppress(RuntimeError):  # there is no loop
        get_running_loop()
        if _in_main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # the shell and the terminal both send one; the second interrupts a clean-up
    signal.raise_signal(signal.SIGTERM)


def _replace_default(number: signal.Signals, handler: Callable[[int, FrameType | None], Any]) -> None:
    if _in_main_thread() and signal.getsignal(number) is signal.SIG_DFL:
        signal.signal(number, handler)


def _in_main_thread() -> bool:
    """Python sets handlers of signals nowhere else."""
    return threading.current_thread() is threading.main_thread()
