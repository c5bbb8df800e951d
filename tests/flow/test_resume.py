"""A flow run that was killed or failed is run again under its own id, and ends as if nothing had happened.

The second try goes through Prefect's engine as `prefect flow-run retry` takes it there. Who really ran what is not
asked of anybody: the script on the nodes writes a line before each execution.
"""

from __future__ import annotations

import base64
import contextvars
import functools
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from azure.batch.models import BatchTaskState
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobProperties
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, State
from prefect.flow_engine import run_flow
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from prefect.states import Crashed, Pending, Scheduled
from prefect.utilities.callables import get_call_parameters

import tasks.lifecycle
import tasks.record
import tasks.reporting.artifacts
import tasks.resources.clean_up
import tasks.stopped
from flows import top_words as flow_module
from flows.top_words import top_words
from local_azure import faults
from node_scripts import top_words as node_script
from tasks.accounts.clients import Azure
from tasks.errors import NotDownloaded, TasksFailed
from tasks.reporting.artifacts import short_node
from tasks.resources.clean_up import clean_up_after
from tasks.run.identity import Role, Run
from tasks.run.polling import Pace
from tasks.run.settings import CleanUp, TimeLimits
from tasks.summary import Summary
from tests.conftest import DATA
from tests.flow.deployed import Deployed, deployed, eventually

__all__ = ["deployed"]  # a fixture

TEXTS = {"a.txt": "the cat and the dog the end", "b.txt": "a dog a day", "c.txt": "one two two"}
LIMIT = 60.0  # seconds
AT_A_TIME = 4  # flow runs
BETWEEN_TRIES = timedelta(minutes=10)  # by which the first try has begun earlier than the second
KEEP = {"containers": "keep", "job": "keep", "pool": "keep"}

# Written to the nodes instead of the node script: says that it runs, then is the node script. It waits, or fails,
# while there is a file that tells it so.
_PROBE = """\
import json, os, sys, time
folder = {folder!r}
env = os.environ
file = os.path.basename(env["INPUT_FILE"])
name = env["AZ_BATCH_JOB_ID"] + "-" + file
line = dict(job=env["AZ_BATCH_JOB_ID"], task=env["AZ_BATCH_TASK_ID"], node=env["AZ_BATCH_NODE_ID"], file=file,
            expires=env["SAS_EXPIRES"])
with open(os.path.join(folder, "executions"), "a") as log:
    log.write(json.dumps(line) + "\\n")
end = time.monotonic() + {limit}
while os.path.exists(os.path.join(folder, "hold-" + name)) and time.monotonic() < end:
    time.sleep(0.02)
if os.path.exists(os.path.join(folder, "fail-" + name)):
    sys.exit("this file fails")
os.execv(sys.executable, [sys.executable, {script!r}, *sys.argv[1:]])
"""


class When(str, Enum):
    BEFORE = "before"
    AFTER = "after"


class Kind(str, Enum):
    KILLED = "killed"  # nothing more runs, no `finally` either
    FAILED = "failed"  # an exception goes through the flow


@dataclass(frozen=True)
class Boundary:
    when: When
    step: str

    def __str__(self) -> str:
        return f"{self.when.value} {self.step}"


class Killed(BaseException):
    """Ends a step, and every later one before it begins."""


class Broken(Exception):
    """Ends a step as an error of the step's own would."""


@dataclass(kw_only=True)
class Try:
    """One try of a flow run: how it is to end, what happens on its way, and what has been reached."""

    began: datetime
    ends: Boundary | None = None
    kind: Kind = Kind.FAILED
    on_the_way: Mapping[Boundary, Callable[[], object]] = field(default_factory=dict)
    while_waiting: Callable[[], object] = lambda: None  # for anything in Azure, at each look
    reached: list[Boundary] = field(default_factory=list)
    dead: bool = False
    turn: threading.RLock = field(default_factory=threading.RLock)  # of the steps that run side by side

    def reach(self, boundary: Boundary) -> None:
        self.still_alive()
        self.reached.append(boundary)
        if act := self.on_the_way.get(boundary):
            act()
        if boundary != self.ends:
            return
        if self.kind is Kind.FAILED:
            raise Broken(str(boundary))
        self.dead = True
        raise Killed(str(boundary))

    def still_alive(self) -> None:
        if self.dead:
            raise Killed("dead")


_present: contextvars.ContextVar[Try] = contextvars.ContextVar("_present")


def before(step: str) -> Boundary:
    return Boundary(When.BEFORE, step)


def after(step: str) -> Boundary:
    return Boundary(When.AFTER, step)


def _watched(name: str, function: Callable[..., Any], script: Path) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if name == "2 upload files":
            kwargs["node_script"], args = script, args[:3]
        present = _present.get()
        with present.turn:
            present.reach(before(name))
            result = function(*args, **kwargs)
            present.reach(after(name))
            return result

    return call


def _of_the_living(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _present.get().still_alive()
        return function(*args, **kwargs)

    return call


def _beats(pace: Pace) -> Iterator[float]:
    began = time.monotonic()
    while (waited := time.monotonic() - began) < LIMIT:
        yield waited
        _present.get().while_waiting()
        time.sleep(0.03)
    raise AssertionError("waited for too long")


def _start(flow_run_id: str, workload: str, limits: TimeLimits) -> Run:
    lifetime = timedelta(minutes=limits.run_minutes)
    return Run(workload="top-words", flow_run_id=flow_run_id, started=_present.get().began, lifetime=lifetime)


STEPS = [value for value in vars(flow_module).values() if isinstance(value, Task)]


@pytest.fixture(scope="module")
def slow_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A local Azure for these tests, which can be told to be slow."""
    arguments = ["--faults", "--batch-port=0", "--blob-port=0", "--until-stdin-closes"]
    with subprocess.Popen(
        [sys.executable, "-m", "local_azure", *arguments],
        cwd=DATA.parent,
        env={**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("azure"))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        yield dict(process.stdout.readline().rstrip("\n").split("=", 1) for _ in range(5))


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What the nodes are told, and what they have really run."""

    folder: Path

    @property
    def script(self) -> Path:
        return self.folder / "top_words.py"

    def tell(self, what: str, run: Run, file: str) -> Path:
        """Have the file's Batch tasks "fail" or "hold" until the returned file is gone."""
        path = self.folder / f"{what}-{run.job_id}-{file}"
        path.touch()
        return path

    def executions(self, run: Run) -> list[dict[str, str]]:
        """Each execution of a Batch task of the run, in the order in which they began."""
        log = self.folder / "executions"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if line["job"] == run.job_id]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    folder = tmp_path_factory.mktemp("nodes")
    folder.chmod(0o755)
    nodes = Nodes(folder=folder)
    nodes.script.write_text(_PROBE.format(folder=str(folder), limit=LIMIT, script=node_script.__file__))
    return nodes


@pytest.fixture(scope="module")
def watched(prefect_server: None, slow_settings: dict[str, str], nodes: Nodes) -> Iterator[None]:
    """Each try of the flow does as its Try says. Waits are short, and only the first try's own process has hooks."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slow_settings.items():
            patch.setenv(name, value)
        for step in STEPS:
            patch.setattr(step, "fn", _watched(step.name, step.fn, nodes.script))
            patch.setattr(step, "retry_delay_seconds", 0)
            patch.setattr(step, "retry_jitter_factor", None)
        patch.setattr(tasks.record.Chronicle, "close", _of_the_living(tasks.record.Chronicle.close))
        patch.setattr(tasks.lifecycle, "clean_up_after", _of_the_living(tasks.resources.clean_up.clean_up_after))
        patch.setattr(flow_module, "fetch_finished", _of_the_living(tasks.stopped.fetch_finished))
        patch.setattr(Run, "start", _start)
        patch.setattr(Pace, "beats", _beats)
        patch.setattr(top_words, "on_crashed_hooks", [])  # a process that is killed runs none
        yield


@pytest.fixture
def for_people() -> None:
    """The Prefect server gets the artifacts, too."""


@pytest.fixture(autouse=True)
def for_machines_only(request: pytest.FixtureRequest) -> Iterator[None]:
    """What only people see of a run is left out: it would take most of the time."""
    if "for_people" in request.fixturenames:
        yield
        return
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        for name in vars(tasks.reporting.artifacts):
            if name.startswith(("create_", "update_")) and name.endswith("_artifact"):
                patch.setattr(tasks.reporting.artifacts, name, lambda *args, **kwargs: None)
        patch.setattr("prefect.events.utilities.should_emit_events", lambda: False)
        yield


class Resumed:
    """A flow run and its tries."""

    def __init__(self, nodes: Nodes, folder: Path, *, texts: Mapping[str, str] = TEXTS, **parameters: Any) -> None:
        azure = Azure.from_environment(os.environ)
        assert azure
        self.azure = azure
        self.nodes = nodes
        self.texts = folder / "texts"
        self.texts.mkdir(parents=True)
        for name, text in texts.items():
            (self.texts / name).write_text(text)
        self.parameters: dict[str, Any] = {
            "inputs": [str(self.texts)],
            "top_n": 2,
            "pool": {"dedicated_nodes": 1, "slots_per_node": 3},
            "limits": {"task_retries": 0},
            "output_folder": str(folder / "results"),
            **parameters,
        }
        self.tries: list[Try] = []
        with get_client(sync_client=True) as client:
            self.id: UUID = client.create_flow_run(top_words, parameters=self.parameters, state=Pending()).id
        self.run = Run(
            workload="top-words",
            flow_run_id=str(self.id),
            started=datetime.now(timezone.utc),
            lifetime=timedelta(hours=2),
        )

    def first(self, ends: Boundary | None = None, kind: Kind = Kind.FAILED, **more: Any) -> State[Any] | None:
        """The first try; None where it was killed."""
        began = more.pop("began", None) or datetime.now(timezone.utc) - BETWEEN_TRIES
        return self._try(Try(began=began, ends=ends, kind=kind, **more))

    def retry(self, **more: Any) -> State[Any]:
        """Run it again, as `prefect flow-run retry` does."""
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self.id, Scheduled(message="Retried via CLI (local execution)"), force=True)
        state = self._try(Try(began=datetime.now(timezone.utc), **more))
        assert state
        return state

    def again(self, **more: Any) -> Summary:
        """Run it again, to its good end."""
        state = self.retry(**more)
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(self.id)
        assert (flow_run.run_count, flow_run.state_name) == (2, "Completed"), state.message
        summary = state.result()
        assert isinstance(summary, Summary)
        return summary

    def _try(self, present: Try) -> State[Any] | None:
        self.tries.append(present)
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(self.id)
        parameters = get_call_parameters(top_words.fn, (), flow_run.parameters)
        token = _present.set(present)
        try:
            state = run_flow(flow=top_words, flow_run=flow_run, return_type="state", parameters=parameters)
            assert isinstance(state, State)
            return state
        except Killed:
            return None
        finally:
            _present.reset(token)

    def executions(self) -> list[tuple[str, int]]:
        """The file of each execution and the try whose Batch task it was, sorted."""
        known = {f"{each.began + timedelta(hours=2):%Y-%m-%dT%H:%M:%S}": at for at, each in enumerate(self.tries)}
        return sorted((line["file"], known[line["expires"][:19]] + 1) for line in self.nodes.executions(self.run))

    def blobs(self) -> dict[str, str]:
        """The ETag of each blob that was uploaded, by its container's role and its name; an upload changes it."""
        found = {}
        with self.azure.blobs() as blobs:
            for role in ("application", "input"):
                container = blobs.get_container_client(f"{self.run.name}-{role}")
                if container.exists():
                    found.update({f"{role}/{blob.name}": str(blob.etag) for blob in container.list_blobs()})
        return found

    def outputs(self) -> list[BlobProperties]:
        with self.azure.blobs() as blobs:
            return list(blobs.get_container_client(f"{self.run.name}-output").list_blobs())

    def left_over(self) -> list[str]:
        """What is still of the run in the accounts, once what is being deleted has had the time to vanish."""
        deadline = time.monotonic() + 10
        with self.azure.batch() as batch, self.azure.blobs() as blobs:
            while True:
                found = [f"pool {pool.id}" for pool in batch.list_pools(select=["id"]) if pool.id == self.run.name]
                found += [f"job {job.id}" for job in batch.list_jobs(select=["id"]) if job.id == self.run.name]
                found += [container.name for container in blobs.list_containers(name_starts_with=self.run.name)]
                if not found or time.monotonic() > deadline:
                    return found
                time.sleep(0.03)

    def clean_up(self) -> None:
        """As a hook or a sweep does it for this flow run."""
        token = _present.set(self.tries[-1])
        try:
            clean_up_after(self.azure, self.run, CleanUp(), logging.getLogger("tests.resume"))
        finally:
            _present.reset(token)

    def remove(self) -> None:
        """Delete what there is of the run, where a test had it kept or has failed."""
        with self.azure.batch() as batch, self.azure.blobs() as blobs:
            for delete in (batch.begin_delete_job, batch.begin_delete_pool):
                try:
                    delete(self.run.name)
                except (ResourceNotFoundError, ResourceExistsError):
                    continue
            for container in blobs.list_containers(name_starts_with=self.run.name):
                blobs.delete_container(container.name)

    def artifacts(self) -> list[Artifact]:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[self.id]))
        with get_client(sync_client=True) as client:
            return sorted(
                client.read_artifacts(artifact_filter=only), key=lambda each: each.created or self.run.started
            )


Start = Callable[..., Resumed]


@pytest.fixture
def start(watched: None, nodes: Nodes, tmp_path: Path) -> Iterator[Start]:
    """Flow runs with folders of their own; what a test leaves of them is deleted after it."""
    started: list[Resumed] = []

    def one(**parameters: Any) -> Resumed:
        started.append(Resumed(nodes, tmp_path / str(len(started)), **parameters))
        return started[-1]

    yield one
    for each in started:
        each.remove()


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a summary says, the nodes' names apart."""

    by_file: list[list[Any]]
    overall: list[list[Any]]
    missing: tuple[str, ...]

    @classmethod
    def by(cls, summary: Summary) -> Said:
        by_file = summary.by_file.drop(columns="node").values.tolist()
        return cls(by_file=by_file, overall=summary.overall.values.tolist(), missing=summary.missing)


def nodes_of(summary: Summary) -> dict[str, str]:
    return dict(zip(summary.by_file["file"], summary.by_file["node"], strict=True))


def last_nodes(resumed: Resumed) -> dict[str, str]:
    """The node of the last execution of each file."""
    return {line["file"]: line["node"] for line in resumed.nodes.executions(resumed.run)}


# Every step boundary.

TWO = {"a.txt": TEXTS["a.txt"], "b.txt": TEXTS["b.txt"]}


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that nobody disturbs."""

    said: Said
    boundaries: list[Boundary]

    def ends(self, kind: Kind) -> list[Boundary]:
        """Where another run is to end. What is after a step is before the next, for whoever kills.

        A step that fails may have acted before, or, where others run beside it, not.
        """
        begun = [each for each in self.boundaries if each.when is When.BEFORE]
        done = [each for each in self.boundaries if each.when is When.AFTER]
        if kind is Kind.KILLED:
            return [*begun, done[-1]]
        return [*done, *(each for each in begun if " delete " in each.step)]

    def has_downloaded(self, end: Boundary) -> bool:
        return self.boundaries.index(end) >= self.boundaries.index(after("7 download output"))

    def has_monitored(self, end: Boundary, kind: Kind) -> bool:
        """Whether the Batch tasks have been counted by then, or go on."""
        last = after("6 monitor tasks") if kind is Kind.FAILED else after("5 add tasks")
        return self.boundaries.index(end) >= self.boundaries.index(last)

    def has_added(self, end: Boundary) -> bool:
        return self.boundaries.index(end) >= self.boundaries.index(after("5 add tasks"))


@pytest.fixture
def undisturbed(start: Start) -> Undisturbed:
    resumed = start(texts=TWO)
    state = resumed.first()
    assert state
    said = Said.by(state.result())
    assert said.by_file == [
        ["a.txt", 1, "the", 3, "topNtask0"],
        ["a.txt", 2, "cat", 1, "topNtask0"],
        ["b.txt", 1, "a", 2, "topNtask1"],
        ["b.txt", 2, "dog", 1, "topNtask1"],
    ]
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1)]
    return Undisturbed(said=said, boundaries=resumed.tries[0].reached)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run that ended at a boundary, and was run again."""

    said: Said
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
        said=Said.by(summary),
        nodes_agree=nodes_of(summary) == last_nodes(resumed),
        executions=resumed.executions(),
        uploaded_again=[name for name, etag in uploaded.items() if present.get(name, etag) != etag],
        left_over=resumed.left_over(),
    )


@pytest.mark.parametrize("of", ["input", "accounts"])
def test_a_retry_that_fails_before_it_begins_leaves_nothing_of_the_first_try(start: Start, of: str) -> None:
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


@pytest.mark.parametrize("kind", Kind, ids=[kind.value for kind in Kind])
def test_a_run_that_ended_at_any_step_boundary_is_run_again_and_finishes(
    start: Start, undisturbed: Undisturbed, kind: Kind, subtests: pytest.Subtests
) -> None:
    ends = undisturbed.ends(kind)
    assert {end.step for end in ends} == {step.name for step in STEPS}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        futures = [
            pool.submit(contextvars.copy_context().run, resume, run, end, kind)
            for run, end in [(start(texts=TWO), end) for end in ends]
        ]
    for end, future in zip(ends, futures, strict=True):
        with subtests.test(str(end)):
            outcome = future.result()
            assert outcome.said == undisturbed.said
            assert outcome.nodes_agree
            assert outcome.uploaded_again == []
            assert outcome.left_over == []
            attempts = {attempt: [name for name, by in outcome.executions if by == attempt] for attempt in (1, 2)}
            # What has been counted stays, on this machine or in its container, also where the clean-up has run.
            if undisturbed.has_downloaded(end) or undisturbed.has_monitored(end, kind):
                assert attempts == {1: list(TWO), 2: []}
            else:  # what the first try had begun to count has been cleaned up
                assert attempts[2] == list(TWO)
                assert len(attempts[1]) == len(set(attempts[1]))
                assert not attempts[1] or undisturbed.has_added(end)


def test_outputs_that_could_not_be_stored_are_downloaded_by_a_retry_without_a_pool(start: Start) -> None:
    resumed = start()
    in_the_way = Path(resumed.parameters["output_folder"]) / resumed.run.name / "b_OUTPUT.txt"
    state = resumed.first(on_the_way={DOWNLOAD: in_the_way.mkdir})
    assert state
    error = state.result(raise_on_failure=False)
    assert isinstance(error, NotDownloaded)
    assert "b_OUTPUT.txt: Is a directory" in str(error)
    containers = sorted(resumed.run.container(role) for role in Role)
    wait_until(lambda: sorted(resumed.left_over()) == containers)
    # No other cleaner takes them, but for a sweep once they have expired.
    resumed.clean_up()
    assert sorted(resumed.left_over()) == containers
    in_the_way.rmdir()
    assert Said.by(resumed.again()) == EXPECTED
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("c.txt", 1)]
    assert before("3 create pool") not in resumed.tries[1].reached
    assert resumed.left_over() == []


def test_a_file_whose_output_cannot_be_read_is_counted_again_beside_kept_tasks(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = start(clean_up=KEEP)

    def garble() -> None:
        with resumed.azure.blobs() as blobs:
            output = blobs.get_blob_client(resumed.run.container(Role.OUTPUT), "b_OUTPUT.txt")
            output.upload_blob("<html>", overwrite=True)

    state = resumed.first(on_the_way={DOWNLOAD: garble})
    assert state
    error = state.result(raise_on_failure=False)
    assert isinstance(error, TasksFailed)
    assert error.summary
    assert error.summary.missing == ("b.txt",)
    assert "b.txt: Batch task topNtask1 left an output that cannot be read (" in str(error)
    assert Said.by(resumed.again()) == EXPECTED
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]


# What was wrong, or has changed, between the tries.

EXPECTED = Said(
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
MONITOR = before("6 monitor tasks")
DOWNLOAD = before("7 download output")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def words(summary: Summary) -> list[list[Any]]:
    return [row[:4] for row in Said.by(summary).by_file]


def begun(resumed: Resumed, *files: str) -> Callable[[], None]:
    """Waits until the Batch tasks of these files are running."""
    wanted = set(files)
    return lambda: wait_until(lambda: wanted <= {line["file"] for line in resumed.nodes.executions(resumed.run)})


def completed(resumed: Resumed, task: str) -> bool:
    with resumed.azure.batch() as batch:
        return batch.get_task(resumed.run.job_id, task).state == BatchTaskState.COMPLETED


@pytest.mark.parametrize("clean_up", [{}, KEEP], ids=["after all was deleted", "after all was kept"])
def test_a_file_that_failed_is_counted_alone_once_it_can_be(
    start: Start, nodes: Nodes, for_people: None, clean_up: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    resumed = start(clean_up=clean_up)
    broken = nodes.tell("fail", resumed.run, "b.txt")
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
    assert Said.by(summary) == EXPECTED
    assert nodes_of(summary) == last_nodes(resumed)
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]
    assert "2 of 3 files have been counted by an earlier try" in caplog.messages
    assert not [message for message in caplog.messages if "Artifact not written" in message]
    tables = [each for each in resumed.artifacts() if each.key == "top-words-by-file"]
    assert [len(json.loads(str(table.data))) for table in tables] == [4, 6]
    assert json.loads(str(tables[-1].data)) == json.loads(
        summary.by_file.assign(node=summary.by_file["node"].map(short_node)).to_json(orient="records")
    )
    if not clean_up:
        assert resumed.left_over() == []


def test_a_file_that_failed_is_counted_again_beside_batch_tasks_that_still_run(start: Start, nodes: Nodes) -> None:
    resumed = start()
    broken, hold = nodes.tell("fail", resumed.run, "b.txt"), nodes.tell("hold", resumed.run, "c.txt")
    resumed.first(MONITOR, Kind.KILLED, on_the_way={MONITOR: begun(resumed, "a.txt", "b.txt", "c.txt")})
    wait_until(lambda: completed(resumed, "topNtask0") and completed(resumed, "topNtask1"))
    broken.unlink()
    summary = resumed.again(on_the_way={MONITOR: hold.unlink})
    assert Said.by(summary) == EXPECTED
    assert nodes_of(summary) == last_nodes(resumed)
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]
    assert resumed.left_over() == []


def test_a_file_that_changed_after_it_was_counted_is_counted_again(start: Start) -> None:
    resumed = start()
    resumed.first(DOWNLOAD, Kind.KILLED)
    (output,) = [blob for blob in resumed.outputs() if blob.name == "b_OUTPUT.txt"]
    wait_until(lambda: datetime.now(timezone.utc) >= output.last_modified + timedelta(seconds=1))  # its precision
    (resumed.texts / "b.txt").write_text("new new day")
    summary = resumed.again()
    assert words(summary)[2:4] == [["b.txt", 1, "new", 2], ["b.txt", 2, "day", 1]]
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]
    assert resumed.left_over() == []


@pytest.mark.parametrize("ends", [after("2 upload files"), MONITOR], ids=["before the job is looked at", "after it"])
def test_a_file_that_changed_while_it_was_being_counted_is_counted_again(
    start: Start, nodes: Nodes, ends: Boundary
) -> None:
    resumed = start()
    hold = nodes.tell("hold", resumed.run, "b.txt")
    resumed.first(MONITOR, Kind.KILLED, on_the_way={MONITOR: begun(resumed, "a.txt", "b.txt", "c.txt")})
    wait_until(lambda: completed(resumed, "topNtask0") and completed(resumed, "topNtask2"))
    (resumed.texts / "b.txt").write_text("new new day")

    def end() -> None:
        hold.unlink()
        if ends != MONITOR:  # by when it has been replaced
            wait_until(lambda: completed(resumed, "topNtask1"))

    summary = resumed.again(on_the_way={ends: end})
    assert words(summary)[2:4] == [["b.txt", 1, "new", 2], ["b.txt", 2, "day", 1]]
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1)]
    assert resumed.left_over() == []


def test_a_file_put_before_the_others_shifts_their_ids_and_nothing_else(start: Start) -> None:
    resumed = start()
    resumed.first(DOWNLOAD, Kind.KILLED)
    (resumed.texts / "0.txt").write_text("zero zero one")
    summary = resumed.again()
    said = Said.by(summary)
    assert said.by_file == [
        ["0.txt", 1, "zero", 2, "topNtask0"],
        ["0.txt", 2, "one", 1, "topNtask0"],
        *EXPECTED.by_file,  # with the ids under which they were counted
    ]
    assert resumed.executions() == [("0.txt", 2), ("a.txt", 1), ("b.txt", 1), ("c.txt", 1)]
    assert resumed.left_over() == []


def test_a_file_put_before_the_others_while_they_are_being_counted_mixes_up_nothing(start: Start, nodes: Nodes) -> None:
    resumed = start()
    holds = [nodes.tell("hold", resumed.run, name) for name in ("b.txt", "c.txt")]
    resumed.first(MONITOR, Kind.KILLED, on_the_way={MONITOR: begun(resumed, "a.txt", "b.txt", "c.txt")})
    wait_until(lambda: completed(resumed, "topNtask0"))
    (resumed.texts / "0.txt").write_text("zero zero one")

    def go_on() -> None:
        for hold in holds:
            hold.unlink()

    summary = resumed.again(on_the_way={MONITOR: go_on})
    assert words(summary) == [["0.txt", 1, "zero", 2], ["0.txt", 2, "one", 1], *[row[:4] for row in EXPECTED.by_file]]
    assert nodes_of(summary) == last_nodes(resumed)
    assert [each for each in resumed.executions() if each[0] in ("0.txt", "a.txt")] == [("0.txt", 2), ("a.txt", 1)]
    assert resumed.left_over() == []


def test_a_file_taken_away_is_no_longer_counted(start: Start) -> None:
    resumed = start()
    resumed.first(DOWNLOAD, Kind.KILLED)
    (resumed.texts / "a.txt").unlink()
    assert Said.by(resumed.again()).by_file == EXPECTED.by_file[2:]
    assert resumed.executions() == [("a.txt", 1), ("b.txt", 1), ("c.txt", 1)]
    assert resumed.left_over() == []


# What the first try's time limit means for the second.


@pytest.mark.parametrize(("minutes", "by"), [(70, 2), (50, 1)], ids=["soon to expire", "good for long enough"])
def test_waiting_batch_tasks_are_replaced_where_their_sas_urls_expire_soon(
    start: Start, nodes: Nodes, minutes: int, by: int
) -> None:
    resumed = start(pool={"dedicated_nodes": 1, "slots_per_node": 1})
    hold = nodes.tell("hold", resumed.run, "a.txt")
    began = datetime.now(timezone.utc) - timedelta(minutes=minutes)  # of 120
    resumed.first(MONITOR, Kind.KILLED, began=began, on_the_way={MONITOR: begun(resumed, "a.txt")})
    summary = resumed.again(on_the_way={MONITOR: hold.unlink})
    assert Said.by(summary) == EXPECTED
    assert resumed.executions() == [("a.txt", 1), ("b.txt", by), ("c.txt", by)]  # a.txt was running
    assert resumed.left_over() == []


def test_what_is_adopted_gets_the_new_deadline(start: Start, nodes: Nodes) -> None:
    resumed = start()
    hold = nodes.tell("hold", resumed.run, "a.txt")
    resumed.first(MONITOR, Kind.KILLED)
    found: dict[str, Any] = {}

    def look() -> None:
        with resumed.azure.batch() as batch, resumed.azure.blobs() as blobs:
            found.update(pool=batch.get_pool(resumed.run.pool_id), job=batch.get_job(resumed.run.job_id))
            each = blobs.list_containers(name_starts_with=resumed.run.name, include_metadata=True)
            found.update(containers=[dict(container.metadata) for container in each])
        hold.unlink()

    resumed.again(on_the_way={MONITOR: look})
    first, second = (each.began + timedelta(hours=2) for each in resumed.tries)
    assert second - first >= BETWEEN_TRIES
    pool, job = found["pool"], found["job"]
    expires = {"expires": second.isoformat(timespec="seconds")}
    assert f'time("{second:%Y-%m-%dT%H:%M:%SZ}")' in pool.auto_scale_formula
    assert {item.name: item.value for item in pool.metadata}.items() >= expires.items()
    assert {item.name: item.value for item in job.metadata}.items() >= expires.items()
    assert [tags.items() >= expires.items() for tags in found["containers"]] == [True] * 3
    ends = job.creation_time + job.constraints.max_wall_clock_time
    assert abs(ends - second) < timedelta(seconds=1)
    assert job.all_tasks_complete_mode == "terminatejob"
    (script,) = pool.start_task.resource_files
    (until,) = parse_qs(urlsplit(script.http_url).query)["se"]
    assert datetime.fromisoformat(until.replace("Z", "+00:00")) == second.replace(microsecond=0)


@pytest.mark.parametrize(
    ("clean_up", "awaited"), [({}, "pool"), ({**KEEP, "job": "delete"}, "job")], ids=["the pool", "the job alone"]
)
def test_what_is_still_being_deleted_is_waited_for(
    start: Start, clean_up: dict[str, str], awaited: str, caplog: pytest.LogCaptureFixture
) -> None:
    resumed = start(clean_up=clean_up)
    said = f"Waiting for the earlier {awaited} {resumed.run.name} to be gone"
    let_go: list[bool] = []

    def let_it_go() -> None:
        if said in caplog.messages and not let_go:
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
    assert Said.by(summary) == EXPECTED
    assert said in caplog.messages
    assert resumed.executions() == [("a.txt", 2), ("b.txt", 2), ("c.txt", 2)]


def test_nodes_of_a_kept_pool_that_could_not_fetch_the_script_do_not_keep_the_run_from_finishing(start: Start) -> None:
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
    assert Said.by(resumed.again()) == EXPECTED


def test_results_that_prefect_is_told_to_persist_skip_no_step_and_hold_no_sas(start: Start, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    resumed = start()
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True, PREFECT_LOCAL_STORAGE_PATH: storage}):
        resumed.first(after("5 add tasks"))
        summary = resumed.again()
    assert Said.by(summary) == EXPECTED
    assert {each.step for each in resumed.tries[1].reached} == {step.name for step in STEPS}
    # Prefect always keeps the error with which a flow run failed, and here nothing else.
    kept = [path.read_bytes() for path in storage.rglob("*")]
    (error,) = (pickle.loads(base64.b64decode(each)) for each in kept)
    assert isinstance(error, Broken)


# As processes, against a real Prefect server.


def files(tmp_path: Path) -> Path:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in TWO.items():
        (texts / name).write_text(text)
    return texts


def retry(deployed: Deployed, azure_settings: Mapping[str, str], flow_run: UUID, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "flow-run", "retry", str(flow_run), *more],
        cwd=DATA.parent,
        env={**deployed.environment, **azure_settings},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def named(azure_settings: Mapping[str, str], flow_run: UUID) -> list[str]:
    """What there is of the flow run's name in the accounts."""
    azure = Azure.from_environment(dict(azure_settings))
    assert azure
    name = Run(
        workload="top-words", flow_run_id=str(flow_run), started=datetime.now(timezone.utc), lifetime=timedelta()
    ).name
    with azure.batch() as batch, azure.blobs() as blobs:
        found = [pool.id for pool in batch.list_pools(select=["id"])] + [job.id for job in batch.list_jobs()]
        found += [container.name for container in blobs.list_containers()]
    return [each for each in found if each.startswith(name)]


def counts(results: Path) -> list[str]:
    (table,) = results.glob("*/summary.csv")
    return [",".join(line.split(",")[:4]) for line in table.read_text().splitlines()[1:]]


COUNTS = ["a.txt,1,the,3", "a.txt,2,cat,1", "b.txt,1,a,2", "b.txt,2,dog,1"]


def test_a_command_that_was_killed_is_finished_by_a_retry_of_its_flow_run(
    deployed: Deployed, azure_settings: dict[str, str], tmp_path: Path
) -> None:
    texts, results = files(tmp_path), tmp_path / "results"
    command = [sys.executable, "-m", "flows.top_words", str(texts), "--top-n", "2", "--nodes", "1", "--delay", "1"]
    with subprocess.Popen(
        [*command, "--output", str(results)],
        cwd=DATA.parent,
        env={**deployed.environment, **azure_settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        run = eventually(
            "the flow run", lambda: [each for each in deployed.runs() if each.parameters.get("inputs") == [str(texts)]]
        )[0]
        deployed.wait_for_log(run.id, "1 running")
        process.kill()
    assert named(azure_settings, run.id)
    # For this server it is still running: nobody was left to say otherwise, and no heartbeat is missed as yet.
    deployed.client.set_flow_run_state(run.id, Crashed(message="No heartbeat"), force=True)
    said = retry(deployed, azure_settings, run.id, "--entrypoint", "flows/top_words.py:top_words")
    assert "completed successfully" in said
    assert deployed.run(run.id).run_count == 2
    assert counts(results) == COUNTS
    eventually("the accounts being empty", lambda: not named(azure_settings, run.id), 10)
    (created,) = {line for line in deployed.logs(run.id) if re.match(r"Pool \S+ created", line)}
    assert len([line for line in deployed.logs(run.id) if re.match(r"Pool \S+ is there already", line)]) == 1, created


def test_a_deployed_run_that_was_killed_is_finished_by_a_retry(
    deployed: Deployed, azure_settings: dict[str, str], tmp_path: Path
) -> None:
    texts, results = files(tmp_path), tmp_path / "results"
    run = deployed.start(
        inputs=[str(texts)], top_n=2, output_folder=str(results), delay_seconds=1, pool={"dedicated_nodes": 1}
    )
    deployed.wait_for_log(run, "1 running")
    deployed.kill(run)
    deployed.wait(run, "Crashed")
    eventually("the hook's clean-up", lambda: not named(azure_settings, run))
    retry(deployed, azure_settings, run)
    deployed.wait(run, "Completed")
    assert deployed.run(run).run_count == 2
    assert counts(results) == COUNTS
    eventually("the accounts being empty", lambda: not named(azure_settings, run), 10)
