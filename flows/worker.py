"""A Prefect worker that is started again when it was killed: `make worker`.

python -m flows.worker --pool local-process      # the arguments of `prefect worker start`

A worker ends when it is killed, or when the Prefect server does not answer for minutes. Without a worker nothing would
sweep, so this process, which does nothing else, starts it again. Ctrl-C and SIGTERM end both.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

SETTLED = 30.0  # seconds; a worker that ends by itself earlier has a reason to that a new one would meet too
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SHORTEST, LONGEST = 1.0, 10.0  # seconds until the next start


def delay_after(exit_code: int, lived: float, deaths: int) -> float | None:
    """Seconds until the worker is started again, given how it ended; None where it is not.

    Args:
        exit_code: Of the process; the signal that killed it, negative.
        lived: Seconds since it was started.
        deaths: How many of its predecessors did not settle, one after the other.
    """
    killed = exit_code < 0
    if exit_code == 0 or (not killed and lived < SETTLED and deaths == 0):
        return None
    return min(LONGEST, SHORTEST * 2.0**deaths)


def keep_running(command: Sequence[str]) -> int:
    """Run the command until it ends by itself or this process is asked to end; its exit code."""
    worker: subprocess.Popen[bytes] | None = None
    asked = threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        asked.set()
        if worker:
            worker.send_signal(number)

    for number in ASKING:
        signal.signal(number, end)
    deaths = 0
    while True:
        started = time.monotonic()
        worker = subprocess.Popen(command, process_group=0)  # the signals of a terminal reach it through us, once
        if asked.is_set():  # before `worker` was known to `end`
            worker.terminate()
        code = worker.wait()
        lived = time.monotonic() - started
        deaths = 0 if lived >= SETTLED else deaths
        delay = None if asked.is_set() else delay_after(code, lived, deaths)
        if delay is None:
            return code if code >= 0 else 128 - code
        print(f"Worker: ended with {_ending(code)}, starting another one in {delay:g} s", file=sys.stderr, flush=True)
        deaths += 1
        if asked.wait(delay):
            return 0


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


if __name__ == "__main__":
    sys.exit(keep_running([sys.executable, "-m", "prefect", "worker", "start", *sys.argv[1:]]))
