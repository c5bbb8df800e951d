"""Before a hook or a sweep deletes the containers of a dead run, it downloads what the run has finished."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

import flows.hooks
import tasks.resources.finished
from flows.hooks import clean_up_dead_run
from flows.sweep import sweep
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.resources.leftovers import delete_each
from tasks.resources.ownership import Ending
from tasks.run.downloads import Download
from tasks.run.fetch import Fetcher
from tasks.run.folder_lock import working_in
from tasks.run.identity import Role
from tasks.run.program import Program
from tasks.run.records import FileRecord, Output, Record, record_blob
from tasks.run.results import Results, folder_of_run
from tasks.run.run_note import RunNote
from tests.support.accounts import list_leftovers
from tests.support.downloads import failure, put, record_of, remembered, success
from tests.support.leftovers import a_flow, accounts, everything, make_run, run_of, settings, there

__all__ = ["accounts", "settings"]  # fixtures

PROGRAM = Program(script="a script", arguments="its arguments")
LARGE = b"output of g.txt" * 50_000
DONE = {"a.txt", "d/e.txt", "f.txt", "g.txt"}  # the files that the dead run has finished
LONG_AGO = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Dead:
    """A run that was killed: what it has left in the accounts and, with a note, in its results folder."""

    def __init__(self, accounts: Azure, folder: Path, flow_run: FlowRun) -> None:
        self.accounts, self.flow_run, self.run = accounts, flow_run, run_of(flow_run.id)
        self.folder = folder_of_run(str(folder), self.run.name)
        make_run(accounts, self.run)
        with accounts.blobs() as blobs:
            self._record(blobs.get_container_client(self.run.container(Role.OUTPUT)))

    def _record(self, container: ContainerClient) -> None:
        """A group of four files, one of which has failed, and one file alone."""
        blob = "outputs/g.txt/g_OUTPUT.txt"
        stored = Output(path="g_OUTPUT.txt", blob=blob, size=len(LARGE), md5=hashlib.md5(LARGE).digest())
        container.upload_blob(blob, LARGE)
        put(container, 0, success("d/e.txt", "an earlier output"), failure("f.txt"), failure("h.txt"))
        put(container, 1, success("d/e.txt"), success("f.txt"), record_of("g.txt", Record(outputs=[stored])))
        container.upload_blob(record_blob("a.txt"), json.dumps(success("a.txt", input=_input("of a"))))

    def note(self, since: datetime = LONG_AGO, kept: str = "", **more: Any) -> Results:
        """As the run has noted it before it was killed."""
        results = Results(folder=self.folder, program=PROGRAM, kept=kept, **more)
        self.folder.mkdir(parents=True, exist_ok=True)
        RunNote.of(self.run.flow_run_id, results, since).write(self.folder)
        return results

    def hook(self) -> None:
        clean_up_dead_run(a_flow, self.flow_run, Crashed())

    def outputs(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.rglob("*_OUTPUT.txt")}

    def held(self) -> set[str]:
        return {found.name for found in list_leftovers(self.accounts) if found.tags.held}

    @property
    def containers(self) -> set[str]:
        return {f"container {self.run.container(role)}" for role in Role}


def _input(md5: str) -> dict[str, Any]:
    return {"size": 1, "md5": md5, "etag": ""}


@pytest.fixture
def dead(accounts: Azure, tmp_path: Path) -> Iterator[Dead]:
    parameters = {"inputs": ["a.txt"], "output_folder": str(tmp_path)}
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(a_flow, parameters=parameters)
        client.set_flow_run_state(flow_run.id, Crashed(), force=True)
        yield Dead(accounts, tmp_path, client.read_flow_run(flow_run.id))


pytestmark = pytest.mark.usefixtures("prefect_server")


def swept(dead: Dead, *, delete: bool = True) -> None:
    sweep(delete=delete, flow_run_id=str(dead.run.flow_run_id))


@pytest.mark.parametrize("clean_up", [Dead.hook, swept], ids=["hook", "sweep"])
def test_finished_outputs_are_saved_before_their_container_goes(dead: Dead, clean_up: Any) -> None:
    results = dead.note()
    clean_up(dead)
    assert there(dead.accounts) == set()
    assert remembered(results) == DONE
    assert dead.outputs() == {
        "a_OUTPUT.txt": b"output of a.txt",
        "e_OUTPUT.txt": b"output of d/e.txt",
        "f_OUTPUT.txt": b"output of f.txt",
        "g_OUTPUT.txt": LARGE,
    }
    noted = results.done()["a.txt"]
    assert (noted.content, noted.program, noted.record.node) == ("of a", PROGRAM, "n1")


def test_a_sweep_of_all_runs_saves_too(dead: Dead) -> None:
    results = dead.note()
    sweep(delete=True)
    assert (there(dead.accounts), remembered(results)) == (set(), DONE)


def test_a_dry_run_saves_nothing(dead: Dead) -> None:
    results = dead.note()
    swept(dead, delete=False)
    assert there(dead.accounts) == everything(dead.run)
    assert (results.done(), dead.outputs()) == ({}, {})


@pytest.mark.parametrize("clean_up", [Dead.hook, swept], ids=["hook", "sweep"])
def test_without_its_results_folder_a_run_s_containers_are_deleted(dead: Dead, clean_up: Any) -> None:
    clean_up(dead)
    assert there(dead.accounts) == set()
    assert not dead.folder.exists()


def test_a_home_directory_of_another_machine_is_no_results_folder(dead: Dead) -> None:
    dead.flow_run.parameters["output_folder"] = "~no-such-user/results"
    dead.hook()
    assert there(dead.accounts) == set()


def test_the_folder_of_another_run_is_left_alone(dead: Dead) -> None:
    dead.folder.mkdir()
    RunNote.of("another run", Results(folder=dead.folder), LONG_AGO).write(dead.folder)
    dead.hook()
    assert there(dead.accounts) == set()
    assert [path.name for path in dead.folder.iterdir()] == [".run.json"]


@pytest.mark.parametrize("clean_up", [Dead.hook, swept], ids=["hook", "sweep"])
def test_a_folder_that_cannot_be_written_keeps_the_containers(
    dead: Dead, clean_up: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dead.note()
    blocked = dead.folder / "d"
    blocked.write_text("in the way of d/e.txt")
    with caplog.at_level(logging.WARNING, "prefect"):
        clean_up(dead)
    assert there(dead.accounts) == dead.held() == dead.containers
    assert f"Outputs of {dead.run.name}: not all downloaded, their containers stay: ResultsError: " in caplog.text
    assert f"{blocked}" in caplog.text
    clean_up(dead)  # what is held stays
    assert there(dead.accounts) == dead.containers


def test_a_note_that_cannot_be_read_keeps_the_containers(dead: Dead) -> None:
    dead.note()
    (dead.folder / ".run.json").write_text("{")
    dead.hook()
    assert there(dead.accounts) == dead.held() == dead.containers


def test_of_outputs_that_are_kept_in_blobs_only_the_notes_are_written(dead: Dead) -> None:
    results = dead.note(kept="az://account/container/there")
    dead.hook()
    assert there(dead.accounts) == set()
    assert (remembered(results), dead.outputs()) == (DONE, {})


def test_records_of_another_program_are_not_saved(dead: Dead) -> None:
    results = dead.note(since=datetime.now(timezone.utc) + timedelta(hours=1))
    dead.hook()
    assert (there(dead.accounts), results.done()) == (set(), {})


def test_what_is_here_is_not_downloaded_again_unless_it_changed(
    dead: Dead, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    results = dead.note()
    dead.hook()
    make_run(dead.accounts, dead.run)
    with dead.accounts.blobs() as blobs:
        container = blobs.get_container_client(dead.run.container(Role.OUTPUT))
        dead._record(container)
        changed = success("a.txt", "output of another", input=_input("of another"))
        container.upload_blob(record_blob("a.txt"), json.dumps(changed), overwrite=True)
    stored: list[str] = []
    original = Fetcher.store

    def store(self: Fetcher, name: str, record: FileRecord) -> Any:
        stored.append(name)
        return original(self, name, record)

    monkeypatch.setattr(Fetcher, "store", store)
    with caplog.at_level(logging.INFO, "prefect"):
        dead.hook()
    assert (there(dead.accounts), stored) == (set(), ["a.txt"])
    said = f"Outputs of 1 finished files of {dead.run.name}: downloaded to {dead.folder}; those of 3 were there already"
    assert said in caplog.text
    assert results.done()["a.txt"].content == "of another"
    assert dead.outputs()["a_OUTPUT.txt"] == b"output of another"


def test_what_another_process_works_on_is_left_without_what_bills(dead: Dead) -> None:
    results = dead.note()
    with working_in(dead.folder):  # such as a retry
        dead.hook()
        swept(dead)
    assert there(dead.accounts) == dead.containers
    assert (dead.held(), results.done()) == (set(), {})
    swept(dead)
    assert (there(dead.accounts), remembered(results)) == (set(), DONE)


@pytest.mark.parametrize("clean_up", [Dead.hook, swept], ids=["hook", "sweep"])
def test_a_sweep_on_another_machine_leaves_what_is_being_saved(
    dead: Dead, clean_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = dead.note()
    listed = list_leftovers(dead.accounts)
    original = Download.fetch_recorded
    swept_meanwhile: list[set[str]] = []

    def meanwhile(self: Download, *more: Any) -> None:
        assert {each.ending for each in delete_each(dead.accounts, listed)} >= {Ending.HELD}
        swept_meanwhile.append(there(dead.accounts))
        original(self, *more)

    monkeypatch.setattr(Download, "fetch_recorded", meanwhile)
    clean_up(dead)
    output = f"container {dead.run.container(Role.OUTPUT)}"
    assert swept_meanwhile[0] == {output}
    assert (there(dead.accounts), remembered(results)) == (set(), DONE)


def test_a_job_that_does_not_end_in_time_keeps_the_containers(dead: Dead, monkeypatch: pytest.MonkeyPatch) -> None:
    results = dead.note()
    faults.ask("timings", {"removal": 600})
    monkeypatch.setattr(tasks.resources.finished, "_END_SHARE", 0.01)
    dead.hook()
    assert remembered(results) == DONE  # and what was there is saved
    assert dead.held() == dead.containers


def test_time_that_does_not_suffice_keeps_the_containers(dead: Dead, monkeypatch: pytest.MonkeyPatch) -> None:
    results, go_on = dead.note(), Event()
    monkeypatch.setattr(flows.hooks, "_SAVE_SECONDS", 3.0)
    monkeypatch.setattr(tasks.resources.finished, "_STOP_SECONDS", 0.1)
    original = Fetcher._fetch

    def slow(self: Fetcher, output: Output, path: Path) -> None:
        go_on.wait(60)
        original(self, output, path)

    monkeypatch.setattr(Fetcher, "_fetch", slow)
    dead.hook()
    go_on.set()
    assert remembered(results) == {"d/e.txt", "f.txt"}
    assert there(dead.accounts) == dead.held() == dead.containers
