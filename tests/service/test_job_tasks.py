"""Job preparation, job release and job manager tasks; auto pools."""

from __future__ import annotations

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError

from tests.support.batch_service import (
    MACHINE,
    create_job,
    create_pool,
    run_task,
    shell,
    stdout,
    task,
    wait_for,
    wait_for_task,
)

SHARED = '"$AZ_BATCH_NODE_SHARED_DIR/'


def statuses(client, job: str = "job"):
    return list(client.list_job_preparation_and_release_task_status(job))


def test_node_is_prepared_once_before_the_jobs_first_task(client):
    create_pool(client, task_slots_per_node=4)
    preparation = m.BatchJobPreparationTask(
        command_line=shell(f'sleep 0.1; echo x >> {SHARED}prepared"; echo hi > here')
    )
    create_job(client, job_preparation_task=preparation)
    client.create_tasks(
        "job", [task(f"t{n}", shell(f'cat {SHARED}prepared" $AZ_BATCH_JOB_PREP_WORKING_DIR/here')) for n in range(4)]
    )
    for number in range(4):
        wait_for_task(client, f"t{number}")
        assert stdout(client, f"t{number}") == "x\nhi\n"
    assert client.get_task("job", "t0").previous_state == "running"
    (status,) = statuses(client)
    info = status.job_preparation_task_execution_info
    assert (info.state, info.exit_code, info.result, info.retry_count) == ("completed", 0, "success", 0)
    assert info.task_root_directory == "workitems/job/job-1/jobpreparation"
    assert status.job_release_task_execution_info is None
    job = client.get_job("job")
    assert job.job_preparation_task.wait_for_success is True
    assert job.job_preparation_task.id == "jobpreparation"


def test_task_waits_in_preparing_and_counts_as_running(client):
    create_pool(client)
    create_job(client, job_preparation_task=m.BatchJobPreparationTask(command_line="/bin/sleep 60"))
    client.create_task("job", task())
    wait_for_task(client, state="preparing")
    assert client.get_job_task_counts("job").task_counts.running == 1


def test_node_whose_preparation_failed_gets_no_task_of_the_job(client):
    create_pool(client)
    create_job(client, job_preparation_task=m.BatchJobPreparationTask(command_line="/bin/false"))
    client.create_task("job", task())
    failed = wait_for(lambda: next((s for s in statuses(client) if s.job_preparation_task_execution_info.result), None))
    assert failed.job_preparation_task_execution_info.failure_info.code == "FailureExitCode"
    wait_for_task(client, state="active")
    create_job(client, "other")
    client.create_task("other", task("runs"))
    wait_for_task(client, "runs", job="other")
    assert client.get_task("job", "task").state == "active"


def test_preparation_that_need_not_succeed_lets_tasks_run(client):
    create_pool(client)
    preparation = m.BatchJobPreparationTask(command_line="/bin/false", wait_for_success=False)
    create_job(client, job_preparation_task=preparation)
    assert run_task(client, "/bin/true").execution_info.result == "success"


def test_release_task_runs_on_prepared_nodes_before_the_job_ends(client):
    nodes = create_pool(client, target_dedicated_nodes=2)
    create_job(
        client,
        job_preparation_task=m.BatchJobPreparationTask(command_line="/bin/true"),
        job_release_task=m.BatchJobReleaseTask(command_line=shell(f'echo done > {SHARED}released"; exit 3')),
    )
    used = run_task(client, "/bin/true").node_info.node_id
    client.update_job("job", m.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    wait_for(lambda: client.get_job("job").state == "completed")
    (status,) = statuses(client)
    info = status.job_release_task_execution_info
    assert (status.node_id, info.state, info.exit_code, info.result) == (used, "completed", 3, "failure")
    assert b"".join(client.download_node_file("pool", used, "shared/released")) == b"done\n"
    (unused,) = [node.id for node in nodes if node.id != used]
    assert [
        item.name for item in client.list_node_files("pool", unused, recursive=True) if "released" in item.name
    ] == []


def test_status_of_a_job_without_preparation_is_refused(client):
    create_job(client)
    with pytest.raises(ResourceExistsError) as refusal:
        statuses(client)
    assert refusal.value.error.code == "JobPreparationTaskOrReleaseTaskNotSpecified"


def test_release_without_preparation_is_refused(client):
    with pytest.raises(HttpResponseError) as refusal:
        create_job(client, job_release_task=m.BatchJobReleaseTask(command_line="/bin/true"))
    assert refusal.value.error.code == "InvalidPropertyValue"


def test_task_may_not_have_the_id_of_a_job_task(client):
    create_job(client, job_preparation_task=m.BatchJobPreparationTask(command_line="/bin/true"))
    with pytest.raises(ResourceExistsError) as refusal:
        client.create_task("job", task("JobPreparation"))
    assert refusal.value.error.code == "TaskIdSameAsJobPreparationTask"


def test_job_manager_task_is_created_with_the_job_and_ends_it(client):
    create_pool(client, task_slots_per_node=2)
    manager = m.BatchJobManagerTask(id="manager", command_line="/bin/sleep 0.3")
    create_job(client, job_manager_task=manager)
    client.create_task("job", task("other", "/bin/sleep 60"))
    assert client.get_job("job").job_manager_task.kill_job_on_completion is True
    wait_for_task(client, "manager", "running")
    assert client.get_task("job", "other").state == "active", "the manager has its node for itself"
    job = wait_for(lambda: next((job for job in client.list_jobs() if job.state == "completed"), None))
    assert job.execution_info.termination_reason == "JMComplete"


def test_job_manager_task_may_leave_the_job_alone(client):
    create_pool(client, task_slots_per_node=2)
    manager = m.BatchJobManagerTask(
        id="manager", command_line="/bin/sleep 0.2", kill_job_on_completion=False, run_exclusive=False
    )
    create_job(client, job_manager_task=manager)
    client.create_task("job", task("other"))
    wait_for_task(client, "other")
    wait_for_task(client, "manager")
    assert client.get_job("job").state == "active"


def auto_pool(**options) -> m.BatchPoolInfo:
    specification = m.BatchPoolSpecification(
        vm_size="standard_d2s_v3", virtual_machine_configuration=MACHINE, target_dedicated_nodes=1
    )
    return m.BatchPoolInfo(
        auto_pool_specification=m.BatchAutoPoolSpecification(
            pool_lifetime_option="job", auto_pool_id_prefix="auto", pool=specification, **options
        )
    )


def test_auto_pool_is_deleted_with_its_job(client):
    client.create_job(m.BatchJobCreateOptions(id="job", pool_info=auto_pool()))
    pool = client.get_job("job").execution_info.pool_id
    assert pool.startswith("auto_")
    assert client.get_pool(pool).target_dedicated_nodes == 1
    assert run_task(client, "/bin/true").execution_info.result == "success"
    client.update_job("job", m.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    wait_for(lambda: not list(client.list_pools()))
    assert client.get_job("job").state == "completed"


def test_auto_pool_may_stay(client):
    client.create_job(m.BatchJobCreateOptions(id="job", pool_info=auto_pool(keep_alive=True)))
    client.begin_delete_job("job", polling_interval=0.02).result()
    assert [pool.state for pool in client.list_pools()] == ["active"]
