"""The flow as a user runs it: three files on one node, and nothing left after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from typer.testing import CliRunner

from flows.cli import app
from flows.top_words import top_words
from tasks.errors import TasksFailed
from tasks.resources.leftovers import list_in_batch, list_in_storage
from tasks.run.settings import TimeLimits
from tests.live.session import ONE_NODE, Account
from tests.support.paths import DATA

LIMITS = TimeLimits(run_minutes=40, task_minutes=5, stall_minutes=20, task_retries=0)
FIRST_WORDS = {"clouds.txt": ("the", 16), "harbour.txt": ("the", 35), "kitchen.txt": ("the", 13)}


@pytest.fixture
def begun(account: Account, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the flow runs that the test begins, each noted before the run creates anything."""
    ids: list[str] = []

    def note(flow: Flow[..., Any], flow_run: FlowRun, state: object) -> None:
        ids.append(str(flow_run.id))
        if account.session:
            account.session.note(ids[-1])

    monkeypatch.setattr(top_words, "on_running_hooks", [note])
    for name, value in account.settings.items():
        monkeypatch.setenv(name, value)
    return ids


def left_by(account: Account, flow_run_ids: list[str]) -> list[str]:
    left = list_in_batch(account.azure) + list_in_storage(account.azure)
    return [each.name for each in left if each.tags.flow_run in flow_run_ids and not each.is_being_deleted]


def test_a_check_creates_nothing(account: Account, begun: list[str], tmp_path: Path) -> None:
    options = [
        "--check",
        "--nodes",
        "1",
        "--vm-size",
        ",".join(ONE_NODE.vm_size),
        "--output",
        str(tmp_path / "results"),
    ]
    ended = CliRunner().invoke(app, [str(DATA), *options])
    assert ended.exit_code == 0, ended.output
    assert "This run can work: 3 files in 3 Batch tasks on 1 dedicated node of " in ended.output
    assert len(begun) == 1
    assert left_by(account, begun) == []
    assert not (tmp_path / "results").exists()


def test_top_words_of_three_files(account: Account, begun: list[str], tmp_path: Path) -> None:
    summary = top_words(inputs=[str(DATA)], pool=ONE_NODE, limits=LIMITS, output_folder=str(tmp_path / "results"))
    first = summary.by_file[summary.by_file["rank"] == 1]
    found = zip(first["file"], zip(first["word"], first["count"], strict=True), strict=True)
    assert dict(found) == FIRST_WORDS
    assert len(begun) == 1
    assert left_by(account, begun) == []


def test_a_file_that_fails_fails_the_run(account: Account, begun: list[str], tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "good.txt").write_text("one word")
    (tmp_path / "texts" / "bad.txt").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(TasksFailed) as failure:
        top_words(
            inputs=[str(tmp_path / "texts")], pool=ONE_NODE, limits=LIMITS, output_folder=str(tmp_path / "results")
        )
    (outcome,) = [each for each in failure.value.outcomes if each.file == "bad.txt"]
    assert outcome.exit_code == 65
    assert left_by(account, begun) == []
