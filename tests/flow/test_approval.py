"""Clean-up "ask": who is asked, what the answers do, and that silence, loss and cancellation all delete."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import socketserver
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import Cancelled

import tasks.approval
from tasks.approval import ask
from tasks.run.settings import CleanUp, Disposal
from tests.support.deployed import Deployed
from tests.support.paths import ROOT
from tests.support.polling import LIMIT, eventually

DELETE, KEEP, ASK = Disposal.DELETE, Disposal.KEEP, Disposal.ASK
COST = "The pool costs about 0.19 USD per hour while it waits."


@flow(name="asks", persist_result=False)
def asks(clean_up: CleanUp, seconds: float) -> CleanUp:
    """What top-words does about its clean-up, and nothing else."""
    return ask(
        clean_up,
        summary="30 words of 3 files",
        pool_cost=COST,
        limit=timedelta(seconds=seconds),
        poll_seconds=0.1,
    )


class Asked:
    """A flow run that asks, in a thread; the test answers."""

    def __init__(self, clean_up: CleanUp, seconds: float = 60, through: str | None = None) -> None:
        self.client: SyncPrefectClient = get_client(sync_client=True)
        self.state: State[CleanUp] | None = None
        known = {run.id for run in self._latest()}
        url = through or get_current_settings().api.url

        def body() -> None:
            with temporary_settings({PREFECT_API_URL: url}):
                self.state = asks(clean_up, seconds, return_state=True)

        self.thread = threading.Thread(target=body)
        self.thread.start()
        self.run = eventually(
            "a paused run",
            lambda: [run for run in self._latest() if run.id not in known and run.state_name == "Paused"],
        )[0]
        eventually("its form", self._has_a_form)

    def _has_a_form(self) -> bool:
        with suppress(PrefectHTTPStatusError):
            return bool(self.input("schema"))
        return False

    def _latest(self) -> list[FlowRun]:
        return self.client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=50)

    def keys(self) -> dict[str, str]:
        assert self.run.state
        keys = self.run.state.state_details.run_input_keyset
        assert keys
        return keys

    def input(self, use: str) -> Any:
        return json.loads(self.client.read_flow_run_input(self.run.id, self.keys()[use]))

    def answer(self, **answers: bool) -> str:
        """As the form in the UI does; the status of the server's answer."""
        return self.client.resume_flow_run(self.run.id, run_input=answers or None).status.value

    def ended(self) -> FlowRun:
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        return self.client.read_flow_run(self.run.id)

    def decided(self) -> CleanUp:
        assert self.ended().state_name == "Completed"
        assert self.state
        return self.state.result()


EVERYTHING = CleanUp(containers=ASK, job=ASK, pool=ASK)


def test_both_answers_are_followed(prefect_server: None) -> None:
    asked = Asked(EVERYTHING)
    assert asked.answer(delete_containers=True, delete_job=False, delete_pool=False) == "ACCEPT"
    assert asked.decided() == CleanUp(containers=DELETE, job=KEEP, pool=KEEP)


def test_the_form_asks_what_to_delete_and_says_what_waiting_costs(prefect_server: None) -> None:
    asked = Asked(CleanUp(containers=KEEP, pool=ASK), seconds=90)
    schema = asked.input("schema")
    assert list(schema["properties"]) == ["delete_pool"]
    assert schema["properties"]["delete_pool"]["title"] == "Delete pool?"
    assert schema["properties"]["delete_pool"]["default"] is True
    assert schema["properties"]["delete_pool"]["type"] == "boolean"
    assert schema["properties"]["delete_pool"]["description"]
    summary, cost, silence = asked.input("description").split("\n\n")
    assert (summary, cost) == ("**30 words of 3 files**", COST)
    assert re.fullmatch(r"Without an answer by \d\d:\d\d UTC \(after 1\.5 minutes\) the pool is deleted\.", silence)
    assert asked.answer() == "ACCEPT"  # Resume, with the form as it is
    assert asked.decided() == CleanUp(containers=KEEP, pool=DELETE)


def test_what_is_no_answer_is_refused_and_the_run_goes_on_waiting(prefect_server: None) -> None:
    asked = Asked(CleanUp(pool=ASK))
    assert asked.client.resume_flow_run(asked.run.id, run_input={"delete_pool": "perhaps"}).status.value == "REJECT"
    assert asked.client.read_flow_run(asked.run.id).state_name == "Paused"
    assert asked.answer(delete_pool=False) == "ACCEPT"
    assert asked.decided() == CleanUp(pool=KEEP)


def test_silence_deletes_and_the_run_completes(prefect_server: None) -> None:
    asked = Asked(CleanUp(job=ASK, pool=ASK), seconds=1)
    assert asked.decided() == CleanUp(job=DELETE, pool=DELETE)
    assert asked.input("response") == {"delete_job": True, "delete_pool": True}


def test_a_run_that_somebody_ends_while_it_waits_goes_on_and_deletes(prefect_server: None) -> None:
    asked = Asked(CleanUp(pool=ASK))
    asked.client.set_flow_run_state(asked.run.id, Cancelled(), force=True)
    assert asked.decided() == CleanUp(pool=DELETE)


def test_nothing_is_asked_where_there_is_nothing_to_ask(prefect_server: None) -> None:
    assert asks(CleanUp(job=KEEP), 60) == CleanUp(job=KEEP)


class Gate(socketserver.ThreadingTCPServer):
    """A port that leads to the Prefect server, until the gate is shut."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        self.leads_to = port
        self.shut = threading.Event()
        self.refused = 0


class Passage(socketserver.BaseRequestHandler):
    server: Gate

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.leads_to)) as server:
            ends = {self.request: server, server: self.request}
            while not self.server.shut.is_set():
                for end in select.select(list(ends), [], [], 0.05)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)
            self.server.refused += 1


def test_the_pool_is_deleted_if_the_server_ends_while_a_run_is_paused(
    prefect_server: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.approval, "_BUSY", 1.0)
    url = get_current_settings().api.url
    assert url
    with Gate(int(url.rsplit(":", 1)[1].split("/")[0])) as gate:
        threading.Thread(target=gate.serve_forever, daemon=True).start()
        through = url.replace(f":{gate.leads_to}/", f":{gate.server_address[1]}/")
        asked = Asked(CleanUp(pool=ASK), seconds=3, through=through)
        gate.shut.set()
        eventually("the answer", lambda: "No answer can come" in caplog.text)
        gate.shut.clear()
        assert gate.refused > 1
        assert asked.decided() == CleanUp(pool=DELETE)
        gate.shutdown()


def test_where_nobody_could_answer_it_deletes_and_says_so(
    prefect_server: None, caplog: pytest.LogCaptureFixture
) -> None:
    @flow(persist_result=False)
    def on_a_temporary_server() -> CleanUp:
        with temporary_settings({PREFECT_API_URL: None}):
            return ask(CleanUp(job=ASK, pool=ASK), summary="30 words of 3 files")

    assert on_a_temporary_server() == CleanUp(job=DELETE, pool=DELETE)
    assert "There is nobody to ask what to delete" in caplog.text
    assert "Deleting the job and pool" in caplog.text


IN_THE_TERMINAL = """
import os
os.open(os.ttyname(0), os.O_RDWR)  # of a process that leads a session: its terminal
from tests.flow.test_approval import CleanUp, EVERYTHING, ASK, asks
print("decided:", asks(EVERYTHING, 60).model_dump(mode="json"))
print("decided:", asks(CleanUp(pool=ASK), 0.5).model_dump(mode="json"))
try:
    asks(CleanUp(pool=ASK), 60)
finally:
    print("cleaning up")
"""


def test_in_the_terminal_the_same_is_asked_as_the_tutorial_did(prefect_server: None) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_THE_TERMINAL],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url), "COLUMNS": "200"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = Screen(ours)
    screen.type("n\n")  # before there is a question
    try:
        screen.shows("Delete containers? [Y/n] ")
        assert COST in screen.text
        screen.type("\n")
        screen.shows("Delete job? [Y/n] ")
        screen.type("perhaps\n")
        screen.shows("Please answer y or n\r\nDelete job? [Y/n] ")
        screen.type("n\n")
        screen.shows("Delete pool? [Y/n] ")
        screen.type("Y\n")
        screen.shows("decided: {'containers': 'delete', 'job': 'keep', 'pool': 'delete'")
        screen.shows("Delete pool? [Y/n] \r\nNo answer: deleting")
        screen.shows("decided: {'containers': 'delete', 'job': 'delete', 'pool': 'delete'")
        screen.shows("Delete pool? [Y/n] ")
        screen.type("\x03")  # Ctrl-C
        screen.shows("cleaning up")
        process.wait(LIMIT)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class Screen:
    """What a program wrote on its terminal, and a keyboard."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read = ""
        self.text = ""

    def shows(self, part: str) -> None:
        """Wait until it shows the text, after what was waited for last."""

        def found() -> bool:
            if select.select([self._descriptor], [], [], 0.1)[0]:
                with suppress(OSError):  # the program has ended
                    self._read += os.read(self._descriptor, 65536).decode()
            return part in self._read

        eventually(f"{part!r} on the terminal", found)
        before, _, self._read = self._read.partition(part)
        self.text += before + part

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())


@flow(name="asks-and-deletes", persist_result=False)
def asks_and_deletes(marker: str) -> None:
    """What top-words does about its clean-up when it is cancelled while it asks."""
    try:
        clean_up = ask(CleanUp(pool=ASK), summary="30 words of 3 files", limit=timedelta(minutes=10))
        Path(marker).write_text(clean_up.pool.value)
    finally:
        Path(marker).with_suffix(".finally").touch()


def test_cancelled_while_it_is_paused_the_run_goes_on_to_its_clean_up(deployed: Deployed, tmp_path: Path) -> None:
    marker = tmp_path / "answer"
    deployed.deploy_flow(asks_and_deletes, __file__)
    run = deployed.start("asks-and-deletes", marker=str(marker))
    deployed.wait(run, "Paused")
    deployed.cancel(run)
    deployed.wait(run, "Cancelled")
    assert marker.with_suffix(".finally").exists()
    # The signal ends the question, or before it the state, in which nobody can answer any more.
    assert not marker.exists() or marker.read_text() == "delete"
