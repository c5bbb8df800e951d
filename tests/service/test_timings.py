"""How long transitions take, and the clock that is moved through them."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import ResourceNotFoundError

from local_azure.batch.http.server import Profile
from tests.support.batch_service import (
    MACHINE,
    QUICK,
    create_job,
    create_pool,
    pool_options,
    run_task,
    shell,
    stdout,
    task,
    wait_for,
    wait_for_nodes,
    wait_for_task,
)

FAST, AZURE = Profile.FAST.timings(), Profile.AZURE.timings()


def auto_pool() -> m.BatchPoolInfo:
    pool = m.BatchPoolSpecification(
        vm_size="standard_d2s_v3", virtual_machine_configuration=MACHINE, target_dedicated_nodes=1
    )
    return m.BatchPoolInfo(auto_pool_specification=m.BatchAutoPoolSpecification(pool_lifetime_option="job", pool=pool))


def pool_state(client, pool_id: str = "pool") -> str | None:
    try:
        return client.get_pool(pool_id).state
    except ResourceNotFoundError:
        return None


def test_auto_pool_can_still_be_read_seconds_after_its_job(start_service):
    service = start_service(replace(QUICK, auto_pool=FAST.auto_pool))
    client = service.client()
    client.create_job(m.BatchJobCreateOptions(id="job", pool_info=auto_pool()))
    run_task(client, shell("echo kept"))
    pool_id = client.get_job("job").execution_info.pool_id
    client.update_job("job", m.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    wait_for(lambda: pool_state(client, pool_id) == "deleting")
    deleted = client.get_pool(pool_id).state_transition_time
    service.admin("clock", advance="PT6S")  # a client that asks every five seconds comes only now
    pool = client.get_pool(pool_id)
    assert (pool.state, pool.target_dedicated_nodes) == ("deleting", 0)
    assert [node.state for node in client.list_nodes(pool_id)] == ["leavingpool"]
    assert stdout(client) == "kept\n"
    service.admin("clock", advance="PT5S")
    wait_for(lambda: pool_state(client, pool_id) is None)
    assert timedelta(seconds=10) <= service.clock.now() - deleted


def test_pool_that_a_client_deletes_is_gone_without_that_wait(start_service):
    client = start_service(replace(QUICK, auto_pool=3600)).client()
    create_pool(client)
    client.create_job(m.BatchJobCreateOptions(id="job", pool_info=auto_pool()))
    for pool_id in ("pool", client.get_job("job").execution_info.pool_id):
        client.begin_delete_pool(pool_id, polling_interval=0.02).result()
        assert pool_state(client, pool_id) is None


def test_moved_clock_goes_through_all_states_at_their_times(start_service):
    service = start_service(AZURE)
    client = service.client()
    client.create_pool(pool_options())
    (node,) = wait_for_nodes(client, "pool", "creating")
    service.admin("clock", advance="PT1M59S")
    wait_for_nodes(client, "pool", "creating")
    service.admin("clock", advance="PT10M")
    (idle,) = wait_for_nodes(client, "pool", "idle")
    assert idle.last_boot_time - node.allocation_time == timedelta(minutes=4)
    assert idle.state_transition_time - node.allocation_time == timedelta(minutes=4)
    pool = client.get_pool("pool")
    assert pool.allocation_state == "steady"
    assert pool.allocation_state_transition_time - node.allocation_time == timedelta(minutes=2)


def test_pool_in_the_times_of_azure_is_deleted_after_minutes(start_service):
    service = start_service(AZURE)
    client = service.client()
    client.create_pool(pool_options())
    wait_for_nodes(client, "pool", "creating")
    service.admin("clock", advance="PT10M")
    wait_for_nodes(client, "pool", "idle")
    client.begin_delete_pool("pool")
    service.admin("clock", advance="PT1M")
    wait_for_nodes(client, "pool", "leavingpool")
    assert pool_state(client) == "deleting"
    service.admin("clock", advance="PT2M")
    wait_for(lambda: pool_state(client) is None)


def test_pool_that_needs_no_node_is_steady_within_seconds(start_service):
    service = start_service(AZURE)
    client = service.client()
    client.create_pool(pool_options(target_dedicated_nodes=0))
    assert client.get_pool("pool").allocation_state == "resizing"
    service.admin("clock", advance="PT4S")
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")


def test_task_of_a_moved_clock_starts_when_its_node_is_idle(start_service):
    service = start_service(AZURE)
    client = service.client()
    client.create_pool(pool_options())
    create_job(client)
    client.create_task("job", task())
    (node,) = wait_for_nodes(client, "pool", "creating")
    service.admin("clock", advance="PT1H")
    done = wait_for_task(client)
    assert done.execution_info.start_time - node.allocation_time == timedelta(minutes=4)
    assert done.execution_info.end_time - node.allocation_time >= timedelta(hours=1)


def test_clock_moved_by_years_replays_its_last_day(start_service):
    service = start_service(AZURE)
    client = service.client()
    formula = "$TargetDedicatedNodes = 0;"
    options: dict[str, Any] = {"enable_auto_scale": True, "auto_scale_formula": formula, "target_dedicated_nodes": None}
    client.create_pool(pool_options(auto_scale_evaluation_interval=timedelta(minutes=5), **options))
    wait_for(lambda: client.get_pool("pool").auto_scale_run)
    service.admin("clock", advance="P5Y")
    now = service.clock.now()
    run = wait_for(
        lambda: (run := client.get_pool("pool").auto_scale_run).timestamp > now - timedelta(minutes=5) and run
    )
    assert run.timestamp <= service.clock.now()


@pytest.mark.parametrize("profile", Profile)
def test_reset_restores_the_timings_of_the_profile(start_service, profile):
    service = start_service(profile.timings())
    usual = asdict(profile.timings())
    changed = service.admin("timings", boot=7, removal=0)
    assert {name: changed[name] for name in usual} == {**usual, "boot": 7, "removal": 0}
    service.admin("reset")
    restored = service.admin("timings")
    assert {name: restored[name] for name in usual} == usual
