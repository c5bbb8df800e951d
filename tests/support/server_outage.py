"""Take the Prefect server away for longer than runs may be silent: those that live go on, one that is lost is swept.

python -m tests.support.server_outage        # about 15 minutes; with --silence 90 instead of the shipped 240 about 8

Three runs: one completes after the outage, one is killed together with its worker during it, and one is killed together
with its worker after the others have ended.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from flows.automations import apply, lost_runs
from tasks.accounts.clients import Azure
from tasks.watching.heartbeats import SILENCE
from tests.support.accounts import azure_with_faults
from tests.support.deployed import Deployed
from tests.support.lost_machine import AS_SHIPPED, LIMIT, Case, Moment, Trial, worker_pid
from tests.support.polling import eventually

LONGER = 70.0  # seconds that the server is away after it would have declared the runs Crashed
COMPLETES = 200.0  # seconds more than that time which the Batch tasks of the first run take


class Outage:
    def __init__(self, trial: Trial, silence: float) -> None:
        self.trial, self.deployed, self.silence = trial, trial.deployed, silence
        self.began = time.monotonic()

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self.began:4.0f} s  {what}", flush=True)

    def states(self, run_id: UUID) -> list[str]:
        states = sorted(self.deployed.client.read_flow_run_states(run_id), key=lambda state: state.timestamp)
        return [f"{state.timestamp:%H:%M:%S} {state.name}" for state in states]

    def names(self, run_id: UUID) -> list[str]:
        return [line.split()[1] for line in self.states(run_id)]

    def start(self, seconds: float) -> UUID:
        run_id = self.trial.start_run(seconds, "0[01].in")
        case = Case(number=0, run_id=run_id, moment=Moment.MONITORING)
        eventually("running tasks", lambda: self.trial.reached(case))
        return run_id

    def kill(self, worker: int, run_id: int) -> None:
        for victim in (worker, run_id):
            os.kill(victim, signal.SIGKILL)

    def wait_until_swept(self, run_id: UUID) -> None:
        def swept() -> bool:
            return not self.trial.found(run_id)

        eventually(f"empty accounts after {run_id}", swept, LIMIT, interval=2)

    def run(self) -> None:
        completes, lives = self.start(self.silence + COMPLETES), self.start(3000)
        first = worker_pid(self.trial.supervisor)
        os.kill(first, signal.SIGSTOP)  # so that the second worker takes the third run
        second = self.trial.start_supervisor()
        try:
            self.with_two_workers(completes, lives, first, worker_pid(second))
        finally:
            for run_id in (completes, lives):
                print(run_id, self.states(run_id), flush=True)
            second.terminate()
            second.wait(60)

    def with_two_workers(self, completes: UUID, lives: UUID, first: int, second: int) -> None:
        lost = self.start(3000)
        os.kill(first, signal.SIGCONT)
        pid, pid_of_lost = self.deployed.pid(lives), self.deployed.pid(lost)
        self.say(f"completes {completes}, lives {lives}, lost {lost}")
        self.deployed.server.kill()
        self.deployed.server.wait()
        self.kill(second, pid_of_lost)
        self.say("server killed, and one run with its worker")
        time.sleep(self.silence + LONGER)
        self.deployed.restart_server()
        self.say("server started again")
        eventually("Crashed", lambda: "Crashed" in self.names(lost), 120)
        self.say("the lost one declared Crashed")
        self.wait_until_swept(lost)
        self.say("the lost one has left nothing")
        eventually("Running again", lambda: self.names(lives)[-1] == "Running")
        self.say(f"the others: {self.states(completes)}, {self.states(lives)}")
        eventually("completed", lambda: self.names(completes)[-1] == "Completed", 900, interval=2)
        assert self.trial.found(lives)
        self.say("Completed")
        self.kill(worker_pid(self.trial.supervisor), pid)
        self.say("the other killed with its worker")
        self.wait_until_swept(lives)
        self.say("it has left nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silence", type=float, default=SILENCE.total_seconds())
    silence = parser.parse_args().silence
    with tempfile.TemporaryDirectory() as folder, azure_with_faults(Path(folder)) as settings:
        azure = Azure.from_environment(settings)
        assert azure is not None
        deployed = Deployed.starting(**AS_SHIPPED)
        try:
            deployed.deploy(sweeps=True)
            for automation in lost_runs(timedelta(seconds=silence)):
                apply(deployed.client, automation)
            trial = Trial(deployed, azure, settings, Path(folder))
            try:
                Outage(trial, silence).run()
            finally:
                print((deployed.home / "supervisor.log").read_text()[-6000:], flush=True)
                trial.stop()
        finally:
            deployed.stop()


if __name__ == "__main__":
    main()
