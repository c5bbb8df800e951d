"""A lost answer costs nothing: each single HTTP call of a run is lost, in four ways, and the run ends as if it had not.

Many runs at a time go through proxies of their own to one local Azure. Nothing of the SDKs' or of Prefect's retrying
is changed but the waiting between two tries. What only people see of a run, its artifacts and events, is left out.
"""

from __future__ import annotations

import contextvars
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch.models import BatchTaskCreateOptions
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.core.pipeline.policies import RetryPolicy
from azure.core.pipeline.transport import HttpTransport
from prefect import Task
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

import tasks.artifacts
import tasks.job
from flows import top_words as flow_module
from flows.top_words import top_words
from tasks.azure import Azure
from tasks.errors import TopWordsError
from tasks.monitor import monitor_tasks
from tasks.pace import Pace
from tasks.settings import PoolSettings
from tasks.steps import RETRIES
from tasks.summary import Summary
from tests.flow.fault_proxy import Call, Decide, FaultProxies, Mode, Passage, Service

TEXTS = {"a.txt": "the cat and the dog the end", "b.txt": "a dog a day"}
AT_A_TIME = 4  # runs
TRIES = 4  # to hit a call; of those that poll there is one more or less, as the answers go
LIMIT = 60.0  # seconds
EACH_MODE = pytest.mark.parametrize("mode", Mode, ids=[mode.name.lower() for mode in Mode])
WHOLE = [mode for mode in Mode if mode is not Mode.CUT]
EACH_WHOLE_MODE = pytest.mark.parametrize("mode", WHOLE, ids=[mode.name.lower() for mode in WHOLE])

_here: contextvars.ContextVar[_Run] = contextvars.ContextVar("_here")  # the run of the present thread


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended, in what must be the same for every run."""

    by_file: list[list[Any]]
    overall: list[list[Any]]
    missing: tuple[str, ...]
    results: list[str]  # the files in its folder
    batch_tasks: list[tuple[str, int, int]]  # id, retries and requeues of each, when all had completed
    by_nodes: list[tuple[str, int]]  # what the nodes asked of Blob Storage, and how often


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run: how it ended, or the error with which it did."""

    run: str
    ended: Ended | None
    error: str
    calls: Sequence[Call]
    faulted: Sequence[tuple[Call, Mode]]


class _Run:
    """What one run needs from the test."""

    def __init__(self, accounts: Azure, passage: Passage) -> None:
        azure = Azure.from_environment(passage.settings)
        assert azure is not None
        self.azure = azure
        self.passage = passage
        self.batch_tasks: list[tuple[str, int, int]] = []
        self._accounts = accounts

    def sleep(self, seconds: float) -> None:
        """What monitoring does instead of sleeping: it looks again when the Batch tasks have completed, and not before.

        So every run makes the same calls. No Batch task begins before monitoring has looked for the first time.
        """
        self.passage.let_nodes_through()
        deadline = time.monotonic() + LIMIT
        with self._accounts.batch() as batch:
            while not self._all_have_completed(batch):
                assert time.monotonic() < deadline, f"the Batch tasks do not complete: {self.batch_tasks}"
                time.sleep(0.05)

    def _all_have_completed(self, batch: BatchClient) -> bool:
        found = list(batch.list_tasks(self.passage.run))
        self.batch_tasks = sorted(
            (task.id, task.execution_info.retry_count or 0, task.execution_info.requeue_count or 0) for task in found
        )
        return all(task.state == "completed" for task in found)


@pytest.fixture(scope="module")
def quick(prefect_server: None) -> Iterator[None]:
    """Nobody waits between two tries; runs are told of by their states alone, and tasks leave no stdout on storage."""

    def informs(name: str) -> bool:
        return name.startswith(("create_", "update_")) and name.endswith("_artifact")

    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        for name in filter(informs, vars(tasks.artifacts)):
            patch.setattr(tasks.artifacts, name, lambda *args, **kwargs: None)
        patch.setattr("prefect.events.utilities.should_emit_events", lambda: False)
        for step in [value for value in vars(flow_module).values() if isinstance(value, Task)]:
            patch.setattr(step, "retry_delay_seconds", 0)
            patch.setattr(step, "retry_jitter_factor", None)
        patch.setattr(tasks.job, "STREAMS", ())  # to store them, each Batch task would load an SDK
        patch.setattr(HttpTransport, "sleep", lambda self, duration: None)
        patch.setattr(flow_module, "azure_for_run", lambda accounts=None: nullcontext(_here.get().azure))
        patch.setattr(flow_module, "monitor_tasks", _monitor_tasks)
        logging.disable(logging.INFO)
        yield
        logging.disable(logging.NOTSET)


def _monitor_tasks(*args: Any, **kwargs: Any) -> Any:
    return monitor_tasks(*args, **{"pace": Pace(sleep=_here.get().sleep), **kwargs})


class Runs:
    """Runs of the flow, several at a time, on one local Azure."""

    def __init__(self, settings: dict[str, str], proxies: FaultProxies, folder: Path) -> None:
        self._settings = settings
        self._proxies = proxies
        self._results = folder / "results"
        self._texts = folder / "texts"
        self._texts.mkdir()
        for name, text in TEXTS.items():
            (self._texts / name).write_text(text)
        accounts = Azure.from_environment(settings)
        assert accounts is not None
        self.accounts = accounts

    def run(self, decide: Decide = lambda call: None, rewrite: tuple[bytes, bytes] | None = None) -> Outcome:
        """Run the flow once, its calls faulted as decided; `rewrite` is replaced in each answer, by as many bytes."""
        with self._proxies.passage(self._settings, decide, hold_nodes=True, rewrite=rewrite) as passage:
            here = _Run(self.accounts, passage)
            _here.set(here)
            ended, error = None, ""
            try:
                summary = top_words(
                    inputs=[str(self._texts)],
                    top_n=2,
                    pool=PoolSettings(dedicated_nodes=1, slots_per_node=2),
                    output_folder=str(self._results),
                )
                ended = _ended(summary, here)
            except TopWordsError as problem:
                error = repr(problem)
        return Outcome(run=passage.run, ended=ended, error=error, calls=passage.calls, faulted=passage.faulted)

    def run_each(self, decisions: Sequence[Decide]) -> list[Outcome]:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            futures = [pool.submit(contextvars.copy_context().run, self.run, decide) for decide in decisions]
            return [future.result() for future in futures]

    def hit(self, fault: tuple[Call, Mode]) -> Outcome:
        """A run in which that call was faulted and no other; the last of those tried, if it is made in none."""
        call, mode = fault
        for _ in range(TRIES):
            outcome = self.run(lambda made: mode if made == call else None)
            if outcome.faulted or outcome.error:
                break
        return outcome

    def hit_each(self, calls: Sequence[Call], mode: Mode) -> list[Outcome]:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            futures = [pool.submit(contextvars.copy_context().run, self.hit, (call, mode)) for call in calls]
            return [future.result() for future in futures]

    def left_over(self, *outcomes: Outcome, patience: float = 10) -> list[str]:
        """What is still of these runs in the accounts, once what is being deleted has had the time to vanish."""
        names = tuple(outcome.run for outcome in outcomes)
        deadline = time.monotonic() + patience
        with self.accounts.batch() as batch, self.accounts.blobs() as blobs:
            while True:
                found = [f"pool {pool.id}" for pool in batch.list_pools(select=["id"])]
                found += [f"job {job.id}" for job in batch.list_jobs(select=["id"])]
                found += [f"container {container.name}" for container in blobs.list_containers()]
                found = [each for each in found if each.partition(" ")[2].startswith(names)]
                if not found or time.monotonic() > deadline:
                    return found
                time.sleep(0.05)

    def remove(self, outcome: Outcome) -> None:
        """Delete what a run that was kept from it has left."""
        with self.accounts.batch() as batch, self.accounts.blobs() as blobs:
            for delete in (batch.begin_delete_job, batch.begin_delete_pool):
                try:
                    delete(outcome.run, polling_interval=0.05).wait()  # type: ignore[arg-type]
                except (ResourceNotFoundError, ResourceExistsError):
                    continue
            for container in blobs.list_containers(name_starts_with=outcome.run):
                blobs.delete_container(container.name)
        assert self.left_over(outcome) == []


def _ended(summary: Summary, here: _Run) -> Ended:
    return Ended(
        by_file=summary.by_file.drop(columns="node").values.tolist(),
        overall=summary.overall.values.tolist(),
        missing=summary.missing,
        results=sorted(str(path.relative_to(summary.folder)) for path in summary.folder.rglob("*")),
        batch_tasks=here.batch_tasks,
        by_nodes=sorted(Counter(here.passage.by_nodes).items()),
    )


@pytest.fixture(scope="module")
def runs(quick: None, azure_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with FaultProxies() as proxies:
        yield Runs(azure_settings, proxies, tmp_path_factory.mktemp("lost_answers"))


@pytest.fixture(scope="module")
def clean(runs: Runs) -> Outcome:
    """A run without any fault; its calls are those that a second one has made, too."""
    one, two = runs.run_each([lambda call: None] * 2)
    assert one.ended, one.error
    assert one.ended == two.ended
    return replace(one, calls=[call for call in one.calls if call in set(two.calls)])


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


@EACH_WHOLE_MODE
def test_any_one_lost_answer_costs_nothing(runs: Runs, clean: Outcome, mode: Mode, subtests: pytest.Subtests) -> None:
    outcomes = runs.hit_each(clean.calls, mode)
    left = runs.left_over(*outcomes)
    for call, outcome in zip(clean.calls, outcomes, strict=True):
        with subtests.test(str(call)):
            assert outcome.error == ""
            assert outcome.ended == clean.ended
            assert list(outcome.faulted) == [(call, mode)]
            assert [each for each in left if outcome.run in each] == []


@EACH_MODE
def test_every_call_may_lose_its_first_answer(runs: Runs, clean: Outcome, mode: Mode) -> None:
    outcome = runs.run(lambda call: mode if call.occurrence == 1 else None)
    assert outcome.error == ""
    assert outcome.ended == clean.ended
    assert {call for call in clean.calls if call.occurrence == 1} <= {call for call, _ in outcome.faulted}
    assert runs.left_over(outcome) == []


def _at_random(seed: int, call: Call) -> Mode | None:
    """One call in ten; which ones does not depend on the order in which threads make them."""
    dice = random.Random(f"{seed} {call}")
    return dice.choice(list(Mode)) if dice.random() < 0.1 else None


def test_one_call_in_ten_may_lose_its_answer(runs: Runs, clean: Outcome) -> None:
    outcomes = runs.run_each([partial(_at_random, seed) for seed in range(8)])
    assert [outcome.error for outcome in outcomes] == [""] * 8
    assert all(outcome.ended == clean.ended for outcome in outcomes)
    assert {mode for outcome in outcomes for _, mode in outcome.faulted} == set(Mode)
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


def test_tasks_of_which_the_service_never_says_that_it_took_them_are_found_in_the_job(
    runs: Runs, clean: Outcome
) -> None:
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
        assert outcome.error.startswith("ServiceError: Azure Batch answered 503 ServerBusy")
        assert runs.left_over(outcome, patience=0) == [f"pool {outcome.run}"]
    finally:
        runs.remove(outcome)


@pytest.mark.parametrize("status", ["clienterror", "ClientError"])
def test_a_task_that_the_service_refuses_is_an_error_in_either_case_of_letters(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    make = tasks.job._batch_task

    def with_an_impossible_id(*args: Any, **kwargs: Any) -> BatchTaskCreateOptions:
        task = make(*args, **kwargs)
        task.id = "not an id"
        return task

    monkeypatch.setattr(tasks.job, "_batch_task", with_an_impossible_id)
    outcome = runs.run(rewrite=(b'"clienterror"', f'"{status}"'.encode()))
    assert outcome.error.startswith("ServiceError: Azure Batch did not take task not an id: InvalidPropertyValue")
    assert runs.left_over(outcome) == []


def test_clients_that_are_open_at_once_have_nothing_in_common(azure: Azure) -> None:
    """An SDK's retry policy is part of one client's pipeline: shared, it would send by way of the newest client."""
    with azure.blobs() as first:
        with azure.blobs() as second:
            list(second.list_containers(results_per_page=1))
        list(first.list_containers(results_per_page=1))
