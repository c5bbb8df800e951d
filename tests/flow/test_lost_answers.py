"""A lost or false answer costs nothing: HTTP calls of a run are faulted, and the run ends as if they had not been.

A sample of what `python -m tests.support.matrix` does whole.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from azure.batch.models import BatchTaskCreateOptions
from azure.core.pipeline.policies import RetryPolicy

from tasks.accounts.clients import Azure
from tasks.resources.batch_task import BatchTasks
from tasks.step import RETRIES
from tests.support.fault_proxy import Call, Decide, FaultProxies, Mode, Service
from tests.support.matrix import TEXTS, Matrix, Outcome, Runs, Scenario, Verdict, quick

SAMPLE = 2  # faults of each scenario; each costs a run


@pytest.fixture(scope="module")
def runs(
    prefect_server: None, azure_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    with FaultProxies() as proxies, quick():
        yield Runs(azure_settings, proxies, tmp_path_factory.mktemp("lost_answers"))


@pytest.fixture(scope="module")
def matrix(runs: Runs) -> Matrix:
    return Matrix(runs)


@pytest.fixture(scope="module")
def clean(matrix: Matrix) -> Outcome:
    return matrix.clean[Scenario.RUN]


def test_a_run_without_faults_counts_each_file_once(runs: Runs, clean: Outcome) -> None:
    assert clean.ended
    assert [row[:4] for row in clean.ended.by_file] == [
        ["a.txt", 1, "the", 3],
        ["a.txt", 2, "cat", 1],
        ["b.txt", 1, "a", 2],
        ["b.txt", 2, "dog", 1],
    ]
    assert [(retries, requeues) for _, retries, requeues in clean.ended.batch_tasks] == [(0, 0)] * len(TEXTS)
    asked = dict(clean.ended.by_nodes)
    for name in TEXTS:
        (fetched,) = [times for what, times in asked.items() if what.startswith("GET ") and what.endswith(f"/{name}")]
        assert fetched == 1
    assert {call.service for call in clean.calls} == set(Service)
    assert runs.left_over(clean) == []


def test_each_scenario_makes_calls_of_its_own(matrix: Matrix) -> None:
    made = {(cell.scenario, cell.call.method, cell.call.query) for cell in matrix.cells}
    assert {(Scenario.BLOCKS, "PUT", "comp=block"), (Scenario.BLOCKS, "PUT", "comp=blocklist")} <= made
    assert {(Scenario.KEEP, "GET", ""), (Scenario.KEEP, "GET", "restype=container")} <= made
    assert {(Scenario.RESUME, "PATCH", ""), (Scenario.RESUME, "PUT", "comp=metadata&restype=container")} <= made


def test_any_one_lost_or_false_answer_costs_nothing(matrix: Matrix, subtests: pytest.Subtests) -> None:
    dice = random.Random(9)
    cells = [
        cell
        for scenario in Scenario
        for cell in dice.sample([cell for cell in matrix.cells if cell.scenario is scenario], SAMPLE)
    ]
    for cell, verdict, words in matrix.judge(cells):
        with subtests.test(str(cell)):
            assert (verdict, words) == (Verdict.RIGHT, "")


def test_every_call_may_have_its_first_answer_lost_or_false(
    runs: Runs, clean: Outcome, subtests: pytest.Subtests
) -> None:
    outcomes = runs.run_each([partial(_first, mode) for mode in Mode])
    for mode, outcome in zip(Mode, outcomes, strict=True):
        with subtests.test(mode.value):
            assert outcome.error == ""
            assert outcome.ended == clean.ended
            first = {call for call in clean.calls if _first(mode, call)}
            assert first <= {call for call, _ in outcome.faulted}
    assert runs.left_over(*outcomes) == []


def _first(mode: Mode, call: Call) -> Mode | None:
    return mode if call.occurrence == 1 else None


def _at_random(seed: int, call: Call) -> Mode | None:
    """One call in ten; which ones does not depend on the order in which threads make them."""
    dice = random.Random(f"{seed} {call}")
    return dice.choice(list(Mode)) if dice.random() < 0.1 else None


def test_one_call_in_ten_may_lose_its_answer(runs: Runs, clean: Outcome) -> None:
    outcomes = runs.run_each([partial(_at_random, seed) for seed in range(4)])
    assert [outcome.error for outcome in outcomes] == [""] * 4
    assert all(outcome.ended == clean.ended for outcome in outcomes)
    assert len({mode for outcome in outcomes for _, mode in outcome.faulted}) > len(Mode) / 2
    assert runs.left_over(*outcomes) == []


# What the SDK would do by itself, and must not.


def _adding_always(mode: Mode) -> Decide:
    return lambda call: mode if call.path.endswith("/addtaskcollection") else None


MOST_REQUESTS = (1 + RETRIES) * (1 + RetryPolicy().status_retries)


def test_a_service_that_never_takes_the_tasks_is_not_asked_for_ever(runs: Runs) -> None:
    outcome = runs.run(_adding_always(Mode.REFUSED))
    assert outcome.error.startswith("ServiceError: Azure Batch answered 503 ServerBusy")
    assert 1 < len(outcome.faulted) <= MOST_REQUESTS
    assert runs.left_over(outcome) == []


def test_added_tasks_are_found_in_the_job_if_no_answer_says_so(runs: Runs, clean: Outcome) -> None:
    outcome = runs.run(_adding_always(Mode.DISOWNED))
    assert outcome.error == ""
    assert outcome.ended == clean.ended
    assert 1 < len(outcome.faulted) <= MOST_REQUESTS
    assert runs.left_over(outcome) == []


class _PoolThatStays:
    """Refuses to delete the pool; from then on, it may also not say whether the pool is there."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._asked = False

    def __call__(self, call: Call) -> Mode | None:
        if call.path != "/pools/{run}":
            return None
        self._asked |= call.method == "DELETE"
        return Mode.REFUSED if call.method == "DELETE" or (self._asked and self._silent) else None


@pytest.mark.parametrize("silent", [False, True], ids=["the pool is seen", "polling fails, too"])
def test_a_pool_that_was_not_deleted_fails_the_run(runs: Runs, silent: bool) -> None:
    outcome = runs.run(_PoolThatStays(silent=silent))
    try:
        name = f"pool {outcome.run}"
        assert outcome.error.startswith(f"NotDeleted: Not deleted: {name}: Azure Batch answered 503 ServerBusy")
        assert runs.left_over(outcome, patience=0) == [f"pool {outcome.run}"]
    finally:
        runs.remove(outcome.run)
        assert runs.left_over(outcome) == []


@pytest.mark.parametrize("status", ["clienterror", "ClientError"])
def test_a_refused_task_is_an_error_in_either_case_of_letters(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    make = BatchTasks.make

    def with_an_impossible_id(self: BatchTasks, *of: Any) -> BatchTaskCreateOptions:
        task = make(self, *of)
        task.id = "not an id"
        return task

    monkeypatch.setattr(BatchTasks, "make", with_an_impossible_id)
    outcome = runs.run(rewrite=(b'"ClientError"', f'"{status}"'.encode()))
    assert outcome.error.startswith("ServiceError: Azure Batch did not take task not an id: InvalidPropertyValue")
    assert runs.left_over(outcome) == []


def test_clients_that_are_open_at_once_have_nothing_in_common(azure: Azure) -> None:
    """An SDK's retry policy is part of one client's pipeline: shared, it would send by way of the newest client."""
    with azure.blobs() as first:
        with azure.blobs() as second:
            list(second.list_containers(results_per_page=1))
        list(first.list_containers(results_per_page=1))
