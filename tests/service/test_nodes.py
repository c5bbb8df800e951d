from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from tests.support.batch_service import (
    SLOW,
    create_job,
    create_pool,
    pool_options,
    run_task,
    shell,
    task,
    wait_for,
    wait_for_nodes,
    wait_for_task,
)

REBOOT: Any = {"nodeRebootOption": "requeue"}
REIMAGE: Any = {"nodeReimageOption": "requeue"}
DEALLOCATE: Any = {"nodeDeallocateOption": "requeue"}
COUNT = shell('echo x >> "$AZ_BATCH_NODE_SHARED_DIR/starts"')


@pytest.fixture
def node(client) -> m.BatchNode:
    (node,) = create_pool(client, start_task=m.BatchStartTask(command_line=COUNT, wait_for_success=True))
    return node


def starts(client, node: m.BatchNode) -> bytes:
    return b"".join(client.download_node_file("pool", node.id, "shared/starts"))


def test_rebooted_node_reruns_its_start_task_and_keeps_files(client, node):
    client.begin_reboot_node("pool", node.id, REBOOT, polling_interval=0.02).result()
    (after,) = wait_for_nodes(client, "pool", "idle")
    assert after.id == node.id
    assert after.last_boot_time > node.last_boot_time
    assert starts(client, node) == b"x\nx\n"


def test_reimaged_node_is_empty(client, node):
    client.begin_reimage_node("pool", node.id, REIMAGE, polling_interval=0.02).result()
    wait_for_nodes(client, "pool", "idle")
    assert starts(client, node) == b"x\n"


def test_deallocated_node_can_be_started(client, node):
    client.begin_deallocate_node("pool", node.id, DEALLOCATE, polling_interval=0.02).result()
    assert client.get_node("pool", node.id).state == "deallocated"
    with pytest.raises(ResourceExistsError) as refusal:
        client.begin_reboot_node("pool", node.id, REBOOT)
    assert refusal.value.error.code == "OperationInvalidForCurrentState"
    client.begin_start_node("pool", node.id, polling_interval=0.02).result()
    wait_for_nodes(client, "pool", "idle")


def test_task_on_a_rebooted_node_reruns_without_being_counted(client, node):
    create_job(client)
    script = 'mkdir "$AZ_BATCH_NODE_SHARED_DIR/once" && sleep 60; exit 0'
    client.create_task("job", task("task", shell(script)))
    wait_for(lambda: "shared/once" in [item.name for item in client.list_node_files("pool", node.id, recursive=True)])
    client.begin_reboot_node("pool", node.id, REBOOT)
    done = wait_for_task(client)
    assert (done.execution_info.exit_code, done.execution_info.requeue_count) == (0, 0)


def test_node_that_is_being_created_cannot_be_rebooted(start_service):
    client = start_service(SLOW).client()
    client.create_pool(pool_options())
    (node,) = wait_for_nodes(client, "pool", "creating")
    with pytest.raises(ResourceExistsError) as refusal:
        client.begin_reboot_node("pool", node.id, REBOOT)
    assert refusal.value.error.code == "NodeBeingCreated"


@pytest.mark.parametrize(("option", "state", "requeues"), [("requeue", "active", 1), ("terminate", "completed", 0)])
def test_node_without_scheduling_is_offline_and_gets_no_task(client, node, option, state, requeues):
    create_job(client)
    client.create_task("job", task("task", "/bin/sleep 60"))
    wait_for_task(client, state="running")
    options = m.BatchNodeDisableSchedulingOptions(node_disable_scheduling_option=option)
    client.disable_node_scheduling("pool", node.id, options)
    (offline,) = wait_for_nodes(client, "pool", "offline")
    assert offline.scheduling_state == "disabled"
    found = wait_for_task(client, state=state)
    assert found.execution_info.requeue_count == requeues
    with pytest.raises(ResourceExistsError) as refusal:
        client.disable_node_scheduling("pool", node.id, options)
    assert refusal.value.error.code == "NodeAlreadyInTargetSchedulingState"
    client.enable_node_scheduling("pool", node.id)
    assert run_task(client, "/bin/true", "after") if state == "completed" else wait_for_task(client, state="running")


def test_node_without_scheduling_may_finish_what_it_runs(client, node):
    create_job(client)
    client.create_task("job", task("task", "/bin/sleep 0.3"))
    wait_for_task(client, state="running")
    options = m.BatchNodeDisableSchedulingOptions(node_disable_scheduling_option="taskcompletion")
    client.disable_node_scheduling("pool", node.id, options)
    assert wait_for_task(client).execution_info.result == "success"
    wait_for_nodes(client, "pool", "offline")


@pytest.mark.parametrize(
    ("option", "state", "requeues"),
    [("requeue", "active", 1), ("terminate", "completed", 0), ("taskcompletion", "completed", 0)],
)
def test_shrinking_pool_applies_the_option_to_running_tasks(client, option, state, requeues):
    create_pool(client)
    create_job(client)
    client.create_task("job", task("task", "/bin/sleep 0.4" if option == "taskcompletion" else "/bin/sleep 60"))
    wait_for_task(client, state="running")
    resize = m.BatchPoolResizeOptions(target_dedicated_nodes=0, node_deallocation_option=option)
    client.begin_resize_pool("pool", resize, polling_interval=0.02).result()
    found = client.get_task("job", "task")
    assert (found.state, found.execution_info.requeue_count) == (state, requeues)
    if option == "taskcompletion":
        assert found.execution_info.result == "success"


def test_users_of_a_node(client, node):
    user = m.BatchNodeUserCreateOptions(name="me", password="secret", is_admin=True)
    client.create_node_user("pool", node.id, user)
    with pytest.raises(ResourceExistsError) as refusal:
        client.create_node_user("pool", node.id, user)
    assert refusal.value.error.code == "NodeUserExists"
    later = datetime.now(timezone.utc) + timedelta(days=2)
    client.replace_node_user("pool", node.id, "me", m.BatchNodeUserReplaceOptions(expiry_time=later))
    client.delete_node_user("pool", node.id, "me")
    with pytest.raises(ResourceNotFoundError) as missing:
        client.delete_node_user("pool", node.id, "me")
    assert missing.value.error.code == "NodeUserNotFound"


def test_passwords_are_not_kept(client, node, service):
    client.create_node_user("pool", node.id, m.BatchNodeUserCreateOptions(name="me", password="s3cr3t-user"))
    accounts = [m.UserAccount(name="other", password="s3cr3t-account")]
    client.create_pool(pool_options("second", user_accounts=accounts, target_dedicated_nodes=0))
    assert client.get_pool("second").user_accounts[0].name == "other"
    for file in service.data.glob("batch.db*"):
        assert b"s3cr3t" not in file.read_bytes()


def test_remote_login_has_an_address_that_nobody_has(client, node):
    settings = client.get_node_remote_login_settings("pool", node.id)
    (endpoint,) = node.endpoint_configuration.inbound_endpoints
    assert (settings.remote_login_ip_address, settings.remote_login_port) == ("192.0.2.1", endpoint.frontend_port)
    with pytest.raises(ResourceNotFoundError) as refusal:
        client.get_node_remote_login_settings("pool", "none")
    assert refusal.value.error.code == "NodeNotFound"


def test_nodes_of_an_ipv6_pool_have_addresses_of_both_families(client):
    of_pool = m.BatchPublicIpAddressConfiguration(ip_families=["IPv4", "IPv6"])
    network = m.NetworkConfiguration(public_ip_address_configuration=of_pool)
    first, second = create_pool(client, "dual", target_dedicated_nodes=2, network_configuration=network)
    addresses = {(node.ip_address, node.ipv6_address) for node in (first, second)}
    assert addresses == {("10.0.0.4", "fd00::4"), ("10.0.0.5", "fd00::5")}
    endpoints = first.endpoint_configuration.inbound_endpoints
    assert [(each.name, each.public_ip_address) for each in endpoints] == [
        ("SSHRule.0", "192.0.2.1"),
        ("SSHRule-ipv6.0", "2001:db8::1"),
    ]
    settings = client.get_node_remote_login_settings("dual", first.id)
    assert settings.remote_login_ip_address == "192.0.2.1"
    assert (settings.ipv6_remote_login_ip_address, settings.ipv6_remote_login_port) == ("2001:db8::1", 50000)


def test_the_image_of_a_node_has_its_exact_version(client, node):
    reference = node.virtual_machine_info.image_reference
    assert (reference.sku, reference.version, reference.exact_version) == ("server", "latest", "latest")


def test_operations_on_nodes_that_are_not_served_are_named(client, node):
    logs = m.UploadBatchServiceLogsOptions(container_url="https://a.example/c", start_time=node.allocation_time)
    calls: dict[str, Callable[[], object]] = {
        "upload_node_logs": lambda: client.upload_node_logs("pool", node.id, logs),
        "list_node_extensions": lambda: list(client.list_node_extensions("pool", node.id)),
        "get_node_extension": lambda: client.get_node_extension("pool", node.id, "monitor"),
    }
    for name, call in calls.items():
        with pytest.raises(HttpResponseError) as refusal:
            call()
        assert (refusal.value.status_code, refusal.value.error.code) == (501, "NotImplemented")
        assert f"The operation {name} is not implemented" in refusal.value.error.message


def test_nodes_are_filtered_and_selected(client, node):
    assert [
        item.id for item in client.list_nodes("pool", filter="startTaskInfo/exitCode eq 0 and state eq 'idle'")
    ] == [node.id]
    (item,) = client.list_nodes("pool", select=["id", "state"])
    assert item.as_dict() == {"id": node.id, "state": "idle"}


def test_missing_node_differs_from_a_missing_pool(client, node):
    for pool, code in (("pool", "NodeNotFound"), ("none", "PoolNotFound")):
        with pytest.raises(ResourceNotFoundError) as refusal:
            client.get_node(pool, "none")
        assert refusal.value.error.code == code
