"""Kill flow and worker together, again and again, and measure until the accounts are empty, with nobody at a keyboard.

python -m tests.support.lost_machine --times 20        # about 30 minutes; a table at the end

A Prefect server, `make deploy`, a worker as `make worker` starts it, and a local Azure, all with the values that ship.
The runs that were killed are waited for together. A run is killed only while no sweep is under way.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from uuid import UUID

from azure.batch.models import BatchTaskState

from tasks.accounts.clients import Azure
from tasks.resources.resource import Found, Kind
from tests.support.accounts import azure_with_faults, list_leftovers
from tests.support.deployed import FINAL, Deployed
from tests.support.paths import ROOT
from tests.support.polling import eventually

LIMIT = 600.0  # seconds from the kill to empty accounts
# Prefect's own values, in place of those that make tests fast.
AS_SHIPPED = {
    "PREFECT_WORKER_QUERY_SECONDS": "10",
    "PREFECT_RUNNER_POLL_FREQUENCY": "10",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT5S",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "5",
}
SCRIPT = """
import os, pathlib, sys, time
time.sleep(float(sys.argv[1]))
pathlib.Path(os.environ["OUTPUT_DIR"], "out.csv").write_bytes(b"size\\n" + b"1\\n" * 500_000)
"""


class Moment(Enum):
    """What has just happened in Azure when the run is killed."""

    PROCESS = "flow begun"
    CONTAINERS = "containers created"
    POOL = "pool created"
    ADDING = "job created, tasks being added"
    MONITORING = "tasks running"
    DOWNLOAD = "tasks completed"
    CLEAN_UP = "pool being deleted"


@dataclass(kw_only=True)
class Case:
    number: int
    run_id: UUID
    moment: Moment
    there: list[str] = field(default_factory=list)  # when it was killed
    killed: float = 0.0
    killed_at: datetime | None = None
    empty: float | None = None  # seconds after the kill
    crashed: float | None = None
    state: str = ""


class Trial:
    """The processes, and what is done with them."""

    def __init__(self, deployed: Deployed, azure: Azure, settings: dict[str, str], folder: Path) -> None:
        self.deployed, self.azure, self.folder = deployed, azure, folder
        self.environment = {**deployed.environment, **settings, "PREFECT_API_URL": deployed.api_url}
        (folder / "work.py").write_text(SCRIPT)
        for number in range(20):
            (folder / f"{number:02}.in").write_text(f"{number}\n")
        self.supervisor = self.start_supervisor()
        self.cases: list[Case] = []
        self.done = threading.Event()

    def start_supervisor(self) -> subprocess.Popen[bytes]:
        """A worker as `make worker` starts it."""
        with (self.deployed.home / "supervisor.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.worker", "--pool", "local-process", "--type", "process"],
                cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def start_run(self, seconds: float, files: str = "*.in") -> UUID:
        return self.deployed.start(
            "run-script",
            script=str(self.folder / "work.py"),
            arguments=[str(seconds)],
            inputs=[str(self.folder / files)],
            output_folder=str(self.folder / "results"),
            files_per_task=1,
        )

    def kill_one(self, moment: Moment) -> None:
        """A run, killed together with its worker at that moment, or shortly after; another one if it ended before."""
        while not self._killed_before_its_end(moment):
            print(f"   {moment.value}: the run had ended, trying again", flush=True)

    def _killed_before_its_end(self, moment: Moment) -> bool:
        eventually("a moment without sweeps", self._no_sweep, LIMIT)
        seconds = 0.1 if moment in (Moment.DOWNLOAD, Moment.CLEAN_UP) else 900
        run_id = self.start_run(seconds)
        eventually("the run being begun", lambda: self.deployed.run(run_id).state_name == "Running", interval=0.02)
        case = Case(number=len(self.cases) + 1, run_id=run_id, moment=moment)
        pid = self.deployed.pid(run_id)
        eventually(moment.value, lambda: self.reached(case), interval=0.02)
        if moment is not Moment.CLEAN_UP:  # which takes half a second
            time.sleep(random.uniform(0, 0.5 if seconds < 1 else 3.0))
        if moment is not Moment.CLEAN_UP:
            eventually("a moment without sweeps", self._no_sweep, LIMIT)
        case.there = self._names(run_id)
        for victim in (worker_pid(self.supervisor), pid):
            with suppress(ProcessLookupError):  # a run that has just ended
                os.kill(victim, signal.SIGKILL)
        case.killed, case.killed_at = time.monotonic(), datetime.now().astimezone()
        case.state = self.deployed.run(run_id).state_name or ""
        if case.state in FINAL:
            return False
        self.cases.append(case)
        print(f"{case.number:2} {run_id} {moment.value}: {', '.join(case.there) or 'nothing'}", flush=True)
        return True

    def _no_sweep(self) -> bool:
        return all(run.state_name in FINAL for run in self.deployed.runs("sweep"))

    def found(self, run_id: UUID) -> list[Found]:
        return [found for found in list_leftovers(self.azure) if found.tags.owned_by(str(run_id))]

    def _names(self, run_id: UUID) -> list[str]:
        return sorted(
            f"{each.kind.value} ({each.state})" if each.state else each.kind.value for each in self.found(run_id)
        )

    def reached(self, case: Case) -> bool:
        if case.moment is Moment.PROCESS:
            return True
        found = self.found(case.run_id)
        kinds = {each.kind: each for each in found}
        match case.moment:
            case Moment.CONTAINERS:
                return Kind.CONTAINER in kinds
            case Moment.POOL:
                return Kind.POOL in kinds
            case Moment.ADDING:
                return Kind.JOB in kinds
            case Moment.CLEAN_UP:
                return kinds[Kind.POOL].is_being_deleted if Kind.POOL in kinds else self._was_there(case)
        if Kind.JOB not in kinds:
            return False
        with self.azure.batch() as batch:
            states = [task.state for task in batch.list_tasks(kinds[Kind.JOB].id)]
        if case.moment is Moment.DOWNLOAD:
            return len(states) == 20 and all(state == BatchTaskState.COMPLETED for state in states)
        return BatchTaskState.RUNNING in states

    def _was_there(self, case: Case) -> bool:
        return any("deleted" in line for line in self.deployed.logs(case.run_id))

    def watch(self) -> None:
        """Note when each killed run has left nothing."""
        while not self.done.wait(1.0):
            with suppress(Exception):  # a service that does not answer at once is asked again
                found = list_leftovers(self.azure)
                for case in self.cases:
                    if case.empty is None and not any(each.tags.owned_by(str(case.run_id)) for each in found):
                        case.empty = time.monotonic() - case.killed
                        print(f"{case.number:2} empty after {case.empty:.0f} s", flush=True)

    def wait_until_empty(self) -> bool:
        """Whether each run has left nothing within the limit; notes when it was declared Crashed."""
        latest = max(case.killed for case in self.cases) + LIMIT
        while time.monotonic() < latest and not all(self._is_over(case) for case in self.cases):
            time.sleep(2)
        return all(case.empty is not None and case.empty < LIMIT for case in self.cases)

    def _is_over(self, case: Case) -> bool:
        state = self.deployed.run(case.run_id).state
        if state and state.name in FINAL and case.crashed is None and case.killed_at:
            case.crashed = (state.timestamp - case.killed_at).total_seconds()
            case.state = state.name or ""
        return case.empty is not None and bool(state and state.name in FINAL)

    def stop(self) -> None:
        self.done.set()
        self.supervisor.terminate()
        self.supervisor.wait(60)


def worker_pid(supervisor: subprocess.Popen[bytes]) -> int:
    def child() -> int | None:
        pid = supervisor.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    return eventually("a worker", child)


def table(cases: list[Case]) -> str:
    def seconds(value: float | None) -> str:
        return "never" if value is None else f"{value:.0f} s"

    lines = ["| | killed when | there then | state | declared after | empty after |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {case.number} | {case.moment.value} | {', '.join(case.there) or 'nothing'} | {case.state} "
        f"| {seconds(case.crashed)} | {seconds(case.empty)} |"
        for case in cases
    ]
    return "\n".join(lines)


def try_it(times: int, started: Callable[[], None] = lambda: None) -> bool:
    with tempfile.TemporaryDirectory() as folder, azure_with_faults(Path(folder)) as settings:
        azure = Azure.from_environment(settings)
        assert azure is not None
        deployed = Deployed.starting(**AS_SHIPPED)
        try:
            print(deployed.deploy(sweeps=True), flush=True)
            trial = Trial(deployed, azure, settings, Path(folder))
            threading.Thread(target=trial.watch, daemon=True).start()
            try:
                moments = list(Moment)
                for number in range(times):
                    trial.kill_one(moments[number % len(moments)])
                passed = trial.wait_until_empty()
                print(table(trial.cases), flush=True)
                print((deployed.home / "supervisor.log").read_text()[-2000:] if not passed else "", flush=True)
                return passed
            finally:
                trial.stop()
        finally:
            deployed.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    sys.exit(not try_it(parser.parse_args().times))


if __name__ == "__main__":
    main()
