"""A check of a run: it prints the plan, creates nothing, and its exit code says whether the run could work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tasks.beginning
from flows.cli import app
from flows.top_words import top_words
from tasks.accounts.clients import Azure
from tasks.errors import InputError
from tasks.run.identity import Run
from tasks.run.plan import RunPlan
from tasks.run.speed import Speed
from tests.support.accounts import left_over
from tests.support.fault_proxy import Call, FaultProxies, Refusal, Service
from tests.support.flow_runs import artifact
from tests.support.paths import DATA
from tests.support.runs import make_pool

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    return tmp_path / "made" / "by" / "runs"


def test_a_check_prints_the_plan_and_creates_nothing(azure: Azure, no_folder: Path, tmp_path: Path) -> None:
    before = left_over(azure)
    ended = CliRunner().invoke(app, [str(DATA), "--check", "--output", str(no_folder)])
    assert ended.exit_code == 0, ended.output
    assert "This run can work: 3 files in 3 Batch tasks on 2 dedicated nodes of " in ended.output
    assert "Nothing was created." in ended.output
    assert left_over(azure) == before
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_work_is_named_with_the_fix(azure: Azure, no_folder: Path, tmp_path: Path) -> None:
    before = left_over(azure)
    options = ["--check", "--image", "canonical:ubuntu-4_10:server", "--output", str(no_folder)]
    ended = CliRunner().invoke(app, [str(DATA), *options])
    assert ended.exit_code == 1
    assert "Error: --image 'canonical:ubuntu-4_10:server' is not supported by this Batch account" in ended.output
    assert left_over(azure) == before
    assert list(tmp_path.iterdir()) == []


def test_a_check_completes_with_the_plan_as_result_and_artifact(azure: Azure, no_folder: Path) -> None:
    state: Any = top_words([str(DATA)], output_folder=str(no_folder), check=True, return_state=True)
    plan = state.result()
    assert isinstance(plan, RunPlan)
    assert (state.name, plan.inputs, plan.batch_tasks, plan.pool.at_once) == ("Completed", 3, 3, 2)
    assert state.message.startswith("This run can work: 3 files in 3 Batch tasks")
    assert artifact(state, "run-plan").startswith("**This run can work: 3 files in 3 Batch tasks")


def test_a_run_that_cannot_end_in_time_is_refused_before_anything_exists(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Speed(seconds=6_000, files=3, run="top-words-earlier", same_files=True)
    monkeypatch.setattr(tasks.beginning, "known_speed", lambda results, names: slow)
    before = left_over(azure)
    with pytest.raises(InputError, match=r"^this run needs at least 150 minutes, and run_minutes is 120 "):
        top_words([str(DATA)], output_folder=str(tmp_path))
    assert left_over(azure) == before


def test_a_check_of_what_is_new_takes_no_outputs_over(azure: Azure, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "old.txt").write_text("old")
    results = str(tmp_path / "results")
    made = top_words([str(texts)], output_folder=results)
    (texts / "new.txt").write_text("new")
    plan: Any = top_words([str(texts)], output_folder=results, skip_done=True, check=True)
    assert (plan.inputs, plan.to_process, plan.speed.run) == (2, 1, made.folder.name)
    assert list((tmp_path / "results").iterdir()) == [made.folder]


def test_a_check_looks_at_an_existing_pool(azure: Azure, run: Run, no_folder: Path) -> None:
    make_pool(azure, run, nodes=3)
    plan: Any = top_words(  # type: ignore[call-overload]
        [str(DATA)],
        output_folder=str(no_folder),
        check=True,
        pool={"existing_pool_id": run.pool_id},
    )
    assert (plan.pool.existing, plan.pool.dedicated_nodes, plan.pool.image) == (run.pool_id, 3, None)


def test_a_check_asks_both_accounts_and_says_what_was_found(
    azure: Azure, azure_settings: dict[str, str], no_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(call: Call) -> Refusal | None:
        if call.service is Service.BLOBS:
            return Refusal(status=403, code="AuthorizationFailure")
        return Refusal(status=403, code="PermissionDenied") if "supportedimages" in call.path else None

    with FaultProxies() as proxies, proxies.passage(azure_settings, decide) as passage:
        for name, value in passage.settings.items():
            monkeypatch.setenv(name, value)
        ended = CliRunner().invoke(app, [str(DATA), "--check", "--spot-nodes", "3", "--output", str(no_folder)])
    assert ended.exit_code == 1
    assert "This run cannot work: 2 problems" in ended.output
    assert "inputs       3 files to process" in ended.output
    assert "2 dedicated and 3 spot nodes with 1 task slot each" in ended.output
    assert f"Error: 1. the Batch account {azure.batch_account.name} refuses the account key: " in ended.output
    assert f"\n2. the storage account {azure.storage_account.name} refuses the account key: " in ended.output
