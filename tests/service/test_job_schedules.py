from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from tests.support.batch_service import MACHINE, wait_for


def create_schedule(client, rule=None, **specification) -> None:
    spec = m.BatchJobSpecification(**{"pool_info": m.BatchPoolInfo(pool_id="pool"), **specification})
    client.create_job_schedule(
        m.BatchJobScheduleCreateOptions(
            id="nightly", schedule=rule or m.BatchJobScheduleConfiguration(), job_specification=spec
        )
    )


def jobs(client) -> list[tuple[str, str]]:
    return [(job.id, job.state) for job in client.list_jobs_from_schedule("nightly")]


def wait_for_state(client, state: str) -> m.BatchJobSchedule:
    return wait_for(lambda: next((s for s in client.list_job_schedules() if s.state == state), None))


def test_schedule_without_recurrence_creates_one_job_at_once(client):
    create_schedule(client, display_name="Every night")
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    job = client.get_job("nightly:job-1")
    assert job.display_name == "Every night"
    recent = client.get_job_schedule("nightly").execution_info.recent_job
    assert recent.id == "nightly:job-1"
    assert recent.url.endswith("/jobs/nightly%3Ajob-1")
    client.begin_delete_job("nightly:job-1", polling_interval=0.02).result()
    assert wait_for_state(client, "completed").execution_info.end_time is not None


def test_a_job_and_a_job_schedule_cannot_have_one_id(client):
    create_schedule(client)
    pool = m.BatchPoolInfo(pool_id="pool")
    with pytest.raises(ResourceExistsError) as refusal:
        client.create_job(m.BatchJobCreateOptions(id="Nightly", pool_info=pool))
    assert refusal.value.error.code == "JobScheduleWithSameIdExists"
    client.create_job(m.BatchJobCreateOptions(id="daily", pool_info=pool))
    spec = m.BatchJobSpecification(pool_info=pool)
    rule = m.BatchJobScheduleConfiguration()
    with pytest.raises(ResourceExistsError) as refusal:
        client.create_job_schedule(m.BatchJobScheduleCreateOptions(id="daily", schedule=rule, job_specification=spec))
    assert refusal.value.error.code == "JobWithSameIdExists"


def test_jobs_recur_one_at_a_time(service, client):
    create_schedule(client, m.BatchJobScheduleConfiguration(recurrence_interval=timedelta(hours=1)))
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    service.advance(minutes=61)
    assert jobs(client) == [("nightly:job-1", "active")], "the job before it is still active"
    client.update_job("nightly:job-1", m.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    wait_for(lambda: jobs(client) == [("nightly:job-1", "completed"), ("nightly:job-2", "active")])
    client.update_job("nightly:job-2", m.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    wait_for(lambda: jobs(client)[1] == ("nightly:job-2", "completed"))
    assert len(jobs(client)) == 2, "the third is not due"
    assert client.get_job_schedule("nightly").execution_info.next_run_time is not None
    service.advance(minutes=61)
    wait_for(lambda: jobs(client)[2:] == [("nightly:job-3", "active")])


def test_job_that_misses_its_start_window_is_skipped(service, client):
    rule = m.BatchJobScheduleConfiguration(recurrence_interval=timedelta(hours=1), start_window=timedelta(minutes=10))
    create_schedule(client, rule)
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    first = client.get_job_schedule("nightly").creation_time
    service.advance(minutes=75)
    client.begin_terminate_job("nightly:job-1", options(), polling_interval=0.02).result()
    wait_for(lambda: client.get_job_schedule("nightly").execution_info.next_run_time == first + timedelta(hours=2))
    assert jobs(client) == [("nightly:job-1", "completed")]
    service.advance(minutes=46)
    wait_for(lambda: jobs(client)[1:] == [("nightly:job-2", "active")])


def test_job_that_can_begin_within_its_start_window_does(service, client):
    rule = m.BatchJobScheduleConfiguration(recurrence_interval=timedelta(hours=1), start_window=timedelta(minutes=10))
    create_schedule(client, rule)
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    service.advance(minutes=65)
    client.begin_terminate_job("nightly:job-1", options(), polling_interval=0.02).result()
    wait_for(lambda: jobs(client)[1:] == [("nightly:job-2", "active")])


def test_missed_start_window_without_recurrence_ends_schedule(service, client):
    rule = m.BatchJobScheduleConfiguration(
        do_not_run_until=service.clock.now() + timedelta(hours=1), start_window=timedelta(minutes=5)
    )
    create_schedule(client, rule)
    client.disable_job_schedule("nightly")
    service.advance(minutes=70)
    client.enable_job_schedule("nightly")
    wait_for_state(client, "completed")
    assert jobs(client) == []


def options() -> Any:
    # azure-batch 15.1.0 cannot terminate a job without a reason.
    return {"terminateReason": "test"}


def test_first_job_waits_for_its_time(service, client):
    start = service.clock.now() + timedelta(hours=2)
    create_schedule(client, m.BatchJobScheduleConfiguration(do_not_run_until=start))
    assert client.get_job_schedule("nightly").execution_info.next_run_time == start
    assert jobs(client) == []
    service.advance(hours=2)
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])


def test_schedule_is_completed_when_no_more_job_may_run(service, client):
    rule = m.BatchJobScheduleConfiguration(
        recurrence_interval=timedelta(minutes=30), do_not_run_after=service.clock.now() + timedelta(hours=1)
    )
    create_schedule(client, rule, all_tasks_complete_mode="terminatejob")
    wait_for(lambda: jobs(client) == [("nightly:job-1", "completed")])
    service.advance(minutes=61)
    wait_for_state(client, "completed")
    assert jobs(client) == [("nightly:job-1", "completed"), ("nightly:job-2", "completed")]


def test_disabled_schedule_creates_no_job_until_it_is_enabled(service, client):
    rule = m.BatchJobScheduleConfiguration(recurrence_interval=timedelta(hours=1))
    create_schedule(client, rule, all_tasks_complete_mode="terminatejob")
    wait_for(lambda: jobs(client) == [("nightly:job-1", "completed")])
    client.disable_job_schedule("nightly")
    assert client.get_job_schedule("nightly").state == "disabled"
    service.advance(minutes=61)
    assert len(jobs(client)) == 1
    client.enable_job_schedule("nightly")
    wait_for(lambda: len(jobs(client)) == 2)


def test_terminated_schedule_terminates_its_job(client):
    create_schedule(client)
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    client.begin_terminate_job_schedule("nightly", polling_interval=0.02).result()
    assert client.get_job_schedule("nightly").state == "completed"
    assert client.get_job("nightly:job-1").execution_info.termination_reason == "TerminateJobSchedule"
    with pytest.raises(ResourceExistsError) as refusal:
        client.enable_job_schedule("nightly")
    assert refusal.value.error.code == "JobScheduleCompleted"


def test_deleted_schedule_takes_its_jobs_with_it(client):
    create_schedule(client)
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    assert client.job_schedule_exists("nightly") is True
    client.begin_delete_job_schedule("nightly", polling_interval=0.02).result()
    assert list(client.list_jobs()) == []
    with pytest.raises(ResourceNotFoundError) as refusal:
        client.get_job_schedule("nightly")
    assert refusal.value.error.code == "JobScheduleNotFound"


def test_change_is_for_jobs_to_come(client):
    create_schedule(client, priority=1)
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    spec = m.BatchJobSpecification(pool_info=m.BatchPoolInfo(pool_id="pool"), priority=7)
    client.update_job_schedule("nightly", m.BatchJobScheduleUpdateOptions(job_specification=spec))
    assert client.get_job_schedule("nightly").job_specification.priority == 7
    assert client.get_job("nightly:job-1").priority == 1


def test_schedule_whose_rule_is_replaced_recurs_by_the_new_one(service, client):
    create_schedule(client, all_tasks_complete_mode="noaction")
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    created = client.get_job_schedule("nightly").creation_time
    spec = m.BatchJobSpecification(pool_info=m.BatchPoolInfo(pool_id="pool"))
    rule = m.BatchJobScheduleConfiguration(recurrence_interval=timedelta(hours=1))
    client.replace_job_schedule("nightly", m.BatchJobSchedule(job_specification=spec, schedule=rule))
    assert client.get_job_schedule("nightly").execution_info.next_run_time == created + timedelta(hours=1)
    client.begin_delete_job("nightly:job-1", polling_interval=0.02).result()
    service.advance(minutes=61)
    wait_for(lambda: jobs(client) == [("nightly:job-2", "active")])


def test_schedule_without_a_rule_any_more_ends_with_its_job(client):
    create_schedule(client, m.BatchJobScheduleConfiguration(recurrence_interval=timedelta(hours=1)), display_name="job")
    wait_for(lambda: jobs(client) == [("nightly:job-1", "active")])
    spec = m.BatchJobSpecification(pool_info=m.BatchPoolInfo(pool_id="pool"))
    client.replace_job_schedule("nightly", m.BatchJobSchedule(job_specification=spec))
    replaced = client.get_job_schedule("nightly")
    assert replaced.job_specification.display_name is None
    assert replaced.execution_info.next_run_time is None
    client.begin_delete_job("nightly:job-1", polling_interval=0.02).result()
    wait_for_state(client, "completed")


def test_auto_pool_of_a_schedule_serves_all_its_jobs(service, client):
    pool = m.BatchPoolSpecification(vm_size="standard_d2s_v3", virtual_machine_configuration=MACHINE)
    info = m.BatchPoolInfo(
        auto_pool_specification=m.BatchAutoPoolSpecification(pool_lifetime_option="jobschedule", pool=pool)
    )
    rule = m.BatchJobScheduleConfiguration(recurrence_interval=timedelta(hours=1))
    create_schedule(client, rule, pool_info=info, all_tasks_complete_mode="terminatejob")
    wait_for(lambda: len(jobs(client)) == 1)
    service.advance(minutes=61)
    wait_for(lambda: len(jobs(client)) == 2)
    used = {job.execution_info.pool_id for job in client.list_jobs_from_schedule("nightly")}
    assert used == {pool.id for pool in client.list_pools()}
    assert len(used) == 1
    client.begin_delete_job_schedule("nightly", polling_interval=0.02).result()
    wait_for(lambda: not list(client.list_pools()))


def test_bad_rules_are_refused(client):
    with pytest.raises(HttpResponseError) as refusal:
        create_schedule(client, m.BatchJobScheduleConfiguration(recurrence_interval=timedelta(seconds=59)))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")
    create_schedule(client)
    with pytest.raises(ResourceExistsError) as refusal:
        create_schedule(client)
    assert refusal.value.error.code == "JobScheduleExists"
