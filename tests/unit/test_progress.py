"""The progress of the Batch tasks as it is logged, and how often."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from azure.batch.models import BatchTaskCounts

from tasks.run.outcomes import TaskOutcome
from tasks.watching.progress import Progress, change_is_due, is_due, table_is_due

QUEUED = TaskOutcome(id="topNtask0", file="a.txt", state="active")
RUNNING = replace(QUEUED, state="running")
FAILED = replace(QUEUED, state="completed")
SUCCEEDED = replace(FAILED, succeeded=True)


def test_while_tasks_run_the_counts_are_the_progress() -> None:
    counts = BatchTaskCounts(active=4, running=2, completed=3, succeeded=2, failed=1)
    progress = Progress.of_counts(counts, total=9, earlier=5)
    states = "3 of 9 Batch tasks completed (2 succeeded, 1 failed), 2 running, 4 queued"
    status = f"{states}; 5 files done earlier"
    assert progress.now() == status
    assert progress.now("nodes: 1 starting") == f"{status}; nodes: 1 starting"


def test_at_the_end_the_outcomes_are_the_progress() -> None:
    assert Progress.of_outcomes([SUCCEEDED] * 3).at_the_end("too late") == (
        "3 of 3 Batch tasks completed (3 succeeded, 0 failed)"
    )
    assert Progress.of_outcomes([SUCCEEDED, FAILED, RUNNING, QUEUED], earlier=1).at_the_end("the pool is gone") == (
        "2 of 4 Batch tasks completed (1 succeeded, 1 failed), 2 not completed; 1 files done earlier: the pool is gone"
    )


def test_of_groups_the_files_are_told_and_counted() -> None:
    counts = BatchTaskCounts(active=4, running=2, completed=3, succeeded=2, failed=1)
    progress = Progress.of_counts(counts, total=9, earlier=500, files=9_001)
    states = "3 of 9 Batch tasks with 9,001 files completed (2 succeeded, 1 failed), 2 running, 4 queued"
    assert progress.now() == f"{states}; 500 files done earlier"
    assert (progress.files_done, progress.all_files) == (3_500, 9_501)


def test_of_tasks_with_one_file_each_the_files_are_not_told() -> None:
    counts = BatchTaskCounts(active=4, running=2, completed=3, succeeded=2, failed=1)
    progress = Progress.of_counts(counts, total=9, earlier=5, files=9)
    assert progress.now().startswith("3 of 9 Batch tasks completed")
    assert (progress.files_done, progress.all_files) == (8, 14)
    assert Progress.of_outcomes([], earlier=5).files_done == 5


def lines(look: float, total: float) -> list[float]:
    """The seconds at which the log has a line, with a look every so many seconds at which nothing has changed."""
    logged, second = [0.0], 0.0
    while (second := second + look) <= total:
        silent, unchanged = (timedelta(seconds=seconds) for seconds in (second - logged[-1], second))
        if is_due(silent=silent, unchanged=unchanged, next_look=timedelta(seconds=look)):
            logged.append(second)
    return logged


@pytest.mark.parametrize("look", [0.25, 5.0, 6.0, 14.0])
def test_the_log_has_a_line_at_least_every_half_minute(look: float) -> None:
    logged = lines(look, 300)
    gaps = [after - before for before, after in itertools.pairwise(logged)]
    assert 20 <= min(gaps) <= max(gaps) <= 30
    assert 300 - logged[-1] <= 30


def test_what_has_not_changed_for_hours_is_logged_every_five_minutes() -> None:
    logged = lines(14, 4 * 3600)
    assert 280 <= logged[-1] - logged[-2] <= 300
    assert len(logged) < 80


@pytest.mark.parametrize(("watched", "apart"), [(0, 5), (50, 5), (100, 10), (300, 30), (9_000, 30)])
def test_progress_that_changes_is_logged_less_often_with_time(watched: int, apart: int) -> None:
    due = [
        change_is_due(silent=timedelta(seconds=silent), watched=timedelta(seconds=watched), next_look=timedelta())
        for silent in (apart, apart + 0.1)
    ]
    assert due == [False, True]


@pytest.mark.parametrize(("watched", "age"), [(0, 5), (100, 20), (300, 60), (9_000, 300)])
def test_the_table_is_renewed_less_often_with_time(watched: int, age: int) -> None:
    due = [table_is_due(age=timedelta(seconds=each), watched=timedelta(seconds=watched)) for each in (age - 0.1, age)]
    assert due == [False, True]
