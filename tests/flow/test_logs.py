"""The end of what Batch tasks wrote is read, however long it is, from where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import tasks.watching.logs
from tasks.accounts.clients import Azure
from tasks.run.identity import Role, Run
from tasks.run.outcomes import Cause, TaskOutcome, log_blob
from tasks.run.program import Done
from tasks.run.records import Record
from tasks.run.results import Results
from tasks.watching.logs import download_logs, read_stderr
from tests.support.polling import wait_until
from tests.support.runs import make_job, make_pool

MOST = 2000  # bytes read, in these tests


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MOST_READ", "_MOST_DOWNLOADED"):
        monkeypatch.setattr(tasks.watching.logs, name, MOST)


def text(size: int) -> str:
    return "".join(chr(ord("a") + at % 26) for at in range(size))


def store(azure: Azure, run: Run, task: str, written: str, stream: str = "stderr.txt") -> None:
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        if not container.exists():
            container.create_container(metadata=run.tags.metadata())
        container.upload_blob(log_blob(task, stream), written)


@pytest.mark.parametrize("size", [0, 1, MOST - 1, MOST, MOST + 1, 5 * MOST + 7])
def test_the_end_of_a_stored_log_is_read_to_the_byte(azure: Azure, run: Run, size: int) -> None:
    store(azure, run, "topNtask0", text(size))
    with azure.batch() as batch:
        assert read_stderr(azure, batch, run, ["topNtask0"]) == {"topNtask0": text(size)[-MOST:]}


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("size", [0, 3, MOST, 3 * MOST + 1])
def test_the_end_of_a_log_that_was_not_stored_is_read_on_its_node(azure: Azure, run: Run, size: int) -> None:
    make_pool(azure, run, nodes=1)
    make_job(azure, run, f'printf "%s" {text(size)} >&2')
    with azure.batch() as batch:
        wait_until(lambda: batch.get_task(run.job_id, "topNtask0").state == "completed")
        assert read_stderr(azure, batch, run, ["topNtask0"]) == {"topNtask0": text(size)[-MOST:]}


def outcome(task: str) -> TaskOutcome:
    return TaskOutcome(id=task, file=f"{task}.txt", state="completed", cause=Cause.EXIT_CODE)


def test_logs_of_failed_tasks_are_downloaded_without_signatures(azure: Azure, run: Run, tmp_path: Path) -> None:
    for task in ("failed", "good"):
        store(azure, run, task, "PUT http://x?sp=cw&sig=abc&sv=1")
    store(azure, run, "failed", "counting", "stdout.txt")
    results = Results(folder=tmp_path)
    assert download_logs(azure, run, [outcome("failed"), replace(outcome("good"), succeeded=True)], results) == 2
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("std*.txt")}
    assert found == {
        "logs/failed.txt/stdout.txt": "counting",
        "logs/failed.txt/stderr.txt": "PUT http://x?sp=cw&sig=***&sv=1",
    }


def test_logs_of_successful_tasks_are_downloaded_where_they_wrote_something(
    azure: Azure, run: Run, tmp_path: Path
) -> None:
    tasks = {"quiet": Record(outputs=()), "loud": Record(outputs=(), stderr=6), "earlier": Record(outputs=(), stderr=6)}
    results = Results(folder=tmp_path)
    for task in tasks:
        store(azure, run, task, "a word")
        store(azure, run, task, "", "stdout.txt")
    results.remember({f"{task}.txt": Done(content="", record=record) for task, record in tasks.items()})
    kept = results.logs_of("earlier.txt") / "stderr.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("of an earlier attempt")
    outcomes = [replace(outcome(task), succeeded=True, earlier=task == "earlier") for task in tasks]
    assert download_logs(azure, run, outcomes, results) == 1
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("std*.txt")}
    assert found == {
        "logs/loud.txt/stderr.txt": "a word",
        "logs/earlier.txt/stderr.txt": "of an earlier attempt",
    }


def test_only_some_of_many_missing_logs_are_read_from_nodes(
    azure: Azure, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(azure, run, "other", "")
    asked: list[str] = []

    def on_node(batch: object, run: Run, task: str, stream: str, most: int) -> bytes:
        asked.append(task)
        return b"x"

    monkeypatch.setattr(tasks.watching.logs, "_end_on_node", on_node)
    monkeypatch.setattr(tasks.watching.logs, "_MOST_ASKED", 2)
    assert download_logs(azure, run, [outcome(f"t{number}") for number in range(5)], Results(folder=tmp_path)) == 4
    assert sorted(asked) == ["t0", "t0", "t1", "t1"]
