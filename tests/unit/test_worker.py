"""The worker that is started again: when, how soon, and that it ends with what started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.worker import delay_after
from tests.support.paths import ROOT
from tests.support.polling import LIMIT, eventually


@pytest.mark.parametrize(
    ("exit_code", "lived", "deaths", "delay"),
    [
        (-signal.SIGKILL, 5, 0, 1),
        (-signal.SIGKILL, 5, 3, 8),
        (-signal.SIGSEGV, 5, 20, 10),
        (1, 3600, 0, 1),  # the Prefect server was away
        (1, 5, 1, 2),  # and still is
        (1, 5, 0, None),  # a wrong option
        (0, 3600, 0, None),
    ],
)
def test_a_worker_that_is_lost_is_started_again(exit_code: int, lived: float, deaths: int, delay: float | None) -> None:
    assert delay_after(exit_code, lived, deaths) == delay


def test_a_killed_worker_is_replaced_and_ends_with_its_parent(tmp_path: Path) -> None:
    # In place of the worker: it notes its process, and waits for a signal.
    notes = tmp_path / "pids"
    worker = f"import os, signal; print(os.getpid(), file=open({str(notes)!r}, 'a'), flush=True); signal.pause()"
    keep = (
        f"import sys; from flows.worker import keep_running; sys.exit(keep_running([sys.executable, '-c', {worker!r}]))"
    )

    def pids(number: int) -> list[int] | None:
        found = [int(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        return found if len(found) == number else None

    with subprocess.Popen([sys.executable, "-c", keep], cwd=ROOT, stderr=subprocess.PIPE, text=True) as parent:
        os.kill(eventually("a worker", lambda: pids(1))[0], signal.SIGKILL)
        second = eventually("another worker", lambda: pids(2))[1]
        parent.send_signal(signal.SIGTERM)
        _, said = parent.communicate(timeout=LIMIT)
    assert said == "Worker: ended with SIGKILL, starting another one in 1 s\n"
    assert parent.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
