"""A check of a run: it prints the plan, creates nothing, and its exit code says whether the run could work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.top_words import top_words
from tasks.accounts.clients import Azure
from tasks.run.plan import RunPlan
from tests.support.accounts import left_over
from tests.support.flow_runs import artifact
from tests.support.paths import DATA
from tests.support.runs import make_pool, new_run

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


def test_a_check_looks_at_an_existing_pool(azure: Azure, no_folder: Path) -> None:
    run = new_run()
    make_pool(azure, run, nodes=3)
    plan: Any = top_words(  # type: ignore[call-overload]
        [str(DATA)],
        output_folder=str(no_folder),
        check=True,
        pool={"existing_pool_id": run.pool_id},
    )
    assert (plan.pool.existing, plan.pool.dedicated_nodes, plan.pool.image) == (run.pool_id, 3, None)
