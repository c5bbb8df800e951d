"""A flow run that was killed or failed is run again under its own id, and ends as if nothing had happened.

What a retry does about each file is decided in tasks/run/resume.py and tested there; here whole runs carry it out. The
second attempt goes through Prefect's engine as `prefect flow-run retry` takes it there. Which attempt really ran what
is recorded by the script on the nodes.
"""

from __future__ import annotations

import base64
import contextvars
import json
import logging
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.batch.models import BatchTaskState
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings

from local_azure import faults
from tasks.errors import NotDownloaded, TasksFailed
from tasks.reporting.text import short_node
from tasks.run.downloads import Download
from tasks.run.folder_lock import working_in
from tasks.run.identity import Role
from tasks.run.records import record_blob
from tasks.run.results import folder_of_run
from tasks.summary import Summary
from tests.support.attempts import (
    Boundary,
    Broken,
    Kind,
    Nodes,
    after,
    before,
    for_machines_only,
    for_people,
    nodes,
    slow_settings,
    watched,
)
from tests.support.downloads import store
from tests.support.polling import wait_until
from tests.support.retried import BETWEEN_ATTEMPTS, TEXTS, Contents, Resumed, Start, last_nodes, nodes_of, start
from tests.support.steps import STEPS

__all__ = ["for_machines_only", "for_people", "nodes", "slow_settings", "start", "watched"]  # fixtures

AT_A_TIME = 4  # flow runs
KEEP = {"containers": "keep", "job": "keep", "pool": "keep"}
MONITOR = before("6 monitor tasks")
DOWNLOAD = before("7 download output")

EXPECTED = Contents(
    by_file=[
        ["a.txt", 1, "the", 3, "topNtask0"],
        ["a.txt", 2, "cat", 1, "topNtask0"],
        ["b.txt", 1, "a", 2, "topNtask1"],
        ["b.txt", 2, "dog", 1, "topNtask1"],
        ["c.txt", 1, "two", 2, "topNtask2"],
        ["c.txt", 2, "one", 1, "topNtask2"],
    ],
    overall=[
        [1, "the", 3, 5, 1],
        [2, "a", 2, 4, 1],
        [3, "two", 2, 4, 1],
        [4, "cat", 1, 3, 1],
        [5, "dog", 1, 3, 1],
        [6, "one", 1, 3, 1],
    ],
    missing=(),
)


def words(summary: Summary) -> list[list[Any]]:
    return [row[:4] for row in Contents.of(summary).by_file]


def begun(resumed: Resumed, *files: str) -> Callable[[], None]:
    """Waits until the Batch tasks of these files are running."""
    wanted = set(files)
    return lambda: wait_until(lambda: wanted <= {line["file"] for line in resumed.nodes.executions(resumed.run)})


def completed(resumed: Resumed, task: str) -> bool:
    with resumed.azure.batch() as batch:
        return batch.get_task(resumed.run.job_id, task).state == BatchTaskState.COMPLETED


def created(resumed: Resumed, task: str) -> datetime:
    with resumed.azure.batch() as batch:
        time = batch.get_task(resumed.run.job_id, task).creation_time
    assert time is not None
    return time


# Step boundaries.

TWO = {"a.txt": TEXTS["a.txt"], "b.txt": TEXTS["b.txt"]}
NONE: list[str] = []
# Where an attempt ends, and which files each of the two attempts processes: what is done, or goes on, is not
# processed again, on this machine or in its container, also where the clean-up of a failed attempt has run.
ENDS = [
    (before("3 create pool"), Kind.KILLED, (NONE, list(TWO))),
    (before("5 add tasks"), Kind.KILLED, (NONE, list(TWO))),
    (MONITOR, Kind.KILLED, (list(TWO), NONE)),
    (DOWNLOAD, Kind.KILLED, (list(TWO), NONE)),
    (before("9 delete pool"), Kind.KILLED, (list(TWO), NONE)),
    (after("4 create job"), Kind.FAILED, (NONE, list(TWO))),
    (after("6 monitor tasks"), Kind.FAILED, (list(TWO), NONE)),
    (before("8 delete containers"), Kind.FAILED, (list(TWO), NONE)),
]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run that ended at a boundary, and was run again."""

    contents: Contents
    nodes_agree: bool
    executions: list[tuple[str, int]]
    uploaded_again: list[str]
    left_over: list[str]


def resume(resumed: Resumed, ends: Boundary, kind: Kind) -> Outcome:
    state = resumed.first(ends, kind)
    assert (state is None) == (kind is Kind.KILLED)
    uploaded = resumed.blobs()
    present: dict[str, str] = {}
    summary = resumed.again(on_the_way={after("2 upload files"): lambda: present.update(resumed.blobs())})
    return Outcome(
        contents=Contents.of(summary),
        nodes_agree=nodes_of(summary) == last_nodes(resumed),
        executions=resumed.executions(),
        uploaded_again=[name for name, etag in uploaded.items() if present.get(name, etag) != etag],
        left_over=resumed.left_over(),
    )


def test_a_run_that_ended_at_a_step_boundary_is_finished_by_a_retry(start: Start, subtests: pytest.Subtests) -> None:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        futures = [
            pool.submit(contextvars.copy_context().run, resume, run, end, kind)
            for run, (end, kind, _) in [(start(texts=TWO), end) for end in ENDS]
        ]
    for (end, kind, (first, second)), future in zip(ENDS, futures, strict=True):
        with subtests.test(f"{kind.value} {end}"):
            outcome = future.result()
            assert outcome.contents.by_file == EXPECTED.by_file[:4]
            assert outcome.contents.missing == ()
            assert outcome.nodes_agree
            assert outcome.uploaded_again == []
            assert outcome.left_over == []
            assert outcome.executions == sorted([(name, 1) for name in first] + [(name, 2) for name in second])


OPTIONAL = {"0 find what is done", "0 resolve packages"}  # steps that only some runs have


@pytest.mark.parametrize("of", ["input", "accounts"])
def test_a_retry_that_fails_before_it_begins_leaves_nothing(start: Start, of: str) -> None:
    resumed = start(texts=TWO)
    assert resumed.first(after("5 add tasks"), Kind.KILLED) is None
    if of == "input":
        for text in resumed.texts.iterdir():
            text.unlink()
        state = resumed.retry()
        assert "the folder holds no files" in (state.message or "")
    else:
        state = resumed.retry(ends=before("0 check accounts"))
    assert state.is_failed()
    assert resumed.left_over() == []


def test_outputs_that_could_not_be_stored_are_downloaded_by_a_retry_without_a_pool(start: Start) -> None:
    resumed = start()
    in_the_way = Path(resumed.parameters["output_folder"]) / resumed.run.name / "b.txt"
    state = resumed.first(on_the_way={DOWNLOAD: in_the_way.touch})
    assert state
    error = state.result(raise_on_failure=False)
    assert isinstance(error, NotDownloaded)
    assert "b.txt: File exists" in str(error)
    containers = sorted(resumed.run.container(role) for role in Role)
    wait_until(lambda: resumed.there() == containers)
    # No other cleaner takes them, but for a sweep once they have expired.
    resumed.clean_up()
    assert resumed.there() == containers
    in_the_way.unlink()
    assert Contents.of(resumed.again()) == EXPECTED
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("c.txt", 1)]
    assert before("3 create pool") not in resumed.attempts[1].reached
    assert resumed.left_over() == []


def test_a_file_whose_output_cannot_be_read_is_processed_again_beside_kept_tasks(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = start(clean_up=KEEP)

    def garble() -> None:
        with resumed.azure.blobs() as blobs:
            store(blobs.get_container_client(resumed.run.container(Role.OUTPUT)), "b.txt", "<html>")

    state = resumed.first(on_the_way={DOWNLOAD: garble})
    assert state
    error = state.result(raise_on_failure=False)
    assert isinstance(error, TasksFailed)
    assert error.summary
    assert error.summary.missing == ("b.txt",)
    assert "b.txt: Batch task topNtask1 left an output that cannot be read (" in str(error)
    assert Contents.of(resumed.again()) == EXPECTED
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]


# What a clean-up has saved of a run that was killed.


def test_what_a_killed_run_has_finished_is_not_processed_again_once_all_is_deleted(start: Start, nodes: Nodes) -> None:
    resumed = start()
    hold = nodes.hold(resumed.run, "b.txt")
    resumed.first(MONITOR, Kind.KILLED, on_the_way={MONITOR: begun(resumed, "a.txt", "b.txt", "c.txt")})
    wait_until(lambda: completed(resumed, "topNtask0") and completed(resumed, "topNtask2"))
    resumed.clean_up()
    assert resumed.left_over() == []
    hold.unlink()
    assert Contents.of(resumed.again()) == EXPECTED
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]
    assert resumed.left_over() == []


def test_a_file_that_changed_after_a_clean_up_had_saved_it_is_processed_again(start: Start) -> None:
    resumed = start()
    resumed.first(DOWNLOAD, Kind.KILLED)
    resumed.clean_up()
    assert resumed.left_over() == []
    (resumed.texts / "b.txt").write_text("new new day")
    summary = resumed.again()
    assert words(summary)[2:4] == [["b.txt", 1, "new", 2], ["b.txt", 2, "day", 1]]
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]


def test_a_retry_waits_until_a_clean_up_has_saved_what_was_finished(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resumed = start()
    resumed.first(DOWNLOAD, Kind.KILLED)
    waits = threading.Event()
    original = Download.fetch_recorded

    def slow(self: Download, *more: Any) -> None:
        assert waits.wait(60)
        original(self, *more)

    class Waits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for the process that works there" in record.getMessage():
                waits.set()

    monkeypatch.setattr(Download, "fetch_recorded", slow)
    handler = Waits()
    logging.getLogger("prefect.flow_runs").addHandler(handler)
    with ThreadPoolExecutor(1) as clean_up:
        cleaned_up = clean_up.submit(contextvars.copy_context().run, resumed.clean_up)
        wait_until(lambda: not alone_in(resumed))
        assert Contents.of(resumed.again()) == EXPECTED
        cleaned_up.result()
    logging.getLogger("prefect.flow_runs").removeHandler(handler)
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("c.txt", 1)]
    assert resumed.left_over() == []


def alone_in(resumed: Resumed) -> bool:
    with working_in(folder_of_run(resumed.parameters["output_folder"], resumed.run.name)) as alone:
        return alone


# What was wrong, or has changed, between the attempts.


@pytest.mark.parametrize("clean_up", [{}, KEEP], ids=["after all was deleted", "after all was kept"])
def test_a_file_that_failed_is_processed_alone_once_it_can_be(
    start: Start, nodes: Nodes, for_people: None, clean_up: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    resumed = start(clean_up=clean_up)
    broken = nodes.fail(resumed.run, "b.txt")
    state = resumed.first()
    assert state
    error = state.result(raise_on_failure=False)
    assert isinstance(error, TasksFailed)
    assert error.summary
    assert error.summary.missing == ("b.txt",)
    broken.unlink()
    with caplog.at_level(logging.INFO, "prefect"):
        caplog.clear()
        summary = resumed.again()
    assert Contents.of(summary) == EXPECTED
    assert nodes_of(summary) == last_nodes(resumed)
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]
    assert "2 of 3 files are done already" in caplog.messages
    assert not [message for message in caplog.messages if "Artifact not written" in message]
    tables = [each for each in resumed.artifacts() if each.key == "top-words-by-file"]
    assert [len(json.loads(str(table.data))) for table in tables] == [4, 6]
    assert json.loads(str(tables[-1].data)) == json.loads(
        summary.by_file.assign(node=summary.by_file["node"].map(short_node)).to_json(orient="records")
    )
    if not clean_up:
        assert resumed.left_over() == []


def test_a_file_that_changed_after_it_was_done_is_processed_again(start: Start) -> None:
    resumed = start()
    resumed.first(DOWNLOAD, Kind.KILLED)
    written = resumed.records()[record_blob("b.txt")]
    wait_until(lambda: datetime.now(timezone.utc) >= written + timedelta(seconds=1))  # its precision
    (resumed.texts / "b.txt").write_text("new new day")
    summary = resumed.again()
    assert words(summary)[2:4] == [["b.txt", 1, "new", 2], ["b.txt", 2, "day", 1]]
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]
    assert resumed.left_over() == []


def test_a_file_that_changed_while_it_was_processed_is_processed_again(start: Start, nodes: Nodes) -> None:
    resumed = start()
    hold = nodes.hold(resumed.run, "b.txt")
    resumed.first(MONITOR, Kind.KILLED, on_the_way={MONITOR: begun(resumed, "a.txt", "b.txt", "c.txt")})
    wait_until(lambda: completed(resumed, "topNtask0") and completed(resumed, "topNtask2"))
    wait_until(lambda: datetime.now(timezone.utc) >= created(resumed, "topNtask1") + timedelta(seconds=1))  # of blobs
    (resumed.texts / "b.txt").write_text("new new day")
    summary = resumed.again(on_the_way={MONITOR: hold.unlink})
    assert words(summary)[2:4] == [["b.txt", 1, "new", 2], ["b.txt", 2, "day", 1]]
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]
    assert resumed.left_over() == []


def test_a_file_put_before_the_others_shifts_their_ids_and_nothing_else(start: Start) -> None:
    resumed = start()
    resumed.first(DOWNLOAD, Kind.KILLED)
    (resumed.texts / "0.txt").write_text("zero zero one")
    summary = resumed.again()
    assert Contents.of(summary).by_file == [
        ["0.txt", 1, "zero", 2, "topNtask0"],
        ["0.txt", 2, "one", 1, "topNtask0"],
        *EXPECTED.by_file,  # with the ids under which they were processed
    ]
    assert resumed.executions() == [("0.txt", 2), ("a.txt", 1), ("b.txt", 1), ("c.txt", 1)]
    assert resumed.left_over() == []


# What the attempts share in Azure and Prefect.


def test_what_is_adopted_gets_the_new_deadline(start: Start, nodes: Nodes) -> None:
    resumed = start()
    hold = nodes.hold(resumed.run, "a.txt")
    resumed.first(MONITOR, Kind.KILLED)
    found: dict[str, Any] = {}

    def look() -> None:
        with resumed.azure.batch() as batch, resumed.azure.blobs() as blobs:
            found.update(pool=batch.get_pool(resumed.run.pool_id), job=batch.get_job(resumed.run.job_id))
            each = blobs.list_containers(name_starts_with=resumed.run.name, include_metadata=True)
            found.update(containers=[dict(container.metadata) for container in each])
        hold.unlink()

    resumed.again(on_the_way={MONITOR: look})
    first, second = (each.began + timedelta(hours=2) for each in resumed.attempts)
    assert second - first >= BETWEEN_ATTEMPTS
    pool, job = found["pool"], found["job"]
    expires = {"expires": second.isoformat(timespec="seconds")}
    assert f'time("{second:%Y-%m-%dT%H:%M:%SZ}")' in pool.auto_scale_formula
    assert {item.name: item.value for item in pool.metadata}.items() >= expires.items()
    assert {item.name: item.value for item in job.metadata}.items() >= expires.items()
    assert [tags.items() >= expires.items() for tags in found["containers"]] == [True] * 3
    ends = job.creation_time + job.constraints.max_wall_clock_time
    assert abs(ends - second) < timedelta(seconds=1)
    assert job.all_tasks_complete_mode == "terminatejob"
    ends = {parse_qs(urlsplit(file.http_url).query)["se"][0] for file in pool.start_task.resource_files}
    assert {datetime.fromisoformat(end.replace("Z", "+00:00")) for end in ends} == {second.replace(microsecond=0)}


def test_what_is_still_being_deleted_is_waited_for(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    resumed = start()
    waiting = f"Pool {resumed.run.name}: waiting until that of a previous attempt is deleted"
    let_go: list[bool] = []

    def let_it_go() -> None:
        if waiting in caplog.messages and not let_go:
            let_go.append(True)
            quick()

    def quick() -> None:
        faults.ask("timings", {"removal": 0.03})
        faults.ask("clock", {"advance": "PT1M"})  # past what is being removed already

    faults.ask("timings", {"removal": 60})
    try:
        resumed.first(before("5 add tasks"))
        with caplog.at_level(logging.INFO, "prefect"):
            summary = resumed.again(on_the_way={after("4 create job"): quick}, while_waiting=let_it_go)
    finally:
        quick()
    assert Contents.of(summary) == EXPECTED
    assert waiting in caplog.messages
    assert resumed.executions() == [("a.txt", 2), ("b.txt", 2), ("c.txt", 2)]


def test_nodes_of_a_kept_pool_without_the_script_are_rebooted(start: Start) -> None:
    resumed = start(clean_up={"pool": "keep"})

    def states() -> list[str]:
        with resumed.azure.batch() as batch:
            return [str(getattr(node.state, "value", "")) for node in batch.list_nodes(resumed.run.pool_id)]

    faults.ask("timings", {"boot": 60})
    try:
        resumed.first(after("3 create pool"))  # whose containers are deleted
        wait_until(lambda: states() == ["starting"])
    finally:
        faults.ask("timings", {"boot": 0.03})
    faults.ask("clock", {"advance": "PT1M"})
    wait_until(lambda: states() == ["starttaskfailed"])
    assert Contents.of(resumed.again()) == EXPECTED


def test_results_that_prefect_persists_skip_no_step_and_hold_no_sas(start: Start, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    resumed = start()
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True, PREFECT_LOCAL_STORAGE_PATH: storage}):
        resumed.first(after("5 add tasks"))
        summary = resumed.again()
    assert Contents.of(summary) == EXPECTED
    assert {each.step for each in resumed.attempts[1].reached} == {step.name for step in STEPS.values()} - OPTIONAL
    # Prefect always keeps the error with which a flow run failed, and here nothing else.
    kept = [path.read_bytes() for path in storage.rglob("*")]
    (error,) = (pickle.loads(base64.b64decode(each)) for each in kept)
    assert isinstance(error, Broken)
