"""The loop of looks: outages, nodes that are added, a cancelled run, and what is read at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import cast

import pytest
from azure.batch.models import BatchJob, BatchNode, BatchPool
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ServiceRequestError

import tasks.watching.watch
from tasks.errors import Cancelled, RunError, TasksFailed
from tasks.errors.service import ServiceError
from tasks.run.budget import Budget
from tasks.run.identity import UsedPool
from tasks.run.outcomes import AddedTask, Monitored, TaskOutcome
from tasks.run.polling import Polling
from tasks.run.records import record_blob
from tasks.watching.decide import Decision
from tasks.watching.limits import Limits
from tasks.watching.memory import Memory
from tasks.watching.narrator import Narrator
from tasks.watching.progress import Progress
from tasks.watching.snapshot import Part, Snapshot, SnapshotReader
from tasks.watching.watch import LastSeen, Watch

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
TASKS = [AddedTask(id=f"task{n}", file=f"{n}.txt") for n in range(2)]
POOL = UsedPool(id="pool", slots_per_node=1, own=True)
LIMITS = Limits(job_id="job", tasks=2, expires=NOON + timedelta(hours=2), lifetime=timedelta(hours=2), stall_minutes=30)
LOST = ServiceRequestError("connection refused")
RUNS = Progress(total=2, completed=0, succeeded=0, failed=0, running=2, queued=0)
SCALES = {"enableAutoScale": True}
WAITS = replace(RUNS, running=0, queued=2)
DONE = replace(RUNS, running=0, completed=2, succeeded=2)


@dataclass
class Looked:
    """Stands for the reader and the narrator: a service that changes from one look to the next, minute by minute."""

    counts: Sequence[Progress | Exception | None]  # at each look; the last stays
    states: Sequence[str] | None = ("running", "running")  # None: the job is gone
    lists_tasks: bool = True
    files_done: Collection[str] = ()  # of which there are records
    minute: int = 0
    looks: int = 0
    outages: list[ServiceError] = field(default_factory=list)
    records_read: int = 0
    added: list[int] = field(default_factory=list)
    used: UsedPool = POOL
    refused: bool = False  # the pool has no nodes, for want of a quota; else they are preempted
    sizes: list[str] = field(default_factory=list)  # as they are reported
    deadlines: list[datetime | None] = field(default_factory=list)
    seen: LastSeen = field(default_factory=LastSeen)

    @property
    def tasks(self) -> list[AddedTask]:
        return [*TASKS, AddedTask(id="task2", file="2.txt", earlier=True)]

    def read(self, snapshot: Snapshot, part: Part) -> Snapshot:
        found = replace(snapshot, read=snapshot.read | {part})
        match part:
            case Part.COUNTS:
                counts = self.counts[min(self.looks, len(self.counts) - 1)]
                self.looks += 1
                if isinstance(counts, Exception):
                    raise counts
                return replace(found, counts=counts)
            case Part.TASKS | Part.SHOWN_TASKS | Part.LATEST_TASKS:
                if not self.lists_tasks:
                    raise LOST
                return replace(found, tasks=self._tasks(), read=found.read | {Part.TASKS})
            case Part.POOL if self.refused:
                return replace(found, pool=without_quota(self.now()))
            case Part.TASKS_ADDED:
                return replace(found, tasks_added=NOON)
            case Part.POOL:
                nodes = [BatchNode({"id": "node0", "state": "preempted"})]
                return replace(found, pool=BatchPool({"id": "pool", "state": "active", **SCALES}), nodes=nodes)
            case Part.JOB:
                return replace(found, job=None if self.states is None else BatchJob({"id": "job", "state": "active"}))
        return found

    def _tasks(self) -> dict[str, TaskOutcome] | None:
        if self.states is None:
            return None
        outcomes = [TaskOutcome.of(task, None) for task in TASKS]
        return {
            each.id: replace(each, state=state, succeeded=state == "completed")
            for each, state in zip(outcomes, self.states, strict=True)
        }

    def records(self) -> Collection[str]:
        self.records_read += 1
        return {record_blob(file) for file in self.files_done}

    def report(self, decision: Decision) -> None:
        pass

    def report_outage(self, failure: ServiceError) -> None:
        self.outages.append(failure)

    def report_added_nodes(self, memory: Memory, minutes: int | None) -> None:
        self.added.append(memory.pool.added_nodes)

    def report_deadline(self, memory: Memory) -> None:
        self.deadlines.append(memory.pool.nodes_until)

    def report_size(self, pool: UsedPool) -> None:
        self.sizes.append(pool.vm_size)

    def report_size_not_offered(self, pool: UsedPool) -> None:
        self.sizes.append(f"not {pool.refused_sizes[-1].size}")

    def report_end(self, memory: Memory, problem: RunError | None) -> list[TaskOutcome]:
        return [memory.outcome(task.id) or TaskOutcome.of(task, None) for task in TASKS]

    def now(self) -> datetime:
        return NOON + timedelta(minutes=self.minute)

    def sleep(self, seconds: float) -> None:
        self.minute += 1
        assert self.minute < 300

    def watched(
        self,
        limits: Limits = LIMITS,
        set_nodes: Callable[[datetime, int], None] = lambda until, added: None,
        use_size: Callable[[str, datetime, int], bool] = lambda size, until, added: True,
    ) -> Monitored:
        return Watch(
            reader=cast(SnapshotReader, self),
            narrator=cast(Narrator, self),
            limits=limits,
            polling=Polling(sleep=self.sleep, now=self.now),
            memory=Memory.start(self.used, limits, self.now(), self.seen.outcomes),
            seen=self.seen,
            set_nodes=set_nodes,
            use_size=use_size,
        ).until_the_end()


def without_quota(at: datetime) -> BatchPool:
    """A pool whose last allocation, just now, ended without a node."""
    return BatchPool(
        {
            "id": "pool",
            "state": "active",
            "allocationState": "steady",
            "enableAutoScale": True,
            "targetDedicatedNodes": 1,
            "autoScaleRun": {"timestamp": at.isoformat(), "results": "$TargetDedicatedNodes=1"},
            **dict.fromkeys(("lastModified", "allocationStateTransitionTime"), at.isoformat()),
            "resizeErrors": [{"code": "AccountVMSeriesCoreQuotaReached", "message": "No."}],
        }
    )


def succeeded(monitored: Monitored) -> list[bool]:
    return [outcome.succeeded for outcome in monitored.outcomes]


class NobodyCancels:
    def check(self, now: datetime) -> None:
        pass


@pytest.fixture(autouse=True)
def nobody_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.watching.watch, "Cancellation", NobodyCancels)


def test_all_completed_ends_without_a_problem() -> None:
    looked = Looked(counts=[RUNS, DONE], states=["completed"] * 2)
    monitored = looked.watched()
    assert (monitored.problem, succeeded(monitored), monitored.pool) == (None, [True, True], POOL)
    assert looked.seen.succeeded == 2
    assert [(id, each.succeeded, each.earlier) for id, each in sorted(looked.seen.outcomes.items())] == [
        ("task0", True, False),
        ("task1", True, False),
        ("task2", True, True),
    ]


def test_an_outage_that_passes_is_retried() -> None:
    looked = Looked(counts=[RUNS, LOST, LOST, LOST, DONE], states=["completed"] * 2)
    assert looked.watched().problem is None
    assert [str(outage) for outage in looked.outages] == ["no answer from the service: connection refused"] * 3


def test_counts_are_known_though_the_tasks_cannot_be_listed() -> None:
    looked = Looked(counts=[replace(RUNS, completed=1, succeeded=1, running=1)], lists_tasks=False)
    problem = looked.watched().problem
    assert isinstance(problem, ServiceError)
    since = "no response since 2026-11-22 12:00:00 UTC (stall_minutes is 30)"
    assert str(problem) == f"{since}: no answer from the service: connection refused"
    assert (looked.minute, looked.seen.succeeded) == (30, 1)


def test_of_a_job_that_is_gone_the_records_are_listed_once() -> None:
    looked = Looked(counts=[RUNS, None], states=None, files_done={"1.txt"})
    monitored = looked.watched()
    assert isinstance(monitored.problem, TasksFailed)
    assert str(monitored.problem).startswith(
        "job job is gone: somebody deleted it with 2 Batch tasks not completed; retry"
    )
    assert (succeeded(monitored), looked.records_read) == ([False, True], 1)


def test_a_job_that_vanishes_once_all_is_done_fails_nothing() -> None:
    looked = Looked(counts=[RUNS, None], states=None, files_done={"0.txt", "1.txt"})
    monitored = looked.watched()
    assert (monitored.problem, succeeded(monitored)) == (None, [True, True])
    assert [outcome.earlier for outcome in monitored.outcomes] == [True, True]


def test_given_up_the_last_listing_has_the_last_word() -> None:
    expired = replace(LIMITS, expires=NOON)
    assert Looked(counts=[RUNS], states=["completed", "running"]).watched(expired).problem is not None
    assert Looked(counts=[RUNS], states=["completed"] * 2).watched(expired).problem is None


def test_given_up_an_outage_is_not_waited_for() -> None:
    looked = Looked(counts=[RUNS, LOST], lists_tasks=False)
    assert isinstance(looked.watched(replace(LIMITS, expires=NOON)).problem, ServiceError)
    assert (looked.minute, looked.records_read) == (0, 1)


def test_a_run_that_somebody_cancels_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class SomebodyCancels:
        def check(self, now: datetime) -> None:
            if now > NOON:
                raise Cancelled("the flow run was cancelled in the Prefect UI")

    monkeypatch.setattr(tasks.watching.watch, "Cancellation", SomebodyCancels)
    looked = Looked(counts=[RUNS])
    assert isinstance(looked.watched().problem, Cancelled)
    assert looked.looks == 1


HELPED = replace(LIMITS, dedicated_after_minutes=10, added_nodes=1)


def test_nodes_are_added_once_the_pool_is_not_being_resized() -> None:
    asked: list[int] = []
    looked = Looked(counts=[WAITS] * 20 + [DONE], states=["completed"] * 2)
    waits = Looked(counts=[WAITS] * 20 + [DONE], states=["active"] * 2)

    def add_nodes(until: datetime, added: int) -> None:
        asked.append(waits.minute)
        if len(asked) == 1:
            error = ResourceExistsError("The pool is being resized")
            error.error_code = "PoolBeingResized"  # type: ignore[attr-defined]
            raise error
        waits.states = looked.states

    monitored = waits.watched(HELPED, add_nodes)
    assert (asked, waits.added, waits.outages) == ([10, 11], [1], [])
    assert (monitored.pool.added_nodes, monitored.pool.added_at) == (1, NOON + timedelta(minutes=11))


def test_a_pool_gets_a_later_deadline_once_it_is_not_being_resized() -> None:
    asked: list[tuple[datetime, int]] = []
    budget = Budget(limit=1.0, per_hour=1.2, spot_per_hour=1.2, source="a list")  # 0.02 a minute
    used = replace(POOL, dedicated_nodes=1, asked_at=NOON, nodes_until=NOON + timedelta(minutes=40))
    looked = Looked(counts=[RUNS] * 60 + [DONE], states=["completed"] * 2, used=used)

    def set_nodes(until: datetime, added: int) -> None:
        asked.append((until, added))
        if len(asked) == 1:
            error = ResourceExistsError("The pool is being resized")
            error.error_code = "PoolBeingResized"  # type: ignore[attr-defined]
            raise error

    monitored = looked.watched(replace(LIMITS, budget=budget), set_nodes)
    # At the 39th minute the nodes are read, and there was none that bills.
    assert asked == [(NOON + timedelta(minutes=79), 0), (NOON + timedelta(minutes=80), 0)]
    assert (monitored.pool.nodes_until, looked.deadlines) == (asked[1][0], [asked[1][0]])
    assert looked.seen.pool == monitored.pool


# Another VM size.

SIZED = replace(POOL, vm_size="Standard_D2as_v5", other_sizes=("Standard_D2s_v5", "Standard_D2ds_v5"))


def resized(*answers: bool | Exception, state: str = "completed") -> tuple[Looked, list[str], Monitored]:
    """A run whose pool answers so when it is to get another size, as often as it is asked."""
    looked = Looked(counts=[WAITS] * len(answers) + [DONE], states=[state] * 2, used=SIZED, refused=True)
    asked: list[str] = []
    left = list(answers)

    def use_size(size: str, until: datetime, added: int) -> bool:
        asked.append(size)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return looked, asked, looked.watched(use_size=use_size)


def refusal(code: str, *details: tuple[str, str]) -> HttpResponseError:
    error = HttpResponseError(message="No.")
    values = [SimpleNamespace(key=key, value=value) for key, value in details]
    error.model = SimpleNamespace(code=code, message=SimpleNamespace(value="No."), error_values=values)
    return error


def test_a_pool_is_given_one_size_after_the_other() -> None:
    looked, asked, monitored = resized(True, True)
    assert asked == looked.sizes == ["Standard_D2s_v5", "Standard_D2ds_v5"]
    assert (monitored.pool.vm_size, monitored.pool.other_sizes) == ("Standard_D2ds_v5", ())
    assert [each.size for each in monitored.pool.refused_sizes] == ["Standard_D2as_v5", "Standard_D2s_v5"]
    assert monitored.pool.asked_at == NOON + timedelta(minutes=1)


def test_a_size_is_asked_for_again_after_an_outage() -> None:
    looked, asked, monitored = resized(LOST, True)
    assert asked == ["Standard_D2s_v5"] * 2
    assert (len(looked.outages), monitored.pool.vm_size) == (1, "Standard_D2s_v5")


def test_a_pool_whose_nodes_have_come_meanwhile_keeps_its_size() -> None:
    looked, asked, monitored = resized(False)
    assert (asked, looked.sizes, monitored.pool) == (["Standard_D2s_v5"], [], SIZED)


def test_a_size_that_is_not_offered_is_followed_by_the_next() -> None:
    refused = refusal("InvalidPropertyValue", ("PropertyName", "vmSize"), ("PropertyValue", "standard_d2s_v5"))
    looked, _, monitored = resized(refused, True)
    assert looked.sizes == ["not Standard_D2s_v5", "Standard_D2ds_v5"]
    assert monitored.pool.instead_of == (
        "Standard_D2s_v5 (InvalidPropertyValue), Standard_D2as_v5 (AccountVMSeriesCoreQuotaReached)"
    )


def test_another_refusal_ends_watching() -> None:
    _, asked, monitored = resized(refusal("InvalidPropertyValue", ("PropertyName", "maxSize")), state="active")
    assert asked == ["Standard_D2s_v5"]
    assert isinstance(monitored.problem, ServiceError)
