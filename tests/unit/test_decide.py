"""What a look at the Batch tasks comes to, decided without a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from azure.batch.models import BatchJob, BatchPool

from tasks.errors import RunError, RunTimeout, Stalled, TasksFailed
from tasks.errors.advice import advice
from tasks.errors.codes import Where
from tasks.errors.service import ServiceError
from tasks.run.identity import UsedPool
from tasks.run.outcomes import TaskOutcome
from tasks.run.records import record_blob
from tasks.watching.decide import Action, outage_ends
from tasks.watching.limits import Limits
from tasks.watching.progress import Progress
from tasks.watching.snapshot import Part
from tests.support.watched import (
    DEDICATED,
    DONE,
    EXISTING,
    HELPED,
    LIMITS,
    NOON,
    OWN,
    QUEUED,
    RUNNING,
    TASKS,
    Service,
    Watched,
    counts,
    job,
    minute,
    node,
    pool,
    refused,
    scaled_pool,
    tasks,
)


def problem_of(service: Service, used: UsedPool = DEDICATED, limits: Limits = LIMITS, at: float = 0) -> RunError:
    decision = Watched(used, limits).look(service, at)
    assert decision.action is Action.GIVE_UP
    assert decision.problem is not None
    return decision.problem


def line_of(service: Service, used: UsedPool = DEDICATED, limits: Limits = LIMITS, at: float = 0) -> str:
    """What is logged while watching goes on."""
    decision = Watched(used, limits).look(service, at)
    assert decision.action is Action.GO_ON
    return decision.line


RETRY = "; retry the run: files that are done are not processed again"
WAITING = "0 of 2 Batch tasks completed (0 succeeded, 0 failed), 0 running, 2 queued; "
NONE_RUNS = Service(counts=counts(), tasks=tasks(QUEUED))


# What is read.


@pytest.mark.parametrize("used", [DEDICATED, OWN], ids=["dedicated", "spot"])
def test_a_look_reads_the_counts_alone_while_nothing_is_wrong(used: UsedPool) -> None:
    watched = Watched(used)
    watched.look(Service())
    assert watched.read == [Part.COUNTS, Part.SHOWN_TASKS]
    decision = watched.look(Service(), at=0.1)
    assert (decision.action, decision.line, decision.shown, watched.read) == (Action.GO_ON, "", None, [Part.COUNTS])


THOUSAND = replace(LIMITS, tasks=1_000)


def of_thousand(completed: int, *, running: int = 8, failed: int = 0) -> Service:
    progress = Progress(
        total=1_000,
        completed=completed,
        succeeded=completed - failed,
        failed=failed,
        running=running,
        queued=1_000 - completed - running,
    )
    return Service(counts=progress, tasks={}, preempted={})


def looks(used: UsedPool = DEDICATED, failed: Mapping[int, int] = {}) -> list[tuple[float, list[Part]]]:
    """The minutes of looks at a job that completes 12 tasks a minute, and what each read besides the counts."""
    found: list[tuple[float, list[Part]]] = []
    watched, at, all_failed = Watched(used, THOUSAND), 0.0, 0
    for look in range(240):
        all_failed += failed.get(look, 0)
        watched.memory = replace(watched.memory, next_look=timedelta(seconds=14))
        watched.look(of_thousand(look * 3, failed=all_failed), at)
        others: list[Part] = [part for part in watched.read if part is not Part.COUNTS]
        if others:
            found.append((at, others))
        at += 0.25
    return found


@pytest.mark.parametrize("used", [DEDICATED, OWN], ids=["dedicated", "spot"])
def test_a_job_that_makes_progress_is_listed_for_its_table_alone(used: UsedPool) -> None:
    found = looks(used)
    assert [parts for _, parts in found] == [[Part.SHOWN_TASKS]] * 24  # of 240 looks in an hour
    assert [at for at, _ in found[-4:]] == [41.75, 46.75, 51.75, 56.75]


def test_new_failures_are_listed_at_the_look_that_counts_them() -> None:
    silent, failing = looks(), looks(failed={201: 1, 203: 2})
    assert [look for look in failing if look not in silent][:2] == [
        (50.25, [Part.SHOWN_TASKS]),
        (50.75, [Part.SHOWN_TASKS]),
    ]


def test_failures_beyond_a_full_table_are_only_counted() -> None:
    assert len(looks(failed={201: 500})) == len(looks(failed={201: 500, 202: 1, 203: 1}))


def test_many_failures_are_listed_some_seconds_apart() -> None:
    watched, read = Watched(limits=THOUSAND), 0
    for look in range(101):  # five a second, for 20 seconds
        watched.look(of_thousand(look, failed=look), at=look / 300)
        read += Part.SHOWN_TASKS in watched.read
    assert read == 5


def test_after_a_hundred_failures_they_are_listed_with_the_table() -> None:
    watched = Watched(limits=THOUSAND)
    watched.look(of_thousand(200, failed=100))
    watched.look(of_thousand(201, failed=101), at=25)
    watched.look(of_thousand(202, failed=102), at=29)
    assert watched.read == [Part.COUNTS]
    watched.look(of_thousand(203, failed=103), at=30)
    assert watched.read == [Part.COUNTS, Part.SHOWN_TASKS]


def test_tasks_that_do_not_complete_are_read_with_each_line() -> None:
    watched = Watched(OWN, THOUSAND)
    watched.look(of_thousand(5))
    watched.look(of_thousand(5, running=7), at=0.5)
    assert watched.read == [Part.COUNTS, Part.SHOWN_TASKS, Part.PREEMPTED, Part.JOB]
    watched.look(of_thousand(5, running=7), at=0.6)
    assert watched.read == [Part.COUNTS]


def test_fewer_running_spot_tasks_are_a_reason_to_read_the_nodes() -> None:
    watched = Watched(OWN, THOUSAND)
    watched.look(of_thousand(5))
    watched.look(of_thousand(6, running=7), at=0.5)
    assert Part.PREEMPTED in watched.read
    watched.look(of_thousand(7), at=1)
    assert Part.PREEMPTED not in watched.read


def test_no_running_task_is_no_wait_where_some_have_completed() -> None:
    watched = Watched(limits=THOUSAND)
    watched.look(of_thousand(5))
    watched.look(of_thousand(9, running=0), at=0.05)
    assert watched.read == [Part.COUNTS]
    watched.look(of_thousand(9, running=0), at=0.06)
    assert Part.POOL in watched.read


# The estimate against the run's limit.


def test_a_run_that_ends_too_soon_is_warned_of_once() -> None:
    watched, warnings = Watched(limits=THOUSAND), []
    for look in range(100):
        decision = watched.look(of_thousand(look), at=look / 2)
        warnings += [(look / 2, decision.late)] if decision.warns else []
        if look == 30:
            assert (decision.outlook, decision.late) == (
                "; 2 per minute, about 8 h 5 min left",
                "at the speed so far the Batch tasks that are left need 8 h 5 min, but the run ends in 1 h 45 min "
                "(run_minutes is 120)",
            )
    assert warnings == [
        (
            5.0,
            "at the speed so far the Batch tasks that are left need 8 h 15 min, but the run ends in 1 h 55 min "
            "(run_minutes is 120)",
        )
    ]


def test_a_run_that_gets_far_slower_is_warned_of_again() -> None:
    watched, warned, completed = Watched(limits=THOUSAND), [], 0
    for minute_ in range(100):
        completed += 6 if minute_ < 20 else 1
        if watched.look(of_thousand(completed), at=minute_).warns:
            warned.append(minute_)
    assert warned == [5, 24, 33]


def test_a_run_that_is_fast_enough_is_not_warned_of() -> None:
    watched = Watched(limits=THOUSAND)
    assert not any(watched.look(of_thousand(look * 10), at=look).late for look in range(99))


def test_pool_and_job_are_read_while_no_task_runs() -> None:
    watched = Watched()
    watched.look(NONE_RUNS)
    watched.look(NONE_RUNS, at=0.1)
    assert watched.read == [Part.COUNTS, Part.POOL, Part.JOB]


def test_a_job_without_tasks_needs_no_look() -> None:
    watched = Watched(limits=replace(LIMITS, tasks=0))
    assert watched.look(Service()).action is Action.ALL_COMPLETED
    assert watched.read == []


# How it ends well.


def test_all_have_completed_once_the_tasks_themselves_have() -> None:
    watched = Watched()
    ahead = Service(counts=counts(completed=2), tasks=tasks(DONE, RUNNING))
    assert watched.look(ahead).action is Action.GO_ON
    assert watched.look(replace(ahead, tasks=tasks(DONE, DONE)), at=1).action is Action.ALL_COMPLETED


def test_a_job_that_ended_with_all_completed_needs_no_counts() -> None:
    behind = Service(counts=counts(), tasks=tasks(DONE, DONE), job=job("completed", "AllTasksComplete"))
    assert Watched().look(behind).action is Action.ALL_COMPLETED


def test_a_completed_task_stays_so_where_a_later_list_lacks_it() -> None:
    watched = Watched()
    watched.look(Service(counts=counts(running=1, completed=1), tasks=tasks(DONE, RUNNING)))
    last = Service(counts=counts(completed=2), tasks=tasks(QUEUED, DONE))
    assert watched.look(last, at=1).action is Action.ALL_COMPLETED


# What queued tasks wait for.


@pytest.mark.parametrize("state", ["creating", "starting", "waitingforstarttask", "idle", "preempted"])
def test_nodes_on_their_way_are_waited_for(state: str) -> None:
    assert line_of(replace(NONE_RUNS, nodes=[node(state)])) == f"{WAITING}nodes: 1 {state}"


def test_tasks_of_other_jobs_are_waited_for() -> None:
    busy = node("running", runningTasksCount=1, recentTasks=[])
    behind = "nodes: 1 running; they run 1 Batch tasks of other jobs first"
    assert line_of(replace(NONE_RUNS, nodes=[busy])) == WAITING + behind


def test_a_disabled_job_is_waited_for_with_how_to_enable_it() -> None:
    disabled = replace(NONE_RUNS, nodes=[node("idle")], job=job("disabled"))
    how = "job job is disabled; enable it with `az batch job enable --job-id job`"
    assert line_of(disabled) == f"{WAITING}nodes: 1 idle; {how}"


def test_an_allocation_that_azure_may_still_grant_is_waited_for() -> None:
    service = replace(NONE_RUNS, pool=scaled_pool(**refused("AllocationFailed")))
    reason = "Azure could not allocate: AllocationFailed: No."
    assert line_of(service) == f"{WAITING}pool pool is steady, no node yet; {reason}"
    resizing = replace(NONE_RUNS, pool=scaled_pool(allocationState="resizing"))
    assert line_of(resizing) == f"{WAITING}pool pool is resizing, no node yet"


def test_an_unchanged_status_is_logged_less_and_less_often() -> None:
    watched = Watched(limits=replace(LIMITS, stall_minutes=12))
    watched.memory = replace(watched.memory, next_look=timedelta(seconds=14))
    starting = replace(NONE_RUNS, nodes=[node("starting")])
    lines = [watched.look(starting, at=quarter / 4).line for quarter in range(48)]
    assert lines[0] == f"{WAITING}nodes: 1 starting"
    repeated = [line for line in lines[1:] if line]
    assert set(repeated) == {f"No change since 12:00:00 UTC: {lines[0]}"}
    assert len(repeated) == 19  # of 47 looks
    assert watched.look(starting, at=12).action is Action.GIVE_UP


def test_the_line_of_running_tasks_has_the_rate_and_the_time_left() -> None:
    watched = Watched()
    watched.look(Service(counts=counts(running=1)))
    line = watched.look(Service(counts=counts(running=1, completed=1), tasks=tasks(DONE, RUNNING)), at=2).line
    status = "1 of 2 Batch tasks completed (1 succeeded, 0 failed), 1 running, 0 queued"
    assert line == f"{status}; 0.5 per minute, about 2 min left"


# What will never come.


def test_a_start_task_failed_on_every_node_is_named_with_its_stderr() -> None:
    info = {"exitCode": 5, "failureInfo": {"category": "usererror", "code": "FailureExitCode", "message": "It failed."}}
    failed = replace(NONE_RUNS, nodes=[node("starttaskfailed", startTaskInfo=info)], stderr="\n  stderr: no disk")
    assert str(problem_of(failed)) == (
        "no node of pool pool can run tasks: all 1 are starttaskfailed; the start task ended with exit code 5: "
        "It failed.\n  stderr: no disk"
    )


def test_nodes_that_are_all_unusable_are_named() -> None:
    errors = [{"code": "NodeUnusable", "message": "It is."}]
    service = replace(NONE_RUNS, nodes=[node("unusable", errors=errors), node("unusable")])
    problem = problem_of(service)
    assert isinstance(problem, TasksFailed)
    assert str(problem) == "no node of pool pool can run tasks: all 2 are unusable; NodeUnusable: It is."


@pytest.mark.parametrize("code", ["AccountCoreQuotaReached", "ImageNotFound"])
def test_a_pool_that_can_get_no_nodes_is_named_with_the_reason(code: str) -> None:
    service = replace(NONE_RUNS, pool=scaled_pool(**refused(code)))
    hint = advice(Where.RESIZE, code)
    assert str(problem_of(service)) == f"pool pool got no nodes: {code}: No.{hint}"
    assert bool(hint) == (code == "AccountCoreQuotaReached")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, f"gone: somebody deleted it while Batch tasks were queued{RETRY}"),
        (pool(state="deleting"), "being deleted, and not by this run"),
    ],
)
def test_a_deleted_pool_is_named(found: BatchPool | None, reason: str) -> None:
    assert str(problem_of(replace(NONE_RUNS, pool=found))) == f"pool pool is {reason}"


def test_a_pool_resized_to_no_node_is_named() -> None:
    resized = replace(NONE_RUNS, pool=pool(targetDedicatedNodes=0))
    assert str(problem_of(resized)) == "pool pool has no nodes and a target of 0; resize it, or use another"


def test_a_formula_that_asks_for_no_nodes_any_more_is_named() -> None:
    changed = replace(NONE_RUNS, pool=scaled_pool(asked=0))
    assert str(problem_of(changed)) == "pool pool has no nodes, and its autoscale formula asks for no nodes any more"


def test_an_existing_pool_s_error_is_final_once_it_saw_the_tasks() -> None:
    quota = scaled_pool(**refused("AccountCoreQuotaReached"))
    older = replace(NONE_RUNS, pool=quota, tasks_added=minute(1))
    obstacle = "no node yet; Azure could not allocate: AccountCoreQuotaReached: No."
    assert line_of(older, EXISTING) == f"{WAITING}pool pool is steady, {obstacle}"
    later = replace(older, tasks_added=minute(-1))
    assert str(problem_of(later, EXISTING)).startswith("pool pool got no nodes: AccountCoreQuotaReached: No.; ask for ")


def test_the_status_before_an_obstacle_is_logged_with_it() -> None:
    decision = Watched().look(replace(NONE_RUNS, pool=None))
    assert decision.line == WAITING.removesuffix("; ")


# The job ends before its tasks.


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "job job is gone: somebody deleted it with 2 Batch tasks not completed" + RETRY),
        (job("deleting"), "job job is being deleted, and not by this run, with 2 Batch tasks not completed"),
    ],
)
@pytest.mark.parametrize("counted", [True, False])
def test_a_deleted_job_is_named(counted: bool, found: BatchJob | None, reason: str) -> None:
    listed = tasks(QUEUED) if found else None
    service = Service(counts=counts() if counted else None, tasks=listed, job=found, nodes=[node("idle")])
    problem = problem_of(service)
    assert isinstance(problem, TasksFailed)
    assert str(problem) == reason


def test_a_job_that_vanishes_between_two_requests_is_named() -> None:
    assert (
        str(problem_of(Service(tasks=None)))
        == "job job is gone: somebody deleted it with 2 Batch tasks not completed" + RETRY
    )


def test_a_terminated_job_is_named_with_reason_and_tasks_left() -> None:
    lagging = Service(counts=counts(), tasks=tasks(DONE), job=job("completed", "Enough"))
    problem = problem_of(lagging)
    assert isinstance(problem, TasksFailed)
    assert str(problem) == "job job ended (Enough) with 1 Batch tasks not completed"


def test_a_job_at_its_time_limit_is_a_timeout() -> None:
    over = Service(counts=counts(), tasks=tasks(QUEUED), job=job("terminating", "MaxWallClockTimeExpiry"))
    problem = problem_of(over)
    assert isinstance(problem, RunTimeout)
    assert (
        str(problem)
        == "job job ended (MaxWallClockTimeExpiry) with 2 Batch tasks not completed; raise limits.run_minutes"
    )


def test_a_job_that_ends_while_counts_say_running_is_noticed() -> None:
    """At the latest with the next line of the log."""
    watched = Watched()
    watched.look(Service())
    ended = Service(job=job("completed", "Enough"), tasks=tasks(QUEUED))
    assert watched.look(ended, at=0.1).action is Action.GO_ON
    assert watched.look(ended, at=0.6).action is Action.GIVE_UP


def test_a_deleted_first_task_is_named_where_its_time_matters() -> None:
    scaled = replace(NONE_RUNS, pool=scaled_pool(), tasks_added=None)
    assert str(problem_of(scaled, EXISTING)) == "the first Batch task of job job is gone: somebody deleted it" + RETRY
    gone = replace(scaled, job=None)
    assert (
        str(problem_of(gone, EXISTING))
        == "job job is gone: somebody deleted it with 2 Batch tasks not completed" + RETRY
    )


# Limits.


@pytest.mark.parametrize(("lists_tasks", "left"), [(True, 1), (False, 2)], ids=["tasks listed", "counts alone"])
def test_the_run_limit_is_a_timeout_that_says_how_many_are_left(lists_tasks: bool, left: int) -> None:
    watched = Watched()
    watched.look(Service(counts=counts(running=2), tasks=tasks(RUNNING, RUNNING)), at=119.9)
    service = Service(counts=counts(running=2), tasks=tasks(DONE, RUNNING), lists_tasks=lists_tasks)
    decision = watched.look(service, at=120)
    assert isinstance(decision.problem, RunTimeout)
    assert str(decision.problem) == f"the run reached its limit of 2:00:00 with {left} Batch tasks not completed"


def test_no_progress_for_too_long_is_stalled_with_the_obstacle() -> None:
    watched = Watched()
    watched.look(Service(counts=counts(running=1), tasks=tasks(RUNNING)))
    waits = replace(NONE_RUNS, nodes=[node("idle")], job=job("disabled"))
    assert watched.look(waits, at=29.9).action is Action.GO_ON
    decision = watched.look(waits, at=30)
    assert isinstance(decision.problem, Stalled)
    assert str(decision.problem) == (
        f"no Batch task has made progress since 2026-11-22 12:00:00 UTC (stall_minutes is 30); {WAITING}"
        "nodes: 1 idle; job job is disabled; enable it with `az batch job enable --job-id job`"
    )


def test_a_running_task_is_progress_however_long_it_takes() -> None:
    watched = Watched()
    assert [watched.look(Service(), at=at).action for at in (0, 40, 80)] == [Action.GO_ON] * 3


def test_counts_that_lag_behind_the_tasks_are_no_stall() -> None:
    watched = Watched()
    watched.look(replace(NONE_RUNS, nodes=[node("idle")]))
    lagging = replace(NONE_RUNS, tasks=tasks(DONE), nodes=[node("idle")])
    assert watched.look(lagging, at=30).action is Action.GO_ON
    assert watched.look(lagging, at=59).action is Action.GO_ON
    assert isinstance(watched.look(lagging, at=60).problem, Stalled)


def test_a_stall_is_found_also_where_the_tasks_cannot_be_listed() -> None:
    watched = Watched()
    starting = replace(NONE_RUNS, nodes=[node("starting")])
    watched.look(starting)
    watched.look(starting, at=29.9)
    assert isinstance(watched.look(replace(starting, lists_tasks=False), at=30).problem, Stalled)


# Outages.


def failure(*, transient: bool) -> ServiceError:
    return ServiceError("Azure Batch answered 503 ServerBusy: Wait.", code="ServerBusy", transient=transient)


@pytest.mark.parametrize(("at", "ends"), [(0, False), (29.9, False), (30, True)])
def test_an_outage_is_tolerated_for_as_long_as_a_stall(at: float, ends: bool) -> None:
    found = outage_ends(failure(transient=True), Watched().memory, LIMITS, minute(at))
    assert (found is not None) == ends
    if found:
        since = "no response since 2026-11-22 12:00:00 UTC (stall_minutes is 30)"
        assert str(found) == f"{since}: Azure Batch answered 503 ServerBusy: Wait."
        assert (found.code, found.transient) == ("ServerBusy", False)


def test_an_outage_is_not_tolerated_beyond_the_run_limit() -> None:
    memory = replace(Watched().memory, last_response=minute(119))
    assert outage_ends(failure(transient=True), memory, LIMITS, minute(119.5)) is None
    assert outage_ends(failure(transient=True), memory, LIMITS, minute(120)) is not None


def test_a_refusal_ends_watching_at_once() -> None:
    found = outage_ends(failure(transient=False), Watched().memory, LIMITS, NOON)
    assert str(found) == "Azure Batch answered 503 ServerBusy: Wait."


# Spot nodes.


PREEMPTED = replace(NONE_RUNS, nodes=[node("preempted")], preempted={"node0_p": NOON})


def test_dedicated_nodes_are_added_once_spot_nodes_bring_nothing() -> None:
    watched = Watched(OWN, HELPED)
    assert [watched.look(PREEMPTED, at=at).action for at in (0, 9.9)] == [Action.GO_ON] * 2
    assert watched.look(PREEMPTED, at=10).action is Action.ADD_DEDICATED
    watched.memory = watched.memory.with_nodes_added(1, LIMITS.expires, minute(10))
    assert watched.memory.pool.nodes == 2
    assert watched.look(PREEMPTED, at=11).action is Action.GO_ON
    assert watched.look(PREEMPTED, at=39.9).action is Action.GO_ON  # they get their time, too
    assert isinstance(watched.look(PREEMPTED, at=40).problem, Stalled)


@pytest.mark.parametrize(
    ("used", "limits"),
    [(OWN, LIMITS), (replace(OWN, own=False), HELPED)],
    ids=["without being allowed", "to an existing pool"],
)
def test_no_dedicated_nodes_are_added(used: UsedPool, limits: Limits) -> None:
    watched = Watched(used, limits)
    assert [watched.look(PREEMPTED, at=at).action for at in (0, 10, 29.9)] == [Action.GO_ON] * 3
    problem = watched.look(PREEMPTED, at=30).problem
    assert isinstance(problem, Stalled)
    assert str(problem).endswith("nodes: 1 preempted")


def test_nodes_that_a_resizing_pool_refuses_delay_no_stall() -> None:
    watched = Watched(OWN, HELPED)
    assert watched.look(PREEMPTED, at=10).action is Action.ADD_DEDICATED
    watched.memory = replace(watched.memory, resize_refused=True)
    assert watched.look(PREEMPTED, at=20).action is Action.ADD_DEDICATED
    assert isinstance(watched.look(PREEMPTED, at=30).problem, Stalled)


@pytest.mark.parametrize("code", ["AccountLowPriorityCoreQuotaReached", "AllocationFailed"])
def test_spot_nodes_that_azure_does_not_grant_are_replaced(code: str) -> None:
    watched = Watched(OWN, HELPED)
    unallocated = replace(NONE_RUNS, pool=scaled_pool(**refused(code)))
    assert watched.look(unallocated).action is Action.GO_ON
    assert watched.look(unallocated, at=10).action is Action.ADD_DEDICATED


def test_a_used_up_spot_quota_is_final_without_dedicated_nodes() -> None:
    code = "AccountLowPriorityCoreQuotaReached"
    service = replace(NONE_RUNS, pool=scaled_pool(**refused(code)))
    assert str(problem_of(service, OWN)) == f"pool pool got no nodes: {code}: No.{advice(Where.RESIZE, code)}"


def started(at: float) -> dict[str, TaskOutcome]:
    return tasks(replace(RUNNING, started=minute(at)))


def test_tasks_that_keep_losing_their_nodes_make_no_progress() -> None:
    watched = Watched(OWN, HELPED)
    actions = [watched.look(Service(tasks=started(at)), at=at).action for at in range(13)]
    assert actions[:11] == [Action.GO_ON] * 11
    assert Action.ADD_DEDICATED in actions[11:]
    assert Part.RUNNING_TASKS in watched.read


def test_a_preempted_node_is_counted_once() -> None:
    watched = Watched(OWN)
    watched.look(Service())
    taken = Service(counts=counts(), tasks=tasks(QUEUED), preempted={"a_p": minute(1)}, nodes=[node("preempted")])
    for at in (1, 2):
        watched.look(taken, at=at)
    assert (watched.memory.preemptions, watched.memory.requeues) == (1, 1)
    watched.look(Service(tasks=started(3)), at=3)
    assert (watched.memory.preemptions, watched.memory.requeues) == (1, 1)
    watched.look(taken, at=4)
    assert (watched.memory.preemptions, watched.memory.requeues) == (2, 2)


def test_a_preemption_is_counted_also_while_other_nodes_work() -> None:
    watched = Watched(OWN)
    watched.look(Service(counts=counts(running=2)))
    watched.look(Service(preempted={"a_p": minute(1)}), at=1)
    assert watched.memory.preemptions == 1


def test_a_preemption_between_two_looks_is_counted() -> None:
    watched = Watched(OWN)
    watched.look(Service())
    done = replace(DONE, started=minute(1), node="b_p")
    last = Service(counts=counts(completed=2), tasks=tasks(done, DONE))
    assert watched.look(last, at=2).action is Action.ALL_COMPLETED
    assert (watched.memory.preemptions, watched.memory.requeues) == (1, 1)
    assert [outcome.requeues for outcome in watched.memory.outcomes.values()] == [1, 0]


def test_a_removed_dedicated_node_is_a_requeue_and_no_preemption() -> None:
    watched = Watched()
    running = replace(RUNNING, node="a_d")
    watched.look(Service(tasks=tasks(running)))
    watched.look(Service(counts=counts(), tasks=tasks(QUEUED), nodes=[node("idle")]), at=1)
    assert (watched.memory.preemptions, watched.memory.requeues) == (0, 1)


def test_a_node_preempted_before_the_tasks_is_not_counted() -> None:
    watched = Watched(OWN)
    watched.look(replace(PREEMPTED, preempted={"a_p": minute(-1), "b_p": None}))
    assert watched.memory.preemptions == 1
    assert Part.TASKS_ADDED in watched.read


def test_of_a_job_that_is_gone_a_record_proves_a_success() -> None:
    memory = Watched().memory.with_records(TASKS, {record_blob("1.txt"), "other"})
    assert [(each.id, each.succeeded, each.earlier) for each in memory.outcomes.values()] == [("task1", True, True)]
    assert memory.left == 1


# VM sizes.

SIZED = replace(
    DEDICATED, vm_size="Standard_D2as_v5", other_sizes=("Standard_D2s_v5", "Standard_D2ds_v5"), dedicated_nodes=1
)


def unallocated(code: str, at: float = 0) -> Service:
    """A pool whose last allocation, of that minute, ended with this code."""
    time = minute(at).isoformat()
    run = {"timestamp": time, "results": "$TargetDedicatedNodes=1"}
    found = pool(enableAutoScale=True, autoScaleRun=run, lastModified=time, allocationStateTransitionTime=time)
    return replace(NONE_RUNS, pool=BatchPool({**found, **refused(code)}))


def test_a_used_up_family_quota_gives_the_pool_its_next_size_at_once() -> None:
    watched = Watched(SIZED)
    decision = watched.look(unallocated("AccountVMSeriesCoreQuotaReached"))
    assert decision.action is Action.NEXT_SIZE
    assert decision.memory.changing
    assert decision.memory.changing.size == "Standard_D2s_v5"
    watched.memory = watched.memory.with_size(LIMITS.expires, minute(0.1))
    assert (watched.memory.pool.vm_size, watched.memory.changing) == ("Standard_D2s_v5", None)
    stale = unallocated("AccountVMSeriesCoreQuotaReached")
    assert stale.pool is not None
    stale.pool.last_modified = minute(0.1)  # by the new size; no allocation has ended since
    decision = watched.look(stale, at=0.2)
    assert decision.action is Action.GO_ON
    assert "VM size Standard_D2s_v5 instead of Standard_D2as_v5 (AccountVMSeriesCoreQuotaReached)" in decision.line


def test_a_change_of_size_that_failed_is_tried_again_before_all_else() -> None:
    watched = Watched(SIZED)
    service = unallocated("AccountVMSeriesCoreQuotaReached")
    assert watched.look(service).action is Action.NEXT_SIZE
    assert service.pool is not None
    service.pool.enable_auto_scale = False  # as it is in the middle of the change
    assert watched.look(service, at=0.5).action is Action.NEXT_SIZE
    assert isinstance(watched.look(service, at=120).problem, RunTimeout)


def test_a_lack_of_capacity_gets_a_second_evaluation_first() -> None:
    watched = Watched(SIZED)
    actions = [watched.look(unallocated("AllocationFailed", at=at), at=at).action for at in (1, 5, 6.9, 7)]
    assert actions == [Action.GO_ON] * 3 + [Action.NEXT_SIZE]


def test_a_short_stall_limit_leaves_time_for_another_size() -> None:
    watched = Watched(SIZED, replace(LIMITS, stall_minutes=4))
    actions = [watched.look(unallocated("AllocationFailed", at=at), at=at).action for at in (0, 1.9, 2)]
    assert actions == [Action.GO_ON] * 2 + [Action.NEXT_SIZE]


def test_the_last_size_waits_for_capacity_as_an_only_one_does() -> None:
    watched = Watched(replace(SIZED, other_sizes=()))
    assert [watched.look(unallocated("AllocationFailed", at=at), at=at).action for at in (0, 29.9)] == [
        Action.GO_ON,
        Action.GO_ON,
    ]
    assert isinstance(watched.look(unallocated("AllocationFailed", at=30), at=30).problem, Stalled)


def test_each_size_has_the_whole_time_for_a_stall() -> None:
    watched = Watched(SIZED)
    assert watched.look(unallocated("AllocationTimedout", at=29), at=29).action is Action.NEXT_SIZE
    watched.memory = watched.memory.with_size(LIMITS.expires, minute(29))
    resizing = replace(NONE_RUNS, pool=scaled_pool(allocationState="resizing"))
    assert [watched.look(resizing, at=at).action for at in (30, 58.9)] == [Action.GO_ON] * 2
    assert isinstance(watched.look(resizing, at=59).problem, Stalled)


def test_formulas_are_half_a_minute_apart() -> None:
    watched = Watched(SIZED)
    assert watched.look(unallocated("AccountVMSeriesCoreQuotaReached")).action is Action.NEXT_SIZE
    watched.memory = watched.memory.with_size(LIMITS.expires, minute(0))
    again = unallocated("AccountVMSeriesCoreQuotaReached", at=0.1)
    assert [watched.look(again, at=at).action for at in (0.2, 0.5, 0.6)] == [Action.GO_ON] * 2 + [Action.NEXT_SIZE]


def test_a_pool_with_a_node_keeps_its_size() -> None:
    service = replace(unallocated("AccountVMSeriesCoreQuotaReached"), nodes=[node("starting")])
    decision = Watched(replace(SIZED, dedicated_nodes=2)).look(service)
    assert decision.action is Action.GO_ON
    assert "nodes: 1 starting; Azure could not allocate: AccountVMSeriesCoreQuotaReached: No." in decision.line
    assert decision.fewer == "got 1 of its 2 nodes and goes on with them: AccountVMSeriesCoreQuotaReached: No."


def test_with_all_sizes_refused_each_reason_is_named() -> None:
    watched = Watched(SIZED)
    for at, size in enumerate(("Standard_D2s_v5", "Standard_D2ds_v5")):
        watched.look(unallocated("AccountVMSeriesCoreQuotaReached", at=at), at=at)
        watched.memory = watched.memory.with_size(LIMITS.expires, minute(at))
        assert watched.memory.pool.vm_size == size
    problem = watched.look(unallocated("AccountCoreQuotaReached", at=2), at=2).problem
    assert isinstance(problem, TasksFailed)
    expected = (
        "Standard_D2as_v5, Standard_D2s_v5: AccountVMSeriesCoreQuotaReached: No.; "
        "Standard_D2ds_v5: AccountCoreQuotaReached: No."
    )
    assert str(problem).startswith(
        f"pool pool got no nodes of any of its VM sizes: {expected}; ask for a higher quota in the Azure portal, "
    )


def test_an_existing_pool_keeps_its_size() -> None:
    assert isinstance(problem_of(unallocated("AccountVMSeriesCoreQuotaReached", at=1), EXISTING, at=2), TasksFailed)
