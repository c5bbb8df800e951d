"""Each HTTP call of a run, faulted in each way: runs end right, or say why not, and leave nothing behind.

python -m tests.support.matrix                         # all of it: over an hour on two cores
python -m tests.support.matrix --sample 60 --seed 7    # some of it

Many runs at a time go through proxies of their own to one local Azure. Nothing of the SDKs' or of Prefect's retrying
is changed but the waiting between two tries. What only people see of a run, its artifacts and events, is left out.
"""

from __future__ import annotations

import argparse
import contextvars
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.core.pipeline.transport import HttpTransport
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.states import Pending, Scheduled
from prefect.utilities.callables import get_call_parameters

import flows.nine_steps
import tasks.direct_clean_up
import tasks.lifecycle
import tasks.record
import tasks.reporting.artifacts
import tasks.resources.batch_task
from flows.top_words import top_words
from local_azure.embedded import embedded_azure
from tasks.accounts.clients import Azure
from tasks.errors import RunError
from tasks.monitor import monitor_tasks
from tasks.resources.tags import tags as tags_of
from tasks.resources.upload import LEAST_BLOCK
from tasks.run.identity import Run
from tasks.run.polling import Polling
from tasks.run.settings import TimeLimits
from tasks.summary import Summary
from tests.support.fault_proxy import Call, Decide, FaultProxies, Mode, Passage
from tests.support.polling import LIMIT
from tests.support.steps import STEPS

TEXTS = {"a.txt": "the cat and the dog the end", "b.txt": "a dog a day"}
LARGE = "a.txt"  # which of them is filled up with white space, where a run is to upload in blocks
AT_A_TIME = 4  # runs
TRIES = 4  # to hit a call; of those that poll there is one more or less, as the answers go
BETWEEN_ATTEMPTS = timedelta(minutes=10)
DELETES = ("8 delete containers", "9 delete job", "9 delete pool")
# What no person should have to read.
OPAQUE = ("NoneType", "JSONDecode", "Deserialization", "Traceback", "<html", "Expecting value", "HTTPConnectionPool(")

here: contextvars.ContextVar[OneRun] = contextvars.ContextVar("here")  # the run of the present thread


class Scenario(str, Enum):
    RUN = "a run"
    BLOCKS = "a run that uploads in blocks"
    KEEP = "a run that keeps all"
    RESUME = "a retry that adopts what a killed attempt left"


class Verdict(str, Enum):
    RIGHT = "right"
    FAILED = "failed, saying why"
    OPAQUE = "failed with an opaque message"
    WRONG = "silently wrong"
    LEFT = "left something behind"


class Killed(BaseException):
    """Ends a run at once; none of its steps runs after it."""


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
    with_body: frozenset[Call] = frozenset()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fault of one call."""

    scenario: Scenario
    call: Call
    mode: Mode

    def __str__(self) -> str:
        return f"{self.scenario.value}; {self.call}; {self.mode.value}"


@dataclass(kw_only=True)
class OneRun:
    """What one run needs from here."""

    accounts: Azure
    passage: Passage
    scenario: Scenario
    batch_tasks: list[tuple[str, int, int]] = field(default_factory=list)
    to_be_killed: bool = False
    dead: bool = False

    def azure(self) -> Azure:
        azure = Azure.from_environment(self.passage.settings)
        assert azure is not None
        return azure

    def still_alive(self) -> None:
        if self.dead:
            raise Killed

    def sleep(self, seconds: float) -> None:
        """What monitoring does instead of sleeping: it looks again when the Batch tasks have completed, and not before.

        So every run makes the same calls. No Batch task begins before monitoring has looked for the first time.
        """
        self.passage.let_nodes_through()
        deadline = time.monotonic() + LIMIT
        with self.accounts.batch() as batch:
            while not self._all_have_completed(batch):
                assert time.monotonic() < deadline, f"the Batch tasks do not complete: {self.batch_tasks}"
                time.sleep(0.05)

    def _all_have_completed(self, batch: BatchClient) -> bool:
        found = list(batch.list_tasks(self.passage.run))
        self.batch_tasks = sorted(
            (task.id, task.execution_info.retry_count or 0, task.execution_info.requeue_count or 0) for task in found
        )
        return all(task.state == "completed" for task in found)


@contextmanager
def quick() -> Iterator[None]:
    """Nobody waits between two tries; runs are told of by their states alone, and tasks leave no stdout on storage."""

    def informs(name: str) -> bool:
        return name.startswith(("create_", "update_")) and name.endswith("_artifact")

    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        for name in filter(informs, vars(tasks.reporting.artifacts)):
            patch.setattr(tasks.reporting.artifacts, name, lambda *args, **kwargs: None)
        patch.setattr("prefect.events.utilities.should_emit_events", lambda: False)
        for step in STEPS.values():
            patch.setattr(step, "retry_delay_seconds", 0)
            patch.setattr(step, "retry_jitter_factor", None)
            if step.name in DELETES:
                patch.setattr(step, "fn", _of_the_living(step.fn))
        for owner, name in ((tasks.record.RunRecord, "close"), (tasks.direct_clean_up, "clean_up_after")):
            patch.setattr(owner, name, _of_the_living(getattr(owner, name)))
        patch.setattr(Run, "start", _start)
        patch.setattr(tasks.resources.batch_task, "STREAMS", ())  # to store them, each Batch task would load an SDK
        patch.setattr(HttpTransport, "sleep", lambda self, duration: None)
        patch.setattr(tasks.lifecycle, "azure_for_run", lambda accounts=None: nullcontext(here.get().azure()))
        patch.setattr(flows.nine_steps, "monitor_tasks", _monitor_tasks)
        patch.setattr(top_words, "on_crashed_hooks", [])  # a process that is killed runs none
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)


def _start(flow_run_id: str, workload: str, limits: TimeLimits) -> Run:
    """Its attempts are so far apart that the later one renews what it adopts."""
    run = here.get(None)
    earlier = BETWEEN_ATTEMPTS if run and run.to_be_killed else timedelta(0)
    started = datetime.now(timezone.utc) - earlier
    return Run(
        workload=workload, flow_run_id=flow_run_id, started=started, lifetime=timedelta(minutes=limits.run_minutes)
    )


def _monitor_tasks(*args: Any, **kwargs: Any) -> Any:
    run = here.get()
    if run.to_be_killed:
        run.dead = True
    run.still_alive()
    return monitor_tasks(*args, **{"polling": Polling(sleep=run.sleep), **kwargs})


def _of_the_living(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if run := here.get(None):
            run.still_alive()
        return function(*args, **kwargs)

    return call


def _write(folder: Path, texts: Mapping[str, str]) -> Path:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


class Runs:
    """Runs of the flow, several at a time, on one local Azure."""

    def __init__(self, settings: Mapping[str, str], proxies: FaultProxies, folder: Path) -> None:
        self._settings = settings
        self._proxies = proxies
        self._results = folder / "results"
        self._texts = _write(folder / "texts", TEXTS)
        self._large = _write(folder / "large", {**TEXTS, LARGE: TEXTS[LARGE].ljust(LEAST_BLOCK + 1)})
        accounts = Azure.from_environment(settings)
        assert accounts is not None
        self.accounts = accounts

    def run(
        self,
        decide: Decide = lambda call: None,
        rewrite: tuple[bytes, bytes] | None = None,
        scenario: Scenario = Scenario.RUN,
    ) -> Outcome:
        """Run the flow once, its calls faulted as decided; `rewrite` is replaced in each answer, by as many bytes."""
        keep = {"containers": "keep", "job": "keep", "pool": "keep"} if scenario is Scenario.KEEP else {}
        parameters: dict[str, Any] = {
            "inputs": [str(self._large if scenario is Scenario.BLOCKS else self._texts)],
            "top_n": 2,
            "pool": {"dedicated_nodes": 1, "slots_per_node": 2},
            "output_folder": str(self._results),
            "clean_up": keep,
        }
        first = None if scenario is Scenario.RESUME else decide
        with self._proxies.passage(
            self._settings, first or (lambda call: None), hold_nodes=True, rewrite=rewrite
        ) as passage:
            run = OneRun(accounts=self.accounts, passage=passage, scenario=scenario)
            here.set(run)
            ended, error = None, ""
            try:
                summary = _resumed(run, parameters, decide) if first is None else top_words(**parameters)
                ended = _ended(summary, run)
            except Exception as problem:
                error = repr(problem)
                if not isinstance(problem, RunError):
                    error = f"Traceback: {error}"
        return Outcome(
            run=passage.run,
            ended=ended,
            error=error,
            calls=passage.calls,
            faulted=passage.faulted,
            with_body=frozenset(passage.with_body),
            left=tuple(self._kept(passage.run)) if keep else (),
        )

    def clean(self, scenario: Scenario = Scenario.RUN) -> Outcome:
        """A run without any fault; its calls are those that a second one has made, too."""
        one, two = self.run_each([lambda call: None] * 2, scenario)
        assert one.ended, one.error
        assert (one.ended, one.left) == (two.ended, two.left), f"{scenario.value}: {one} {two}"
        both = set(two.calls)
        return Outcome(**{**vars(one), "calls": [call for call in one.calls if call in both]})

    def run_each(self, decisions: Sequence[Decide], scenario: Scenario = Scenario.RUN) -> list[Outcome]:
        return _several(lambda decide: self.run(decide, scenario=scenario), decisions)

    def hit(self, cell: Cell) -> Outcome:
        """A run in which that call was faulted and no other; the last of those tried, if it is made in none."""
        for _ in range(TRIES):
            outcome = self.run(lambda made: cell.mode if made == cell.call else None, scenario=cell.scenario)
            if outcome.faulted or outcome.error:
                break
        return outcome

    def hit_each(self, cells: Sequence[Cell]) -> list[Outcome]:
        return _several(self.hit, cells)

    def left_over(self, *outcomes: Outcome, patience: float = LIMIT) -> list[str]:
        """What is still of these runs in the accounts, once what is being deleted has had the time to vanish."""
        names = tuple(outcome.run for outcome in outcomes if outcome.run)
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

    def _kept(self, name: str) -> list[str]:
        """What a run has marked as kept, without its name; it is deleted here."""
        with self.accounts.batch() as batch, self.accounts.blobs() as blobs:
            tags = {f"pool {pool.id}": tags_of(pool.metadata) for pool in batch.list_pools()}
            tags |= {f"job {job.id}": tags_of(job.metadata) for job in batch.list_jobs()}
            for container in blobs.list_containers(include_metadata=True):
                tags[f"container {container.name}"] = container.metadata or {}
        self.remove(name)
        return sorted(
            each.replace(name, "") for each, tag in tags.items() if name and name in each and tag.get("kept") == "yes"
        )

    def remove(self, name: str) -> None:
        """Delete what a run that was kept from it has left."""
        with self.accounts.batch() as batch, self.accounts.blobs() as blobs:
            for delete in (batch.begin_delete_job, batch.begin_delete_pool):
                try:
                    delete(name, polling_interval=0.05).wait()  # type: ignore[arg-type]
                except (ResourceNotFoundError, ResourceExistsError):
                    continue
            for container in blobs.list_containers(name_starts_with=name):
                blobs.delete_container(container.name)


def _resumed(run: OneRun, parameters: dict[str, Any], decide: Decide) -> Any:
    """What a retry returns of a flow run whose first attempt was killed when its tasks had been added."""
    with get_client(sync_client=True) as client:
        id = client.create_flow_run(top_words, parameters=parameters, state=Pending()).id
        run.to_be_killed = True
        _attempt(client.read_flow_run(id))
        run.to_be_killed = run.dead = False
        client.set_flow_run_state(id, Scheduled(), force=True)
        run.passage.restart(decide)
        return _attempt(client.read_flow_run(id)).result()


def _attempt(flow_run: Any) -> Any:
    parameters = get_call_parameters(top_words.fn, (), flow_run.parameters)
    try:
        return run_flow(flow=top_words, flow_run=flow_run, return_type="state", parameters=parameters)
    except Killed:
        return None


def _several(work: Callable[[Any], Outcome], items: Sequence[Any]) -> list[Outcome]:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        futures = [pool.submit(contextvars.copy_context().run, work, item) for item in items]
        return [future.result() for future in futures]


def _ended(summary: Summary, run: OneRun) -> Ended:
    return Ended(
        by_file=summary.by_file.drop(columns="node").values.tolist(),
        overall=summary.overall.values.tolist(),
        missing=summary.missing,
        results=sorted(str(path.relative_to(summary.folder)) for path in summary.folder.rglob("*")),
        batch_tasks=run.batch_tasks,
        by_nodes=sorted(Counter(run.passage.by_nodes).items()),
    )


class Matrix:
    """All faults of all calls; of a scenario only the calls in which it differs from those before it."""

    def __init__(self, runs: Runs, scenarios: Sequence[Scenario] = tuple(Scenario)) -> None:
        self._runs = runs
        self.clean: dict[Scenario, Outcome] = {}
        self.cells: list[Cell] = []
        known: set[Call] = set()
        for scenario in scenarios:
            self.clean[scenario] = clean = runs.clean(scenario)
            calls = [call for call in clean.calls if call not in known]
            if scenario is Scenario.KEEP:  # it makes fewer, the last of them for each thing that it keeps
                calls = list(clean.calls[-len(clean.left) :])
            known.update(calls)
            for call in calls:
                modes = [mode for mode in Mode if mode is not Mode.FLIPPED or call in clean.with_body]
                self.cells += [Cell(scenario=scenario, call=call, mode=mode) for mode in modes]

    def sample(self, count: int, seed: int) -> list[Cell]:
        return random.Random(seed).sample(self.cells, min(count, len(self.cells)))

    def judge(self, cells: Sequence[Cell]) -> list[tuple[Cell, Verdict, str]]:
        """What became of a run with each of the faults, and the words of those that did not end right."""
        outcomes = self._runs.hit_each(cells)
        left = self._runs.left_over(*outcomes)
        return [
            (cell, *self._verdict(cell, outcome, [each for each in left if outcome.run and outcome.run in each]))
            for cell, outcome in zip(cells, outcomes, strict=True)
        ]

    def _verdict(self, cell: Cell, outcome: Outcome, left: Sequence[str]) -> tuple[Verdict, str]:
        clean = self.clean[cell.scenario]
        if left:
            return Verdict.LEFT, f"{', '.join(left)}: {outcome.error}"
        if outcome.error:
            opaque = any(words in outcome.error for words in OPAQUE)
            return (Verdict.OPAQUE if opaque else Verdict.FAILED), outcome.error
        if (outcome.ended, outcome.left) != (clean.ended, clean.left):
            return Verdict.WRONG, f"{outcome.ended} {outcome.left}"
        return Verdict.RIGHT, ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.matrix", description=__doc__)
    parser.add_argument("--sample", type=int, default=sys.maxsize, help="so many of the faults; all by default")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    options = parser.parse_args()
    from prefect.testing.utilities import prefect_test_harness

    counts: Counter[Verdict] = Counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        embedded_azure() as settings,
        FaultProxies() as proxies,
        quick(),
    ):
        matrix = Matrix(Runs(settings, proxies, Path(folder)))
        cells = matrix.sample(options.sample, options.seed)
        print(f"{len(cells)} of {len(matrix.cells)} faults", file=sys.stderr, flush=True)
        began = time.monotonic()
        for at in range(0, len(cells), 40):
            for cell, verdict, words in matrix.judge(cells[at : at + 40]):
                counts[verdict] += 1
                if verdict is not Verdict.RIGHT:
                    print(f"{verdict.value}: {cell}\n  {words}", flush=True)
            done, spent = sum(counts.values()), time.monotonic() - began
            rest = (len(cells) - done) * spent / done / 60
            print(f"{done} of {len(cells)} faults, about {rest:.0f} minutes left", file=sys.stderr, flush=True)
    print(f"{counts[Verdict.RIGHT]} of {sum(counts.values())} right")
    for verdict in list(Verdict)[1:]:
        print(f"{counts[verdict]} {verdict.value}")
    return 0 if set(counts) <= {Verdict.RIGHT, Verdict.FAILED} else 1


if __name__ == "__main__":
    sys.exit(main())
