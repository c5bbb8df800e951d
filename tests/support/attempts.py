"""Attempts of a flow run that end where a test wants them to, and the fixtures that make steps and nodes obey."""

from __future__ import annotations

import contextvars
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

import tasks.direct_clean_up
import tasks.lifecycle
import tasks.record
import tasks.reporting.artifacts
import tasks.resources.clean_up
import tasks.stopped
from flows.top_words import top_words
from tasks.run.identity import Run
from tasks.run.polling import Polling
from tasks.run.scripts import NODE_SCRIPTS, RUN_FILE
from tasks.run.settings import TimeLimits
from tests.support.accounts import azure_with_faults
from tests.support.steps import STEPS

LIMIT = 60.0  # seconds

# Written to the nodes instead of run_file.py: records that it runs, then becomes run_file.py. It waits, or fails, while
# there is a file that says so.
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
class Attempt:
    """One attempt of a flow run: where it ends, what happens on its way, and which boundaries it has reached."""

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


current_attempt: contextvars.ContextVar[Attempt] = contextvars.ContextVar("current_attempt")


def before(step: str) -> Boundary:
    return Boundary(When.BEFORE, step)


def after(step: str) -> Boundary:
    return Boundary(When.AFTER, step)


def _watched(name: str, function: Callable[..., Any], script: Path) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if name == "2 upload files":
            args = (*args[:3], {**args[3], RUN_FILE: script}, *args[4:])
        present = current_attempt.get()
        with present.turn:
            present.reach(before(name))
            result = function(*args, **kwargs)
            present.reach(after(name))
            return result

    return call


def _while_alive(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        current_attempt.get().still_alive()
        return function(*args, **kwargs)

    return call


def _ticks(polling: Polling, *_: object) -> Iterator[float]:
    began = time.monotonic()
    while (waited := time.monotonic() - began) < LIMIT:
        yield waited
        current_attempt.get().while_waiting()
        time.sleep(0.03)
    raise AssertionError("waited for too long")


def _start(flow_run_id: str, workload: str, limits: TimeLimits) -> Run:
    lifetime = timedelta(minutes=limits.run_minutes)
    return Run(workload="top-words", flow_run_id=flow_run_id, started=current_attempt.get().began, lifetime=lifetime)


@pytest.fixture(scope="module")
def slow_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A local Azure for these tests, which can be made slow."""
    with azure_with_faults(tmp_path_factory.mktemp("azure")) as settings:
        yield settings


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Controls what the nodes run, and records it."""

    folder: Path

    @property
    def script(self) -> Path:
        return self.folder / RUN_FILE

    def fail(self, run: Run, file: str) -> Path:
        """Make the file's Batch tasks fail until the returned file is gone."""
        return self._make("fail", run, file)

    def hold(self, run: Run, file: str) -> Path:
        """Make the file's Batch tasks wait until the returned file is gone."""
        return self._make("hold", run, file)

    def _make(self, what: str, run: Run, file: str) -> Path:
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
    nodes.script.write_text(_PROBE.format(folder=str(folder), limit=LIMIT, script=str(NODE_SCRIPTS / RUN_FILE)))
    return nodes


@pytest.fixture(scope="module")
def watched(prefect_server: None, slow_settings: dict[str, str], nodes: Nodes) -> Iterator[None]:
    """Each attempt of the flow does as its Attempt says. Waits are short, and no hook runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slow_settings.items():
            patch.setenv(name, value)
        for step in STEPS.values():
            patch.setattr(step, "fn", _watched(step.name, step.fn, nodes.script))
            patch.setattr(step, "retry_delay_seconds", 0)
            patch.setattr(step, "retry_jitter_factor", None)
        patch.setattr(tasks.record.RunRecord, "close", _while_alive(tasks.record.RunRecord.close))
        patch.setattr(tasks.direct_clean_up, "clean_up_after", _while_alive(tasks.resources.clean_up.clean_up_after))
        patch.setattr(tasks.lifecycle, "fetch_finished", _while_alive(tasks.stopped.fetch_finished))
        patch.setattr(Run, "start", _start)
        patch.setattr(Polling, "ticks", _ticks)
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
