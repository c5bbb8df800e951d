"""A run that is stopped downloads what is finished in the seconds left, and names what it does not get."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from azure.storage.blob import ContainerClient

import tasks.record
import tasks.run.downloads
import tasks.stopped
from tasks.accounts.clients import Azure
from tasks.containers import delete_containers
from tasks.inputs.files import InputFile
from tasks.record import RunRecord
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.report import RunFacts
from tasks.resources.job import JobResource
from tasks.run.fetch import Fetcher
from tasks.run.identity import Role, Run
from tasks.run.outcomes import AddedTask, Cause, TaskOutcome
from tasks.run.previous_attempt import records_there
from tasks.run.records import Output, record_blob
from tasks.run.results import Results
from tasks.run.settings import CleanUp, Disposal
from tasks.run.uploads import Bundle, Uploads
from tasks.stopped import fetch_finished, note_ended
from tests.support.downloads import (
    GROUP,
    NAMES,
    UPLOADS,
    container,
    failure,
    file,
    output_blob,
    parse,
    put,
    quick,
    remembered,
    run,
    success,
)

__all__ = ["container", "quick", "run"]  # fixtures

LOGGER = logging.getLogger("tests.stopped")
LATE = "d.txt"  # its Batch task has not begun


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[RunFacts]:
    facts: list[RunFacts] = []
    monkeypatch.setattr(tasks.record, "publish_report", lambda write: write())
    monkeypatch.setattr(tasks.record, "report", facts.append)
    for module in (tasks.record, tasks.stopped):
        monkeypatch.setattr(module, "get_run_logger", lambda: LOGGER)
    return facts


@pytest.fixture
def chronicle(azure: Azure, run: Run, container: ContainerClient, tmp_path: Path) -> RunRecord[Any]:
    """Of a run with four files, of which a look has seen one finished, and the service three."""
    files = [InputFile(source=name, name=name, size=1, task_id=file(name).task_id) for name in (*NAMES, LATE)]
    results = Results(folder=tmp_path / "results", parse=parse)
    results.folder.mkdir()
    told: RunRecord[Any] = RunRecord(
        azure=azure,
        run=run,
        results=results,
        files=files,
        done=[],
        allowed=0,
        steps=[],
        report_joined=lambda joined: "",
    )
    told.uploads = UPLOADS.__class__(application=UPLOADS.application, inputs=[*UPLOADS.inputs, file(LATE)])
    for name, state, succeeded in (("a.txt", "completed", True), ("b.txt", "running", False)):
        added = AddedTask(id=file(name).task_id, file=name)
        told.seen.outcomes[added.id] = TaskOutcome(id=added.id, file=name, state=state, succeeded=succeeded)
    told.seen.succeeded = 1
    return told


class Stopped(BaseException):
    """What a signal raises."""


def stop(chronicle: RunRecord[Any], seconds: float = 30.0) -> None:
    try:
        raise Stopped
    except Stopped as stopped:
        fetch_finished(chronicle, stopped, seconds)
        chronicle.close(CleanUp(), ["containers", "job", "pool"], stopped)


def tags(container: ContainerClient) -> dict[str, str]:
    return dict(container.get_container_properties().metadata)


def test_finished_outputs_are_downloaded_and_reported(
    chronicle: RunRecord[Any], container: ContainerClient, published: list[RunFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, int, str]] = []
    monkeypatch.setattr(TaskBoard, "is_shown", True)  # as monitoring has begun
    monkeypatch.setattr(chronicle.seen.board, "show", lambda outcomes, *more: shown.append(more))
    monkeypatch.setattr(TaskBoard, "is_shown", True)  # by monitoring
    stop(chronicle)
    assert shown == [(3, 4, "3 of 4 Batch tasks completed (3 succeeded, 0 failed), 1 not completed: Stopped: ")]
    assert remembered(chronicle.results) == set(NAMES)
    assert [(each.file, each.succeeded, each.cause) for each in published[0].outcomes] == [
        ("a.txt", True, None),
        ("b.txt", True, None),
        ("c.txt", True, None),
        (LATE, False, Cause.NOT_STARTED),
    ]
    assert (chronicle.holds(), published[0].kept) == (False, ())


def test_finished_files_of_a_group_that_still_runs_are_downloaded(
    chronicle: RunRecord[Any], container: ContainerClient, published: list[RunFacts]
) -> None:
    for name in ("b.txt", "c.txt"):
        container.delete_blob(record_blob(name))
    put(container, 0, success("b.txt"), failure("c.txt"))
    inputs = [file("a.txt"), *(replace(file(name), task_id=GROUP) for name in ("b.txt", "c.txt", LATE))]
    chronicle.uploads = Uploads(application=[], inputs=inputs, bundles={GROUP: Bundle(blob=file("x"), digest="")})
    chronicle.seen.outcomes.clear()
    chronicle.seen.succeeded = 0
    assert chronicle.outputs_left() is False
    chronicle.seen.outcomes[GROUP] = TaskOutcome(id=GROUP, file="b.txt and 2 more", state="running")
    assert chronicle.outputs_left() is True
    stop(chronicle)
    assert remembered(chronicle.results) == {"a.txt", "b.txt"}
    assert [(each.file, each.succeeded, each.exit_code, each.cause) for each in published[0].outcomes] == [
        ("a.txt", True, None, None),
        ("b.txt", True, 0, None),
        ("c.txt", False, 3, Cause.EXIT_CODE),
        (LATE, False, None, Cause.NOT_RUN),
    ]
    assert chronicle.holds() is False


def in_group(chronicle: RunRecord[Any], container: ContainerClient, *names: str) -> None:
    """Let these files be those of a group that runs."""
    for name in {*names} & {*NAMES}:
        container.delete_blob(record_blob(name))
    inputs = [replace(file(name), task_id=GROUP) for name in names]
    chronicle.uploads = Uploads(application=[], inputs=inputs, bundles={GROUP: Bundle(blob=file("x"), digest="")})
    chronicle.seen.outcomes.clear()
    chronicle.seen.outcomes[GROUP] = TaskOutcome(id=GROUP, file="b.txt and 2 more", state="running")


def storing(monkeypatch: pytest.MonkeyPatch, store: Callable[[], object]) -> None:
    """Let the job end at the second look, after its group has stored its last list."""
    looks: list[bool] = []

    def is_over(self: JobResource) -> bool:
        if looks:
            store()
        looks.append(True)
        return len(looks) > 1

    monkeypatch.setattr(JobResource, "is_over", is_over)


def test_what_a_group_stores_while_its_job_ends_is_downloaded(
    chronicle: RunRecord[Any],
    container: ContainerClient,
    published: list[RunFacts],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(container, 0, success("b.txt"))
    in_group(chronicle, container, "b.txt", "c.txt", LATE)
    storing(monkeypatch, lambda: put(container, 1, success("c.txt")))
    stop(chronicle)
    assert remembered(chronicle.results) == {"b.txt", "c.txt"}
    assert chronicle.holds() is False


def test_a_cancelled_run_notes_what_a_group_stores_while_its_job_ends(
    chronicle: RunRecord[Any], container: ContainerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_group(chronicle, container, "b.txt", "c.txt", LATE)
    storing(monkeypatch, lambda: put(container, 0, success("b.txt"), failure("c.txt")))
    note_ended(chronicle)
    assert [(name, each.succeeded, each.exit_code) for name, each in chronicle.known.items()] == [
        ("b.txt", True, 0),
        ("c.txt", False, 3),
        (LATE, False, None),
    ]


def test_a_job_that_does_not_end_in_time_keeps_the_outputs_of_its_groups(
    chronicle: RunRecord[Any], container: ContainerClient, published: list[RunFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(container, 0, success("b.txt"))
    in_group(chronicle, container, "b.txt", "c.txt", LATE)
    monkeypatch.setattr(JobResource, "is_over", lambda self: False)
    monkeypatch.setattr(tasks.stopped, "END_SECONDS", 0.1)
    stop(chronicle)
    assert remembered(chronicle.results) == {"b.txt"}
    assert chronicle.holds() is True


def blocking(name: str, blocked: Event) -> Callable[..., None]:
    """The download of an output, which for this one takes until the test is over."""
    original = Fetcher._fetch

    def call(self: Fetcher, output: Output, path: Path) -> None:
        if output.blob == output_blob(name):
            blocked.wait(60)
        original(self, output, path)

    return call


def test_what_the_seconds_do_not_suffice_for_is_named_and_stays(
    chronicle: RunRecord[Any],
    azure: Azure,
    run: Run,
    container: ContainerClient,
    published: list[RunFacts],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocked = Event()
    monkeypatch.setattr(Fetcher, "_fetch", blocking("b.txt", blocked))
    stop(chronicle, seconds=2.0)
    left = (
        "Not downloaded: the outputs of b.txt. "
        f"Container {container.container_name} keeps them until {run.expires_text}; "
        f"retry flow run {run.flow_run_id} before, and they are not processed again"
    )
    assert left in caplog.messages
    assert published[0].problem == f"Stopped: \n{left}"
    assert (published[0].kept, published[0].deleted) == (("containers",), ("job", "pool"))
    assert remembered(chronicle.results) == {"a.txt", "c.txt"}
    delete_containers.fn(azure, run, Disposal.DELETE, chronicle.holds())
    assert tags(container) == replace(run.tags, held=True).metadata()
    blocked.set()


def test_the_oldest_output_is_downloaded_first(
    chronicle: RunRecord[Any], container: ContainerClient, published: list[RunFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    times = {record_blob(name): at for at, name in enumerate(("c.txt", "a.txt", "b.txt"))}

    def as_told(azure: Azure, run: Run) -> object:
        found = records_there(azure, run)
        first = min(found.values())
        return {name: first.replace(microsecond=times[name]) for name in found}

    def in_turn(work: Callable[[object], object], items: list[object], **more: Any) -> list[object]:
        return [work(item) for item in items]

    def noted(self: Fetcher, name: str) -> None:
        order.append(name)

    monkeypatch.setattr(tasks.stopped, "records_there", as_told)
    monkeypatch.setattr(tasks.run.downloads, "in_parallel", in_turn)
    monkeypatch.setattr(Fetcher, "record", noted)
    stop(chronicle)
    assert order == ["c.txt", "a.txt", "b.txt"]


def test_a_container_that_cannot_be_read_is_held_for_what_was_seen(
    chronicle: RunRecord[Any], run: Run, published: list[RunFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.stopped, "records_there", lambda azure, run: Event().wait(60))
    stop(chronicle, seconds=0.1)
    assert chronicle.not_downloaded == ["a.txt"]
    assert [(each.file, each.succeeded, each.cause) for each in published[0].outcomes] == [
        ("a.txt", True, None),
        ("b.txt", False, Cause.NOT_RUN),
        ("c.txt", False, Cause.NOT_STARTED),
        (LATE, False, Cause.NOT_STARTED),
    ]
    assert chronicle.holds() is True


def test_a_run_that_fails_or_has_stored_all_fetches_nothing(
    chronicle: RunRecord[Any], published: list[RunFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.stopped, "records_there", None)
    fetch_finished(chronicle, ValueError())
    assert chronicle.holds() is True  # what has been counted is still to be downloaded
    chronicle.stored = True
    stop(chronicle)
    assert chronicle.holds() is False


@pytest.mark.parametrize("role", Role)
def test_a_retry_without_progress_keeps_what_the_last_attempt_held(
    azure: Azure, run: Run, container: ContainerClient, chronicle: RunRecord[Any], role: Role
) -> None:
    chronicle.seen.succeeded = 0
    chronicle.seen.outcomes.clear()
    delete_containers.fn(azure, run, Disposal.DELETE, True)
    assert chronicle.holds() is None
    delete_containers.fn(azure, run, Disposal.DELETE, None)
    with azure.blobs() as blobs:
        assert tags(blobs.get_container_client(run.container(role))) == replace(run.tags, held=True).metadata()
