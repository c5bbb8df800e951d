"""What the artifacts show while Batch tasks run, and that nothing of the Batch work depends on them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread, current_thread
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
from azure.core.pipeline.transport import RequestsTransport
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

import tasks.reporting.artifacts
import tasks.watching.snapshot
from flows.top_words import top_words
from tasks.accounts.clients import Azure
from tasks.monitor import monitor_tasks
from tasks.run.identity import Run
from tests.support.accounts import left_over
from tests.support.deployed import Deployed
from tests.support.monitoring import Time, monitor_at, pace
from tests.support.paths import DATA
from tests.support.polling import eventually, wait_until
from tests.support.runs import in_flow, make_job, make_pool


def published(key: str) -> Any:
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    with get_client(sync_client=True) as client:
        (found,) = [each for each in client.read_artifacts(artifact_filter=only) if each.key == key]
    return found


@pytest.mark.usefixtures("prefect_server")
def test_of_very_many_tasks_the_failed_and_the_running_are_shown(
    azure: Azure, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tasks.reporting.artifacts, tasks.watching.snapshot):
        monkeypatch.setattr(module, "MOST_TABLE_ROWS", 4)
    gate = tmp_path / "gate"
    pool = make_pool(azure, run, nodes=1)
    held = f"until test -e {gate}; do sleep 0.05; done"
    added = make_job(azure, run, "true", "exit 3", "true", "true", held, "true", "true")
    shown: list[tuple[list[tuple[str, str]], str]] = []

    def look() -> None:
        found = published("batch-task-states")
        rows = [(row["task"], row["state"]) for row in json.loads(found.data)]
        shown.append((rows, found.description))
        if ("topNtask4", "running") in rows:
            gate.touch()

    in_flow(lambda: monitor_tasks(azure, run, pool, added, polling=pace(look)))
    said = "4 of 7 Batch tasks completed (3 succeeded, 1 failed), 1 running, 2 queued"
    said += "; 2 of 7 shown, the failed first"
    assert ([("topNtask1", "failed: exited non-zero"), ("topNtask4", "running")], said) in shown
    assert max(len(rows) for rows, _ in shown) <= 4


class Calls:
    """The requests of this thread to Azure Batch and to the Prefect server, look by look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batch: list[list[str]] = [[]]
        self.prefect: list[list[str]] = [[]]
        self._of_batch, self._of_prefect = RequestsTransport.send, httpx.Client.send
        self._thread = current_thread()
        monkeypatch.setattr(RequestsTransport, "send", lambda *given, **more: self._to_batch(*given, **more))
        monkeypatch.setattr(httpx.Client, "send", lambda *given, **more: self._to_prefect(*given, **more))

    def next_look(self) -> None:
        self.batch.append([])
        self.prefect.append([])

    def forget(self) -> None:
        """The requests since the last look, which are the test's own."""
        self.batch[-1].clear()

    def _to_batch(self, transport: RequestsTransport, request: Any, **given: Any) -> Any:
        if current_thread() is self._thread:
            self.batch[-1].append(f"{request.method} {urlsplit(request.url).path.rpartition('/')[2]}")
        return self._of_batch(transport, request, **given)

    def _to_prefect(self, client: httpx.Client, request: httpx.Request, **given: Any) -> Any:
        if current_thread() is self._thread:
            self.prefect[-1].append(f"{request.method} {request.url.path.split('/')[2]}")
        return self._of_prefect(client, request, **given)


@pytest.mark.usefixtures("prefect_server")
def test_a_look_is_one_call_while_nothing_is_wrong(
    azure: Azure, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(azure, run, nodes=1)
    gates = [tmp_path / str(number) for number in range(8)]
    added = make_job(azure, run, *(f"until test -e {gate}; do sleep 0.01; done" for gate in gates))
    time, completed = Time(), 0
    with azure.batch() as batch:

        def counted() -> tuple[int, int]:
            counts = batch.get_job_task_counts(run.job_id).task_counts
            return counts.completed, counts.running

        wait_until(lambda: counted() == (0, 1))
        calls = Calls(monkeypatch)

        def complete_one() -> None:
            nonlocal completed
            gates[completed].touch()
            completed += 1
            calls.next_look()
            wait_until(lambda: counted() == (completed, completed < len(gates)))
            calls.forget()
            time.passes(30 if completed == 1 else 14 / 60)

        def monitor() -> None:
            calls.next_look()
            monitor_tasks(azure, run, pool, added, polling=replace(time.pace(complete_one), shortest=14.0))

        in_flow(monitor)
    one, listed = ["GET taskcounts"], ["GET taskcounts", "GET tasks"]
    assert calls.batch[1:] == [listed, listed, one, one, one, one, one, one, listed]
    # Each half minute a line of the log with the progress, now and then a look whether the run was cancelled.
    line, asked = ["PATCH artifacts"], ["GET flow_runs"]
    assert calls.prefect[2:-1] == [asked + line + line, [], line, [], line, asked, line]


@pytest.fixture(scope="module", autouse=True)
def own_server() -> Iterator[Deployed]:
    """A Prefect server for a test to kill, without deployments; it starts while the other tests run."""
    server = Deployed.starting()
    yield server
    if server.server.poll() is None:
        server.stop()
    shutil.rmtree(server.home, ignore_errors=True)


@contextmanager
def running(server: Deployed, azure_settings: dict[str, str], output: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, as far as its having added its Batch tasks."""
    command = [sys.executable, "-m", "flows.top_words", str(DATA), "--top-n", "1", "--delay", "1"]
    with subprocess.Popen(
        [*command, "--output", str(output)],
        cwd=DATA.parent,
        env={**server.environment, **azure_settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if "Batch tasks added" in line:
                break
        yield process
        process.kill()


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*/*/*_OUTPUT.txt"))


ALL = [f"{name}_OUTPUT.txt" for name in ("clouds", "harbour", "kitchen")]


@pytest.mark.usefixtures("prefect_server")
def test_a_prefect_server_that_pauses_fails_nothing(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = pid_of_the_prefect_server()
    resumed: list[bool] = []

    def resume() -> None:
        eventually("all Batch tasks to have completed", lambda: all_completed(azure))
        resumed.append(True)
        os.kill(pid, signal.SIGCONT)

    later = Thread(target=resume)

    def stop() -> None:
        if not later.ident:
            os.kill(pid, signal.SIGSTOP)
            later.start()

    monitor_at(monkeypatch, pace(stop))
    try:
        state = top_words([str(DATA)], top_n=1, delay_seconds=1, output_folder=str(tmp_path), return_state=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    later.join()
    assert resumed
    assert state.is_completed(), state
    assert outputs(tmp_path) == ALL
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(str(state.state_details.flow_run_id))).state_name == "Completed"


def pid_of_the_prefect_server() -> int:
    """Of the one that all tests share."""
    port = urlsplit(PREFECT_API_URL.value() or "").port
    found = subprocess.run(["pgrep", "-f", f"uvicorn.*--port {port}"], capture_output=True, text=True, check=True)
    return int(found.stdout)


def test_without_its_prefect_server_a_run_still_cleans_up(
    azure: Azure, azure_settings: dict[str, str], own_server: Deployed, tmp_path: Path
) -> None:
    """Prefect itself then retries its server for minutes, by which time nothing is left that could bill."""
    eventually("the server", own_server.healthy)
    with running(own_server, azure_settings, tmp_path) as process:
        assert process.stdout
        os.killpg(own_server.server.pid, signal.SIGKILL)
        for line in process.stdout:
            if re.search(r"Pool \S+: deleted", line):
                break
        eventually("the accounts to be empty", lambda: not left_over(azure))
    assert outputs(tmp_path) == ALL
    assert list(tmp_path.glob("*/summary.csv"))


def all_completed(azure: Azure) -> bool:
    with azure.batch() as batch:
        counts = [batch.get_job_task_counts(job.id).task_counts.completed for job in batch.list_jobs()]
    return counts == [3]
