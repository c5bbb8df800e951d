from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from azure.batch import models as m
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError

from tests.support.batch_service import (
    SLOW,
    create_job,
    create_pool,
    run_task,
    shell,
    stdout,
    task,
    wait_for,
    wait_for_task,
)

UNLIMITED_DAYS = 10675199
TERMINATE: Any = {"terminateReason": "Enough"}


def wait_for_job(client, state: str, job: str = "job") -> m.BatchJob:
    def look() -> m.BatchJob | None:
        found = client.get_job(job)
        return found if found.state == state else None

    return wait_for(look)


def test_defaults_are_shown(client):
    create_job(client, "Job", "no-such-pool")
    job = client.get_job("jOB")
    assert (job.id, job.state, job.priority, job.max_parallel_tasks) == ("Job", "active", 0, -1)
    assert job.uses_task_dependencies is False
    assert job.allow_task_preemption is False
    assert (job.all_tasks_complete_mode, job.task_failure_mode) == ("noaction", "noaction")
    assert job.constraints.max_wall_clock_time.days == UNLIMITED_DAYS
    assert job.constraints.max_task_retry_count == 0
    assert job.execution_info.pool_id == "no-such-pool"
    assert job.execution_info.end_time is None


def test_tasks_of_a_job_wait_for_its_pool(client):
    create_job(client, pool_id="later")
    client.create_task("job", task())
    assert client.get_task("job", "task").state == "active"
    create_pool(client, "later")
    wait_for_task(client)


def test_job_ends_with_its_last_task_once_that_is_wanted(client):
    create_pool(client)
    create_job(client)
    client.create_tasks("job", [task("one", "/bin/sleep 0.1"), task("two", "/bin/false")])
    client.update_job("job", m.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    job = wait_for_job(client, "completed")
    assert job.execution_info.termination_reason == "AllTasksComplete"
    assert job.execution_info.end_time is not None
    assert job.previous_state == "terminating"
    assert [item.state for item in client.list_tasks("job")] == ["completed", "completed"]


def test_job_that_the_service_ends_has_a_new_etag(client):
    """Its state counts as its data, as the documentation of lastModified says; its tasks do not."""
    create_pool(client)
    create_job(client)
    created = client.get_job("job")
    run_task(client, "/bin/true")
    assert client.get_job("job").etag == created.etag
    client.update_job("job", m.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    ended = wait_for_job(client, "completed")
    assert ended.last_modified == ended.state_transition_time
    assert ended.etag > created.etag
    with pytest.raises(ResourceModifiedError) as refusal:
        client.begin_delete_job("job", etag=created.etag, match_condition=MatchConditions.IfNotModified)
    assert refusal.value.error.code == "ConditionNotMet"


def test_job_at_its_time_limit_or_disabled_by_a_task_has_a_new_etag(service, client):
    create_pool(client)
    create_job(client, "limited", constraints=m.BatchJobConstraints(max_wall_clock_time=timedelta(hours=1)))
    create_job(client, "disabled", task_failure_mode="performexitoptionsjobaction")
    before = {job.id: job.etag for job in client.list_jobs()}
    failing = m.ExitConditions(default=m.ExitOptions(job_action="disable"))
    client.create_task("disabled", task("task", "/bin/false", exit_conditions=failing))
    disabled = wait_for_job(client, "disabled", "disabled")
    service.advance(hours=2)
    limited = wait_for_job(client, "completed", "limited")
    assert disabled.last_modified == disabled.state_transition_time
    assert limited.last_modified == limited.state_transition_time
    assert disabled.etag > before["disabled"]
    assert limited.etag > before["limited"]


def test_job_without_tasks_ends_at_once_with_terminatejob(client):
    create_job(client, all_tasks_complete_mode="terminatejob")
    assert wait_for_job(client, "completed").execution_info.termination_reason == "AllTasksComplete"


def test_terminated_job_ends_what_runs_and_leaves_what_waits(client):
    create_pool(client)
    create_job(client)
    client.create_tasks("job", [task("b", "/bin/sleep 60"), task("a", "/bin/sleep 60")])
    running = wait_for(lambda: next(iter(client.list_tasks("job", filter="state eq 'running'")), None))
    client.begin_terminate_job("job", TERMINATE, polling_interval=0.02).result()
    job = client.get_job("job")
    assert (job.state, job.execution_info.termination_reason) == ("completed", "Enough")
    ended = client.get_task("job", running.id)
    assert (ended.state, ended.execution_info.result) == ("completed", "failure")
    assert (ended.execution_info.failure_info.category, ended.execution_info.failure_info.code) == (
        "UserError",
        "TaskEnded",
    )
    assert sorted(item.state for item in client.list_tasks("job")) == ["active", "completed"]
    with pytest.raises(ResourceExistsError) as refusal:
        client.create_task("job", task("late"))
    assert refusal.value.error.code == "JobCompleted"


def test_deleted_job_is_deleting_before_it_is_gone(start_service):
    service = start_service(SLOW)
    client = service.client()
    create_job(client)
    client.begin_delete_job("job")
    assert client.get_job("job").state == "deleting"
    for change in (
        lambda: client.begin_delete_job("job"),
        lambda: client.update_job("job", m.BatchJobUpdateOptions(priority=1)),
        lambda: client.create_task("job", task()),
        lambda: create_job(client),
    ):
        with pytest.raises(ResourceExistsError) as refusal:
            change()
        assert refusal.value.error.code == "JobBeingDeleted"
    service.advance(seconds=61)
    wait_for(lambda: not list(client.list_jobs()))
    with pytest.raises(ResourceNotFoundError) as missing:
        client.get_job("job")
    assert missing.value.error.code == "JobNotFound"


def test_deleting_a_job_removes_its_tasks_and_their_files(client, service):
    (node,) = create_pool(client)
    create_job(client)
    run_task(client, shell("echo x > file"))
    files = service.data / "nodes" / "pool" / node.id / "workitems" / "job"
    assert files.exists()
    client.begin_delete_job("job", polling_interval=0.02).result()
    wait_for(lambda: not files.exists())
    create_job(client)
    assert list(client.list_tasks("job")) == []


def test_job_is_terminated_at_its_time_limit(start_service):
    service = start_service()
    client = service.client()
    create_job(client, constraints=m.BatchJobConstraints(max_wall_clock_time=timedelta(hours=1)))
    service.advance(minutes=59)
    assert client.get_job("job").state == "active"
    service.advance(minutes=2)
    assert wait_for_job(client, "completed").execution_info.termination_reason == "MaxWallClockTimeExpiry"


@pytest.mark.parametrize(
    ("option", "state", "requeues"), [("requeue", "active", 1), ("terminate", "completed", 0), ("wait", "completed", 0)]
)
def test_disabling_a_job_applies_the_option_to_running_tasks(client, option, state, requeues):
    create_pool(client)
    create_job(client)
    client.create_task("job", task("task", "/bin/sleep 0.5" if option == "wait" else "/bin/sleep 60"))
    wait_for_task(client, state="running")
    client.begin_disable_job("job", m.BatchJobDisableOptions(disable_tasks=option), polling_interval=0.02).result()
    assert client.get_job("job").state == "disabled"
    found = client.get_task("job", "task")
    assert (found.state, found.execution_info.requeue_count) == (state, requeues)
    client.create_task("job", task("late"))
    assert client.get_task("job", "late").state == "active"
    client.begin_enable_job("job", polling_interval=0.02).result()
    if state == "active":
        wait_for_task(client, state="running")
    else:
        wait_for_task(client, "late")


def test_patch_replaces_the_constraints_as_a_whole(client):
    """As in a recorded exchange with Azure."""
    create_job(client, constraints=m.BatchJobConstraints(max_task_retry_count=5))
    limit = m.BatchJobConstraints(max_wall_clock_time=timedelta(days=1))
    client.update_job("job", m.BatchJobUpdateOptions(constraints=limit))
    constraints = client.get_job("job").constraints
    assert (constraints.max_wall_clock_time, constraints.max_task_retry_count) == (timedelta(days=1), 0)


def test_a_job_manager_has_the_retries_of_its_job(client):
    manager = m.BatchJobManagerTask(id="manager", command_line="/bin/true")
    create_job(client, job_manager_task=manager, constraints=m.BatchJobConstraints(max_task_retry_count=5))
    assert client.get_job("job").job_manager_task.constraints.max_task_retry_count == 5
    assert client.get_task("job", "manager").constraints.max_task_retry_count == 5


@pytest.mark.parametrize(
    ("conditions", "state"),
    [(None, "active"), (m.ExitConditions(default=m.ExitOptions(job_action="terminate")), "completed")],
)
def test_terminating_an_active_task_ends_the_job_by_its_exit_conditions(client, conditions, state):
    create_job(client, task_failure_mode="performexitoptionsjobaction")
    client.create_task("job", task(exit_conditions=conditions))
    client.terminate_task("job", "task")
    assert wait_for_job(client, state).execution_info.termination_reason == (
        "TaskFailed" if state == "completed" else None
    )


def test_patch_merges_and_put_resets(client):
    create_job(client, priority=5, constraints=m.BatchJobConstraints(max_task_retry_count=3))
    client.update_job("job", m.BatchJobUpdateOptions(metadata=[m.BatchMetadataItem(name="a", value="b")]))
    job = client.get_job("job")
    assert (job.priority, job.constraints.max_task_retry_count, job.metadata[0].name) == (5, 3, "a")
    client.replace_job("job", m.BatchJob(pool_info=m.BatchPoolInfo(pool_id="pool"), max_parallel_tasks=2))
    job = client.get_job("job")
    assert (job.priority, job.constraints.max_task_retry_count, job.metadata) == (0, 0, None)
    assert job.max_parallel_tasks == 2


@pytest.mark.parametrize("priority", [-1001, 1001])
def test_priority_out_of_range_is_refused(client, priority):
    with pytest.raises(HttpResponseError) as refusal:
        create_job(client, priority=priority)
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "OutOfRangePriority")


def test_tasks_start_by_job_priority_then_in_creation_order(client):
    create_job(client, "low")
    create_job(client, "high", priority=10)
    for job, name in (("low", "first"), ("high", "b"), ("high", "a")):
        client.create_task(job, task(name, shell("date +%s.%N")))
    create_pool(client)
    times = {
        name: wait_for_task(client, name, job=job) for job, name in (("low", "first"), ("high", "a"), ("high", "b"))
    }
    assert sorted(times, key=lambda name: str(times[name].execution_info.start_time)) == ["b", "a", "first"]


def test_max_parallel_tasks_holds_back_the_rest(client):
    create_pool(client, task_slots_per_node=4)
    create_job(client, max_parallel_tasks=2)
    client.create_tasks("job", [task(f"t{number}", "/bin/sleep 60") for number in range(4)])
    wait_for(lambda: client.get_job_task_counts("job").task_counts.running == 2)
    assert client.get_job_task_counts("job").task_counts.active == 2


def test_task_environment_overrides_the_jobs_common_settings(client):
    create_pool(client)
    settings = [m.EnvironmentSetting(name="A", value="job"), m.EnvironmentSetting(name="B", value="job")]
    create_job(client, common_environment_settings=settings)
    run_task(client, shell("echo $A $B"), environment_settings=[m.EnvironmentSetting(name="B", value="task")])
    assert stdout(client) == "job task\n"


def test_task_counts_count_tasks_and_slots(client):
    create_pool(client, task_slots_per_node=4)
    create_job(client)
    client.create_tasks(
        "job",
        [
            task("good"),
            task("bad", "/bin/false", required_slots=2),
            task("long", "/bin/sleep 60"),
            task("wide", required_slots=5),
        ],
    )
    wait_for(lambda: client.get_job_task_counts("job").task_counts.completed == 2)
    counts = client.get_job_task_counts("job")
    tasks, slots = counts.task_counts, counts.task_slot_counts
    assert (tasks.active, tasks.running, tasks.completed, tasks.succeeded, tasks.failed) == (1, 1, 2, 1, 1)
    assert (slots.active, slots.running, slots.completed, slots.succeeded, slots.failed) == (5, 1, 3, 1, 2)


def test_jobs_are_listed_and_filtered(client):
    for name, priority in (("one", 1), ("two", 2), ("three", 3)):
        create_job(client, name, priority=priority)
    assert [job.id for job in client.list_jobs()] == ["one", "three", "two"]
    assert [job.id for job in client.list_jobs(filter="priority gt 1 and startswith(id, 'T')")] == ["three", "two"]
    assert [job.id for job in client.list_jobs(filter="state eq 'ACTIVE' and not (id eq 'one')")] == ["three", "two"]
    assert [job.id for job in client.list_jobs(filter="creationTime lt DateTime'2020-01-01'")] == []


def test_automatic_end_of_a_job_cannot_be_turned_off_again(client):
    create_job(client)
    ends = m.BatchAllTasksCompleteMode
    client.create_task("job", task("one", "/bin/sleep 60"))
    client.update_job("job", m.BatchJobUpdateOptions(all_tasks_complete_mode=ends.TERMINATE_JOB))
    with pytest.raises(HttpResponseError) as refusal:
        client.update_job("job", m.BatchJobUpdateOptions(all_tasks_complete_mode=ends.NO_ACTION))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")
    assert client.get_job("job").all_tasks_complete_mode == "terminatejob"
