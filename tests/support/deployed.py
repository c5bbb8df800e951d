"""A Prefect server and a process worker as processes of their own, with the deployments of prefect.yaml."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import prefect
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from prefect.utilities.callables import parameter_schema

from tests.support.paths import ROOT
from tests.support.polling import LIMIT, eventually

_NOT_INHERITED = ("AZURE_", "PREFECT_", "TOP_WORDS_")
FINAL = ("Completed", "Failed", "Crashed", "Cancelled")

# Everything that waits by default, waits less.
FAST = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT0.5S",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.5",
    "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "false",
    # On a busy machine SQLite keeps requests waiting, which the server otherwise answers with 503.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_WORKER_QUERY_SECONDS": "0.5",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
}
# Of the server alone: Python finds its sitecustomize.py there.
SERVER = {"PYTHONPATH": str(ROOT / "tests" / "support" / "prefect_server")}


@dataclass
class Deployed:
    """A running server with our deployments, and its worker. Azure is whatever `environment` names."""

    api_url: str
    home: Path
    environment: dict[str, str] = field(repr=False)
    server: subprocess.Popen[bytes]
    azure_settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    worker: subprocess.Popen[bytes] | None = None

    # The server and the worker

    @classmethod
    def starting(cls, **environment: str) -> Deployed:
        """The server, started; the rest is done by `deploy` and `start_worker`."""
        home = Path(tempfile.mkdtemp(prefix="prefect-"))
        shutil.copy(migrated_database(), home / "prefect.db")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        api_url = f"http://127.0.0.1:{port}/api"
        ours = {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": port, "PREFECT_API_URL": api_url}
        ours["TMPDIR"] = str(home)  # a worker that is killed leaves folders behind
        every = {**inherited, **FAST, **ours, **environment}
        return cls(api_url=api_url, home=home, environment=every, server=_start_server(home, every))

    def restart_server(self) -> None:
        """Start the server again, after it was killed, with the database that it had."""
        self.server = _start_server(self.home, self.environment)
        eventually("the server", self.healthy)

    def deploy(self, *, sweeps: bool = False) -> str:
        """`make deploy` against this server, once it answers: what that printed.

        sweeps: every 5 minutes, as deployed; else that is switched off, because it would delete what tests leave.
        """
        eventually("the server", self.healthy)
        printed = self.make("deploy")
        (sweep_all,) = [each for each in self.client.read_deployments() if each.name == "sweep-all"]
        for schedule in sweep_all.schedules:
            self.client.update_deployment_schedule(sweep_all.id, schedule.id, active=sweeps)
        return printed

    def make(self, target: str) -> str:
        """A target of the Makefile, in the environment that the tests run in: what it printed."""
        command = ["make", "--old-file=.venv/installed", f"BIN={Path(sys.executable).parent}", target]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_worker(self, azure_settings: Mapping[str, str] | None = None) -> None:
        """Start a worker, by default with the same Azure settings as the last."""
        self.azure_settings = self.azure_settings if azure_settings is None else azure_settings
        every = {**self.environment, **self.azure_settings}
        self.worker = _start("worker", self.home, every, "worker", "start", "--pool", "local-process")

    def kill_worker(self, signal_number: int = signal.SIGKILL) -> None:
        """End the worker alone; the processes of its flow runs live on."""
        assert self.worker
        self.worker.send_signal(signal_number)
        self.worker.wait(LIMIT)
        self.worker = None

    def stop(self) -> None:
        """End the worker, the flow runs' processes and the server."""
        try:
            if self.worker:
                self.kill_worker()
            for run in self.runs() if self.answers() else ():
                if run.state_name not in FINAL and run.infrastructure_pid:
                    with suppress(ProcessLookupError):
                        self.kill(run.id)
        finally:
            self.server.kill()
            self.server.wait()
            shutil.rmtree(self.home, ignore_errors=True)

    def healthy(self) -> bool:
        assert self.server.poll() is None, self.output("server")
        return self.answers()

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.api_url}/health").status_code == 200
        return False

    def output(self, process: str) -> str:
        """What the `server` or the `worker` printed so far."""
        return (self.home / f"{process}.log").read_text()

    # Flow runs

    def settings(self) -> AbstractContextManager[Any]:
        """For code of this process that is to talk to this server."""
        return temporary_settings({PREFECT_API_URL: self.api_url})

    @cached_property
    def client(self) -> SyncPrefectClient:
        with self.settings():
            return get_client(sync_client=True)

    def deploy_flow(self, flow: Flow[Any, Any], file: str) -> None:
        """A deployment of a test's own flow, in that file; its name is the flow's."""
        folder = {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
        self.client.create_deployment(
            self.client.create_flow(flow),
            flow.name,
            work_pool_name="local-process",
            entrypoint=f"{Path(file).relative_to(ROOT)}:{flow.fn.__name__}",
            pull_steps=[folder],
            parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        )

    def start(self, deployment: str = "top-words", **parameters: Any) -> UUID:
        """A run of a deployment, by its name, such as "top-words", "top-words-nightly" or "sweep". The run's id."""
        named = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
        found = self.client.read_deployments(deployment_filter=named)[0]
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def run(self, run_id: UUID) -> FlowRun:
        return self.client.read_flow_run(run_id)

    def runs(self, deployment: str | None = None) -> list[FlowRun]:
        """All flow runs, or those of one deployment."""
        runs = self.client.read_flow_runs(limit=200)
        if deployment is None:
            return runs
        ids = {each.id for each in self.client.read_deployments() if each.name == deployment}
        return [run for run in runs if run.deployment_id in ids]

    def wait(self, run_id: UUID, *states: str, limit: float = LIMIT) -> State[Any]:
        """The run's state once that is one of these names (default: the final ones). Another final state fails."""
        wanted = states or FINAL

        def reached() -> State[Any] | None:
            state = self.run(run_id).state
            assert state is None or state.name in wanted or state.name not in FINAL, self.describe(run_id)
            return state if state and state.name in wanted else None

        return eventually(f"run {run_id} being {' or '.join(wanted)}", reached, limit)

    def logs(self, run_id: UUID) -> list[str]:
        """The run's log lines, those of its Prefect tasks included.

        Prefect sends lines again whose answer was lost, so the server may have one twice, with the same time.
        """
        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        logs = self.client.read_logs(log_filter=only, limit=200)
        return [message for _, message in dict.fromkeys((log.timestamp, log.message) for log in logs)]

    def wait_for_log(self, run_id: UUID, part: str, limit: float = LIMIT) -> str:
        """The first log line of the run that contains `part`."""
        found = eventually(f"a log line {part!r}", lambda: [line for line in self.logs(run_id) if part in line], limit)
        return found[0]

    def describe(self, run_id: UUID) -> str:
        """The run as a failing test should show it."""
        run = self.run(run_id)
        return "\n".join([f"{run.name}: {run.state}", *self.logs(run_id)])

    def pid(self, run_id: UUID) -> int:
        """The process of a flow run, once the worker has started it."""
        where = eventually(f"a process of run {run_id}", lambda: self.run(run_id).infrastructure_pid)
        return int(where.rsplit(":", 1)[-1])

    def kill(self, run_id: UUID, signal_number: int = signal.SIGKILL) -> None:
        """Send the flow run's process a signal; nothing of it runs after the default one."""
        os.kill(self.pid(run_id), signal_number)

    def cancel(self, run_id: UUID) -> None:
        """As the Cancel button of the UI does."""
        self.client.set_flow_run_state(run_id, Cancelling())


def migrated_database() -> Path:
    """An empty database of the installed Prefect, made once: its migrations take longer than the rest of a start."""
    made = ROOT / ".pytest_cache" / f"prefect-{prefect.__version__}.db"
    made.parent.mkdir(exist_ok=True)
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers wait for the one that makes it
        if not made.exists():
            with tempfile.TemporaryDirectory() as home:
                command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
                environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
                subprocess.run(command, env={**environment, "PREFECT_HOME": home}, check=True, capture_output=True)
                own = made.with_suffix(".new")  # an interrupted copy is no database
                shutil.copy(Path(home) / "prefect.db", own)
                own.replace(made)
    return made


def _start_server(home: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return _start("server", home, {**environment, **SERVER}, "server", "start", "--host", "127.0.0.1")


def _start(name: str, home: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    # A session of its own: with one of the tests', a worker would get a Ctrl-C that is meant for pytest.
    command = [sys.executable, "-m", "prefect", *arguments]
    with (home / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
