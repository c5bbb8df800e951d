"""Fault injection."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import timedelta
from functools import partial

import pytest
import requests
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ServiceResponseError,
)

from local_azure import faults
from local_azure.batch.state.wire import parse_timestamp
from tests.support.batch_service import (
    SLOW,
    RunningService,
    create_job,
    create_pool,
    pool_options,
    shell,
    task,
    wait_for,
    wait_for_nodes,
    wait_for_task,
)
from tests.support.paths import ROOT
from tests.support.raw_requests import Raw


def test_next_request_fails_with_the_injected_status(service):
    client = service.client(retry_total=0)
    service.admin("requests", operation="create_job", status=503, times=2)
    for _ in range(2):
        with pytest.raises(HttpResponseError) as failure:
            create_job(client)
        assert (failure.value.status_code, failure.value.error.code) == (503, "ServerBusy")
    assert list(client.list_jobs()) == []
    create_job(client)
    assert [job.id for job in client.list_jobs()] == ["job"]


def test_sdk_retries_after_the_retry_after_header(service):
    service.admin("requests", operation="list_jobs", status=429, retry_after=1)
    assert list(service.client().list_jobs()) == []


def test_connection_lost_before_the_action_leaves_nothing(service):
    client = service.client(retry_total=0)
    service.admin("requests", operation="create_job", drop=True)
    with pytest.raises(ServiceResponseError):
        create_job(client)
    assert list(client.list_jobs()) == []


def test_connection_lost_after_the_action_leaves_what_was_done(service):
    client = service.client(retry_total=0)
    service.admin("requests", operation="create_job", drop=True, after_commit=True)
    with pytest.raises(ServiceResponseError):
        create_job(client)
    with pytest.raises(ResourceExistsError) as refusal:
        create_job(client)
    assert refusal.value.error.code == "JobExists"


def test_error_after_the_action_leaves_what_was_done(service):
    client = service.client(retry_total=0)
    create_job(client)
    service.admin("requests", operation="create_task", status=500, after_commit=True)
    with pytest.raises(HttpResponseError) as failure:
        client.create_task("job", task())
    assert failure.value.status_code == 500
    assert [item.id for item in client.list_tasks("job")] == ["task"]


def test_fault_skips_as_many_requests_as_configured(service):
    client = service.client(retry_total=0)
    service.admin("requests", operation="create_job", status=500, skip=1)
    create_job(client, "first")
    with pytest.raises(HttpResponseError):
        create_job(client, "second")
    create_job(client, "third")


def test_reset_forgets_all_faults(service):
    service.admin("requests", status=500, times=100)
    usual = service.admin("timings")
    service.admin("timings", boot=7)
    service.admin("reset")
    assert list(service.client(retry_total=0).list_jobs()) == []
    assert service.admin("timings") == usual


def test_start_task_is_made_to_fail(client, service):
    service.admin("starttasks", fail=1)
    client.create_pool(pool_options(start_task=m.BatchStartTask(command_line="/bin/true"), target_dedicated_nodes=2))
    wait_for_nodes(client, "pool", "idle", "starttaskfailed")


def test_preempted_spot_node_returns_empty_and_its_task_reruns(service, client):
    service.admin("timings", preemption=0.2)
    (node,) = create_pool(client, target_dedicated_nodes=0, target_low_priority_nodes=1)
    create_job(client)
    client.create_task(
        "job", task("task", shell('touch "$AZ_BATCH_NODE_SHARED_DIR/here"; [ -e /nowhere ] || sleep 60'))
    )
    wait_for(
        lambda: any(item.name == "shared/here" for item in client.list_node_files("pool", node.id, recursive=True))
    )
    service.admin("preempt", poolId="pool")
    wait_for_nodes(client, "pool", "preempted")
    waiting = wait_for_task(client, state="active")
    assert waiting.execution_info.requeue_count == 0
    again = wait_for_task(client, state="running")
    assert again.node_info.node_id == node.id


def test_dedicated_nodes_are_not_preempted(service, client):
    create_pool(client)
    service.admin("preempt", poolId="pool")
    wait_for_nodes(client, "pool", "idle")


def test_nodes_that_leave_are_neither_preempted_nor_unusable(start_service):
    service = start_service(SLOW)
    client = service.client()
    client.create_pool(pool_options(target_dedicated_nodes=0, target_low_priority_nodes=1))
    (node,) = wait_for_nodes(client, "pool", "creating")
    client.begin_delete_pool("pool")
    wait_for_nodes(client, "pool", "leavingpool")
    for fault in ("preempt", "unusable"):
        service.admin(fault, poolId="pool")
        with pytest.raises(HttpResponseError) as refusal:
            service.admin(fault, poolId="pool", nodeId=node.id)
        assert refusal.value.status_code == 409
    wait_for_nodes(client, "pool", "leavingpool")


def test_unusable_node_gets_no_task(service, client):
    (node,) = create_pool(client)
    service.admin("unusable", poolId="pool", nodeId=node.id)
    (broken,) = wait_for_nodes(client, "pool", "unusable")
    (error,) = broken.errors or []
    assert error.code == "NodeUnusable"
    create_job(client)
    client.create_task("job", task())
    assert client.get_task("job", "task").state == "active"
    client.begin_resize_pool("pool", m.BatchPoolResizeOptions(target_dedicated_nodes=0), polling_interval=0.02).result()
    assert list(client.list_nodes("pool")) == []


def test_quota_can_be_set(service, client):
    service.admin("quota", nodes=1)
    client.create_pool(pool_options(target_dedicated_nodes=3))
    pool = wait_for(lambda: next((p for p in client.list_pools() if p.allocation_state == "steady"), None))
    assert [error.code for error in pool.resize_errors] == ["AccountCoreQuotaReached"]
    assert pool.current_dedicated_nodes == 1


def steady_pool(client) -> m.BatchPool:
    return wait_for(lambda: next((pool for pool in client.list_pools() if pool.allocation_state == "steady"), None))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AllocationFailed", "Desired number of dedicated nodes could not be allocated"),
        ("AllocationTimedout", "Too late"),
        ("AccountCoreQuotaReached", "No cores"),
        ("AccountLowPriorityCoreQuotaReached", "No spot cores"),
    ],
)
def test_next_allocation_ends_with_the_injected_error(service, client, code, message):
    service.admin("resizeerror", code=code, message=message)
    client.create_pool(pool_options(target_dedicated_nodes=2))
    pool = steady_pool(client)
    assert [(error.code, error.message) for error in pool.resize_errors] == [(code, message)]
    assert (pool.target_dedicated_nodes, pool.current_dedicated_nodes) == (2, 0)
    resize = m.BatchPoolResizeOptions(target_dedicated_nodes=1)
    client.begin_resize_pool("pool", resize, polling_interval=0.02).result()
    wait_for_nodes(client, "pool", "idle")
    assert steady_pool(client).resize_errors is None


def test_failed_allocation_neither_adds_nor_removes_nodes(service, client):
    nodes = create_pool(client, target_dedicated_nodes=2)
    service.admin("resizeerror", code="RemoveNodesFailed")
    removal = m.BatchNodeRemoveOptions(node_ids=[nodes[0].id])
    client.begin_remove_nodes("pool", removal, polling_interval=0.02).result()
    assert [error.code for error in steady_pool(client).resize_errors] == ["RemoveNodesFailed"]
    assert {node.id for node in wait_for_nodes(client, "pool", "idle", "idle")} == {node.id for node in nodes}


def test_resize_error_applies_only_to_its_pool(service, client):
    service.admin("resizeerror", poolId="Other")
    create_pool(client)
    assert steady_pool(client).resize_errors is None
    client.create_pool(pool_options("empty", target_dedicated_nodes=0))
    client.create_pool(pool_options("other"))
    other = wait_for(lambda: next((p for p in client.list_pools() if p.id == "other" and p.resize_errors), None))
    assert [error.code for error in other.resize_errors] == ["AllocationFailed"]


def test_resize_error_applies_to_its_family_as_often_as_asked(service, client):
    service.admin("resizeerror", code="AccountVMSeriesCoreQuotaReached", family="dasv5", times=2)
    create_pool(client, "other", vm_size="Standard_D2ads_v5")
    client.create_pool(pool_options(vm_size="Standard_D2as_v5"))
    wait_for(lambda: client.get_pool("pool").resize_errors)
    resize = m.BatchPoolResizeOptions(target_dedicated_nodes=1)
    for codes in (["AccountVMSeriesCoreQuotaReached"], []):
        client.begin_resize_pool("pool", resize, polling_interval=0.02).result()
        assert [error.code for error in client.get_pool("pool").resize_errors or ()] == codes


def test_resize_error_applies_to_its_vm_size_regardless_of_case(service, client):
    service.admin("resizeerror", code="AllocationFailed", vmSize="STANDARD_E4-2S_V5")
    create_pool(client, "other", vm_size="Standard_E4s_v5")
    client.create_pool(pool_options(vm_size="Standard_E4-2s_v5"))
    assert [each.code for each in wait_for(lambda: client.get_pool("pool").resize_errors)] == ["AllocationFailed"]


def test_vm_size_that_is_not_offered_is_refused_by_property(service, client):
    create_pool(client, target_dedicated_nodes=0)
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    service.admin("vmsizes", unavailable="Standard_D2as_v5, Standard_D2s_v5")
    for refused in (
        lambda: client.create_pool(pool_options("new", vm_size="standard_d2as_v5")),
        lambda: client.update_pool("pool", m.BatchPoolUpdateOptions(vm_size="standard_d2as_v5")),
    ):
        with pytest.raises(HttpResponseError) as refusal:
            refused()
        error = refusal.value
        assert (error.status_code, error.error.code) == (400, "InvalidPropertyValue")
        details = {each.key: each.value for each in error.model.error_values}
        assert (details["PropertyName"], details["PropertyValue"]) == ("vmSize", "standard_d2as_v5")
    assert client.get_pool("pool").vm_size == "standard_d2s_v3"
    client.create_pool(pool_options("new", vm_size="Standard_D2ds_v5"))


def test_pool_quota_is_refused_with_its_code(service, client):
    client.create_pool(pool_options(target_dedicated_nodes=0))
    service.admin("quota", pools=1)
    for pool_id, code in (("new", "PoolQuotaReached"), ("POOL", "PoolExists")):
        with pytest.raises(ResourceExistsError) as refusal:
            client.create_pool(pool_options(pool_id))
        assert (refusal.value.status_code, refusal.value.error.code) == (409, code)
    service.admin("quota", pools=2)
    client.create_pool(pool_options("new", target_dedicated_nodes=0))


def test_job_quota_counts_active_jobs_and_schedules(service, client):
    create_job(client)
    create_job(client, "second")
    service.admin("quota", jobs=2)
    schedule = m.BatchJobScheduleCreateOptions(
        id="schedule",
        schedule=m.BatchJobScheduleConfiguration(),
        job_specification=m.BatchJobSpecification(pool_info=m.BatchPoolInfo(pool_id="pool")),
    )
    for refused in (lambda: create_job(client, "third"), lambda: client.create_job_schedule(schedule)):
        with pytest.raises(ResourceExistsError) as refusal:
            refused()
        assert (refusal.value.status_code, refusal.value.error.code) == (409, "ActiveJobAndScheduleQuotaReached")
    client.begin_terminate_job("second", {"terminateReason": "done"}, polling_interval=0.02).result()
    wait_for(lambda: client.get_job("second").state == "completed")
    create_job(client, "third")


def test_answer_arrives_no_earlier_than_its_delay(service, client):
    service.admin("requests", operation="list_jobs", delay=0.3)
    began = time.monotonic()
    assert list(client.list_jobs()) == []
    assert time.monotonic() - began >= 0.3


def _has_job(client: BatchClient, job_id: str) -> bool:
    return job_id in [job.id for job in client.list_jobs()]


def test_delay_can_precede_or_follow_the_commit(service, client):
    for job_id, after_commit in (("before", False), ("after", True)):
        service.admin("requests", operation="create_job", delay=0.5, after_commit=after_commit)
        answered: list[float] = []

        def create(job_id: str = job_id, answered: list[float] = answered) -> None:
            create_job(service.client(), job_id)
            answered.append(time.monotonic())

        began = time.monotonic()
        request = threading.Thread(target=create)
        request.start()
        wait_for(partial(_has_job, client, job_id))
        seen = time.monotonic()
        request.join()
        assert answered[0] - began >= 0.5
        assert (seen < answered[0]) if after_commit else (seen - began >= 0.5)


@pytest.mark.parametrize("end", [("clock", ("advance", "PT1H")), ("reset",)], ids=["time", "reset"])
def test_deletes_are_slow_until_their_time_or_a_reset(service, client, end):
    create_pool(client)
    create_job(client)
    client.create_job_schedule(
        m.BatchJobScheduleCreateOptions(
            id="schedule",
            schedule=m.BatchJobScheduleConfiguration(do_not_run_until=service.clock.now() + timedelta(days=1)),
            job_specification=m.BatchJobSpecification(pool_info=m.BatchPoolInfo(pool_id="pool")),
        )
    )
    service.admin("timings", removal=3600)
    client.begin_delete_job("job")
    client.begin_delete_pool("pool")
    client.begin_delete_job_schedule("schedule")
    wait_for_nodes(client, "pool", "leavingpool")
    assert client.get_job("job").state == "deleting"
    assert client.get_pool("pool").state == "deleting"
    assert client.get_job_schedule("schedule").state == "deleting"
    service.admin(*end[:1], **dict(end[1:]))
    wait_for(lambda: not [*client.list_jobs(), *client.list_pools(), *client.list_job_schedules()])


def test_capitalised_statuses_hide_a_refused_task_from_the_sdk(service, client):
    """A defect of that SDK: its create_tasks compares statuses with "clienterror" to the letter."""
    create_job(client)
    result = client.create_tasks("job", [task("good"), task("bad id")])  # raises CreateTasksError otherwise
    results = {item.task_id: (item.status, item.error and item.error.code) for item in result.result_values}
    assert results == {"good": ("Success", None), "bad id": ("ClientError", "InvalidPropertyValue")}
    assert [item.id for item in client.list_tasks("job")] == ["good"]


def test_sdk_reports_a_refused_task_for_statuses_in_lower_case(service, client):
    create_job(client)
    service.admin("taskstatuses", capitalised=False)
    with pytest.raises(m.CreateTasksError) as refusal:
        client.create_tasks("job", [task("good"), task("bad id")])
    assert [item.task_id for item in refusal.value.failure_tasks] == ["bad id"]
    assert [item.id for item in client.list_tasks("job")] == ["good"]


def test_task_counts_can_be_made_stale(service, client):
    create_job(client)
    client.create_task("job", task())
    service.admin("taskcounts", stale=1)
    assert client.get_job_task_counts("job").task_counts.active == 0
    assert client.get_job_task_counts("job").task_counts.active == 1


def test_unknown_admin_operations_and_properties_are_refused(service):
    raw = Raw(service)
    assert raw("POST", "/$local/nothing", body={}).json()["code"] == "InvalidUri"
    answer = raw("POST", "/$local/quota", body={"cores": 1})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidPropertyValue")
    assert raw("POST", "/$local/quota", body={"nodes": "many"}).status_code == 400


def test_admin_operations_need_the_key_too(service):
    answer = requests.post(f"{service.endpoint}/$local/clock?api-version=2025-06-01", json={"advance": "PT1H"})
    assert (answer.status_code, answer.json()["code"]) == (403, "AuthenticationFailed")


def test_admin_operations_are_off_by_default(service):
    service.administered = False
    service.stop()
    service.start()
    assert Raw(service)("POST", "/$local/clock", body={"advance": "PT1H"}).json()["code"] == "InvalidUri"


def settings_of(service: RunningService) -> dict[str, str]:
    return {
        "AZURE_BATCH_ENDPOINT": service.endpoint,
        "AZURE_BATCH_ACCOUNT": service.account.name,
        "AZURE_BATCH_ACCESS_KEY": service.account.key,
    }


def test_faults_are_injected_from_the_command_line(service):
    command = [sys.executable, "-m", "local_azure.faults", "requests", "operation=create_job", "status=503"]
    environment = {"PATH": "/usr/bin:/bin", **settings_of(service)}
    subprocess.run([*command, "after_commit=true"], cwd=ROOT, env=environment, check=True)
    client = service.client(retry_total=0)
    with pytest.raises(HttpResponseError) as failure:
        create_job(client)
    assert failure.value.status_code == 503
    assert [job.id for job in client.list_jobs()] == ["job"]


def test_clock_is_moved_by_the_fault_command(service, monkeypatch, capsys):
    for name, value in settings_of(service).items():
        monkeypatch.setenv(name, value)
    before = service.clock.now()
    assert faults.main(["clock", "advance=PT1H"]) == 0
    assert parse_timestamp(json.loads(capsys.readouterr().out)["time"]) - before > timedelta(hours=1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["quota", "cores=1"], "cores"),
        (["nothing"], "does not represent any resource"),
        (["clock", "advance=-PT1H"], "it must not be negative"),
    ],
)
def test_fault_command_reports_errors(service, monkeypatch, capsys, arguments, reason):
    for name, value in settings_of(service).items():
        monkeypatch.setenv(name, value)
    assert faults.main(arguments) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert service.account.key not in error


def test_fault_command_needs_name_and_value():
    with pytest.raises(SystemExit) as refusal:
        faults._property("x")
    assert refusal.value.code == "'x' is not NAME=VALUE"
