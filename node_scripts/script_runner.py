"""Runs the script over the files of a group: in a process for each file, or in one that is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager, suppress

from blob_requests import Failure
from kept_process import STREAMS, WORKER, adopt_orphans
from one_file import empty
from user_script import Script, command, fill_in, start, variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from one_file import Values

LARGEST_SCRIPT = 4 << 20  # bytes in which process_file is looked for
GRACE = 2.0  # seconds that a script has from SIGTERM to SIGKILL

FOLDERS = ("input", "work", "output")  # of the file of a group that is processed
# With this one parameter: a function that is called so by chance takes another.
OFFERED = re.compile(rb"^def process_file\(\s*arguments\s*(:[^()]*)?,?\s*\)", re.MULTILINE)


class Runner:
    """Runs the script over one file after the other: in a process for each, or in one that is kept."""

    def __init__(self, script: Script, limits: Limits, *, isolate: bool) -> None:
        self._script = script
        self.limits = limits
        self._isolate = isolate
        self._line = kept_interpreter(script.path, script.python)
        self._folder = "file"
        self._number = 0
        self._left = False  # something that the file before has started
        adopt_orphans()
        self._worker: Worker | None = None
        self._ending: subprocess.Popen[bytes] | None = None  # was sent SIGTERM
        # What all files of the group write; that of one is what comes after the file before.
        self.streams = {name: open(f"file-{name}", "ab+", buffering=0) for name in STREAMS}  # noqa: SIM115
        # Appends to it what this process has to say of the file.
        self.notes = open("file-stderr", "a", 1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115

    def run(self, values: dict[str, str], folder: str) -> int:
        """The exit code, negative for a signal. Raises Interrupted, and Failure where it cannot be started."""
        options = {**self.streams, "cwd": folder, "start_new_session": True}
        self._left = True
        if not self._line:
            process = self._script.start(values, **options)
            status = self._wait(process, process.wait)
            self._left = not reaped()
            return status
        if self._worker and self._worker.process.poll() is not None:
            self.close()
        worker = self._worker = self._worker or Worker(self._line, self._script, self._isolate, **options)
        arguments = fill_in(self._script.arguments, values)
        request = {"arguments": arguments, "environment": variables(values), "folder": folder}
        status = self._wait(worker.process, lambda: worker.call(request))
        self._left = bool(worker.left)
        return status

    def folders(self) -> list[str]:
        """Empty ones, which are new ones where what the file before has started may still write to its own."""
        if self._left:
            import shutil

            shutil.rmtree(self._folder, ignore_errors=True)
            self._number += 1
            self._folder = f"file-{self._number}"
            self._left = False
        return [empty(f"{self._folder}/{name}") for name in FOLDERS]

    def _wait(self, process: subprocess.Popen[bytes], status: Callable[[], int]) -> int:
        try:
            found = self.limits.wait(status)
        except BaseException:
            if self.limits.ending:  # what is done is stored while it ends: nobody knows how long the service waits
                self._ending = process
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGTERM)
            else:
                end(process)
            raise
        if process.returncode is not None:
            end(process)  # what it has started and left would go on beside the next file
        return found

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            worker.close()
        process, self._ending = worker.process if worker else self._ending, None
        if process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            end(process)


def kept_interpreter(script: str, python: str) -> list[str]:
    """How to start the Python that runs the script; empty where it offers no process_file, or is not Python."""
    with suppress(OSError), open(script, "rb") as file:
        text = file.read(LARGEST_SCRIPT)
        if not OFFERED.search(text):
            return []
        line = command(script, python)[:-1]
        first = text.partition(b"\n")[0]
        if re.match(rb"#!.*python", first) and not line and not re.search(rb"\buv\b", first):
            line = [part.strip() for part in os.fsdecode(first[2:]).strip().split(None, 1)]
        return line if line[-1:] != ["/bin/sh"] else []
    return []


class Worker:
    """A process that has imported the script, and calls its function for one file after the other."""

    def __init__(self, line: list[str], script: Script, isolate: bool, **options: Any) -> None:
        self.left = 1  # whether something goes on that the function has started
        requests, answers = os.pipe(), os.pipe()
        pipes = requests[0], answers[1]
        self.requests = open(requests[1], "wb", buffering=0)  # noqa: SIM115  # see close
        self.answers = open(answers[0], "rb")  # noqa: SIM115
        run_file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_file.py")
        line = [*line, run_file, WORKER, script.path, str(int(isolate)), *map(str, pipes)]
        try:
            self.process = start(line, script.path, script.environment, pass_fds=pipes, **options)
        except Failure:
            self.close()
            raise
        finally:
            for each in pipes:
                os.close(each)

    def call(self, request: Values) -> int:
        """The exit code of the function, or of the process where that has ended; negative for a signal."""
        with suppress(BrokenPipeError):
            self.requests.write(json.dumps(request).encode() + b"\n")
        status, _, left = self.answers.readline().partition(b" ")
        self.left = int(left or 1)
        return int(status) if status else self.process.wait()

    def close(self) -> None:
        """Let the process end by itself."""
        self.requests.close()
        self.answers.close()


class Interrupted(BaseException):
    """The script has to end: its time is over, or the Batch task is."""


class Limits:
    """Interrupts the wait for a script when its time is over, and when the Batch task is to end."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds  # 0: no limit
        self.ending = False
        self._waiting = False
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGALRM, self._interrupt)

    @contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        self._waiting = True
        try:
            if self.ending:
                raise Interrupted
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            self._waiting = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def wait(self, status: Callable[[], int]) -> int:
        """Raises Interrupted where it takes too long."""
        with self.waiting(self.seconds):
            found = status()
        if found == -signal.SIGTERM:  # where the Batch task is to end, all its processes may get the signal
            with suppress(Interrupted), self.waiting(GRACE):
                signal.pause()
            if self.ending:
                raise Interrupted
        return found

    def _interrupt(self, number: int, _: object) -> None:
        self.ending = self.ending or number == signal.SIGTERM
        if self._waiting:
            self._waiting = False
            raise Interrupted


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started in its session."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def reaped() -> bool:
    """Whether no child of this process is left; those that have ended are reaped."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return False
    return True
