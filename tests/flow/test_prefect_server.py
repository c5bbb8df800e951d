"""The installed Prefect, FastAPI and SQLAlchemy work together.

With a newer FastAPI than the pin Prefect's server does not start; with a newer SQLAlchemy its scheduler silently
never creates a run. Temporary servers have no scheduler, so this one is started for real.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import prefect_server
from tests.support.paths import ROOT
from tests.support.polling import eventually


@pytest.fixture
def api_url(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield url
    finally:
        server.terminate()
        server.wait(30)


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@flow
def nothing() -> None:
    """Do nothing; it is only scheduled."""


def test_a_server_starts_and_its_scheduler_creates_runs(api_url: str) -> None:
    eventually("the server", lambda: healthy(api_url))
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        every_minute = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(minutes=1)), active=True)
        client.create_deployment(client.create_flow(nothing), "often", schedules=[every_minute])
        eventually("a scheduled run", lambda: any(run.state_name == "Scheduled" for run in client.read_flow_runs()))


def test_a_temporary_server_is_started_as_prefect_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def starting(args: list[str], env: dict[str, str], **_: object) -> SimpleNamespace:
        started.append((args[3:], env))  # after the program
        return SimpleNamespace(terminate=lambda: None)

    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(subprocess, "Popen", starting)
    monkeypatch.setattr(SubprocessASGIServer, "_instances", {})
    SubprocessASGIServer(port=8000)._run_uvicorn_command()
    prefect_server._temporary_server(8000)
    assert started[1] == started[0]


def test_a_temporary_server_ends_with_a_killed_command(tmp_path: Path) -> None:
    start = "from flows.prefect_server import _free_port, _temporary_server; _temporary_server(_free_port())"
    command = [sys.executable, "-c", f"{start}; print(flush=True); input()"]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        try:
            process.communicate(timeout=30)  # until the server has ended, which has the same stdout
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
