"""What the log, the task board and events say of a look at the Batch tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest

import tasks.watching.narrator
from tasks.errors import Stalled, TasksFailed
from tasks.errors.service import ServiceError
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.events import JobStalled, Payload, PoolReady, Preempted, RunEvents
from tasks.run.identity import RefusedSize, UsedPool
from tasks.run.outcomes import AddedTask, Cause, TaskOutcome
from tasks.watching.decide import Action, Decision
from tasks.watching.failures import Failures
from tasks.watching.limits import Limits
from tasks.watching.memory import Memory
from tasks.watching.narrator import Narrator
from tasks.watching.progress import Progress

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
TASKS = [AddedTask(id=f"task{n}", file=f"{n}.txt", earlier=n == 2) for n in range(3)]
POOL = UsedPool(id="pool", slots_per_node=1, own=True, vm_size="Standard_D2s_v3", dedicated_nodes=1, spot_nodes=2)
LIMITS = Limits(job_id="job", tasks=2, expires=NOON + timedelta(hours=2), lifetime=timedelta(hours=2), stall_minutes=30)
MEMORY = replace(Memory.start(POOL, LIMITS, NOON), last_status="the status")
RUNNING = Progress(total=2, completed=0, succeeded=0, failed=0, running=1, queued=1, earlier=1)
READY = PoolReady(pool_id="pool", vm_size="Standard_D2s_v3", dedicated_nodes=1, spot_nodes=2)

Shown = tuple[list[str] | None, int, int, str]


@dataclass
class Heard:
    """Stands for the board, the events and the failures, and remembers what they get."""

    narrator: Narrator = field(init=False)
    shown: list[Shown] = field(default_factory=list)
    events: list[Payload] = field(default_factory=list)

    def __post_init__(self) -> None:
        events, failures, board = cast(RunEvents, self), cast(Failures, self), cast(TaskBoard, self)
        self.narrator = Narrator("job", TASKS, events, failures, board)

    def show(
        self,
        outcomes: Sequence[TaskOutcome] | None,
        completed: int,
        total: int,
        status: str,
        outlook: str = "",
        rows_of: int = 0,
    ) -> None:
        states = None if outcomes is None else [outcome.state for outcome in outcomes]
        self.shown.append((states, completed, total, status + outlook))

    def emit(self, payload: Payload) -> bool:
        self.events.append(payload)
        return True

    def report(self, outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
        return list(outcomes)

    def close(self) -> None:
        pass


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Heard:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(tasks.watching.narrator, "get_run_logger", lambda: logging.getLogger("narrator"))
    return Heard()


def decision(memory: Memory = MEMORY, counts: Progress = RUNNING, **due: Any) -> Decision:
    return Decision(action=Action.GO_ON, memory=memory, counts=counts, **due)


def test_a_line_goes_to_the_log_and_its_status_to_the_board(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    heard.narrator.report(decision(line="No change since 12:00:00 UTC: the status", outlook="; 4 per minute"))
    heard.narrator.report(decision(outlook="; 5 per minute"))
    assert caplog.messages == ["No change since 12:00:00 UTC: the status"]
    assert heard.shown == [(None, 1, 3, "the status; 4 per minute")]


def test_listed_tasks_go_to_the_board_also_without_a_line(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    heard.narrator.report(decision(shown=[TaskOutcome.of(task, None) for task in TASKS]))
    assert caplog.messages == []
    assert heard.shown == [(["active", "active", "completed"], 1, 3, "the status")]


def test_a_run_that_ends_too_soon_is_a_warning_and_on_the_board(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    for warns in (True, False):
        heard.narrator.report(decision(line="the line", late="it is late", warns=warns))
    advice = "what is not done then can be done by a retry. Use more nodes, or a larger run_minutes"
    assert caplog.messages == ["the line", f"Job job: it is late; {advice}", "the line"]
    assert [shown[3] for shown in heard.shown] == ["the status; it is late"] * 2


def test_the_pool_is_ready_once_a_task_ran(heard: Heard) -> None:
    heard.narrator.report(decision(counts=replace(RUNNING, running=0, queued=2)))
    assert heard.events == []
    heard.narrator.report(decision())
    heard.narrator.report(decision())
    assert heard.events == [READY]


def test_preemptions_and_requeues_are_reported_as_they_come(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    lost = replace(MEMORY, preemptions=2, requeues=1)
    for memory in (lost, lost, replace(lost, preemptions=3)):
        heard.narrator.report(decision(memory))
    assert heard.events == [READY, Preempted(pool_id="pool", nodes=2), Preempted(pool_id="pool", nodes=1)]
    assert caplog.messages == [
        "2 spot nodes were preempted; their Batch tasks are requeued",
        "1 Batch tasks lost their node and are requeued; no retry is used up",
        "1 spot nodes were preempted; their Batch tasks are requeued",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_a_stalled_job_is_an_event(heard: Heard) -> None:
    stalled = Decision(action=Action.GIVE_UP, memory=MEMORY, problem=Stalled("nothing happened"))
    heard.narrator.report(stalled)
    assert heard.events == [JobStalled(job_id="job", pool_id="pool", since=NOON, reason="nothing happened")]


def test_outages_and_added_nodes_are_warnings(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    heard.narrator.report_outage(ServiceError("503 ServerBusy", code="ServerBusy", transient=True))
    heard.narrator.report_added_nodes(MEMORY.with_nodes_added(2, NOON, NOON), 10)
    why = "no Batch task made progress on spot nodes for 10 minutes"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Could not read task states, retrying: 503 ServerBusy"),
        ("WARNING", f"Pool pool: 2 dedicated nodes added, because {why}"),
    ]


def test_the_end_is_reported_by_the_tasks_and_not_by_the_counts(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    queued = [TaskOutcome.of(task, None) for task in TASKS[:2]]
    done = {each.id: replace(each, state="completed", succeeded=True, started=NOON) for each in queued}
    memory = replace(MEMORY, outcomes=done)
    outcomes = heard.narrator.report_end(memory, None)
    status = "2 of 2 Batch tasks completed (2 succeeded, 0 failed); 1 files done earlier"
    assert (heard.events, caplog.messages) == ([READY], [status])
    assert heard.shown == [(["completed"] * 3, 3, 3, status)]
    assert [outcome.succeeded for outcome in outcomes] == [True] * 3


def test_given_up_the_end_says_why_and_how_far_each_task_came(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    ran = replace(TaskOutcome.of(TASKS[0], None), requeues=1)
    outcomes = heard.narrator.report_end(
        replace(MEMORY, outcomes={"task0": ran}), TasksFailed("the pool is gone\nand more")
    )
    assert [outcome.cause for outcome in outcomes] == [Cause.NOT_RUN, Cause.NOT_STARTED, None]
    assert caplog.messages[-1] == (
        "0 of 2 Batch tasks completed (0 succeeded, 0 failed), 2 not completed; 1 files done earlier: the pool is gone"
    )


def test_another_vm_size_is_a_warning_and_on_the_board(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    refused = [RefusedSize(size="Standard_D2as_v5", why="AllocationFailed: Full.", brief="AllocationFailed")]
    pool = replace(POOL, refused_sizes=refused)
    heard.narrator.report_size(pool)
    refused.append(RefusedSize(size="Standard_E2as_v5", why="not offered", brief="InvalidPropertyValue"))
    heard.narrator.report_size_not_offered(pool)
    heard.narrator.report_size(pool)
    again = "Pool pool: now of VM size Standard_D2s_v3, asking for nodes again"
    assert caplog.messages == [
        "Pool pool: no nodes of VM size Standard_D2as_v5: AllocationFailed: Full.",
        again,
        "Pool pool: not changed to VM size Standard_E2as_v5: not offered",
        again,
    ]
    heard.narrator.report(decision(memory=replace(MEMORY, pool=pool), line="the line", outlook="; 4 per minute"))
    instead = "Standard_D2s_v3 instead of Standard_D2as_v5 (AllocationFailed), Standard_E2as_v5 (InvalidPropertyValue)"
    assert heard.shown[-1][3] == f"the status; 4 per minute; VM size {instead}"


def test_fewer_nodes_than_asked_for_are_a_warning_once(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    for fewer in ("got 1 of its 2 nodes", "got 1 of its 2 nodes", ""):
        heard.narrator.report(decision(fewer=fewer))
    assert caplog.messages == ["Pool pool: got 1 of its 2 nodes"]
