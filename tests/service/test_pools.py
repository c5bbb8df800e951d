from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from tests.support.batch_service import SLOW, create_pool, pool_options, wait_for, wait_for_nodes
from tests.support.raw_requests import Raw

_GROUP = "/subscriptions/s/resourceGroups/g/providers"


def machine(**image: str) -> m.VirtualMachineConfiguration:
    reference = m.BatchVmImageReference(**image)
    return m.VirtualMachineConfiguration(image_reference=reference, node_agent_sku_id="batch.node.ubuntu 24.04")


OWN_IMAGE = machine(virtual_machine_image_id=f"{_GROUP}/Microsoft.Compute/images/i")
SHARED_IMAGE = machine(shared_gallery_image_id="/galleries/g/images/i")
COMMUNITY_IMAGE = machine(community_gallery_image_id="image")
OWN_ADDRESS = m.NetworkConfiguration(
    public_ip_address_configuration=m.BatchPublicIpAddressConfiguration(
        ip_address_provisioning_type="usermanaged", ip_address_ids=["192.0.2.1"]
    )
)


def test_pool_and_node_pass_through_their_states_in_azures_order(start_service):
    service = start_service(SLOW)
    client = service.client()
    client.create_pool(pool_options(start_task=m.BatchStartTask(command_line="/bin/true", wait_for_success=True)))

    def states() -> tuple[str, list[str]]:
        return client.get_pool("pool").allocation_state, [node.state for node in client.list_nodes("pool")]

    wait_for(lambda: states() == ("resizing", ["creating"]))
    service.advance(seconds=61)
    wait_for(lambda: states() == ("steady", ["starting"]))
    service.advance(seconds=61)
    wait_for(lambda: states() == ("steady", ["idle"]))
    node = next(iter(client.list_nodes("pool")))
    assert node.start_task_info.state == "completed"
    assert node.start_task_info.exit_code == 0
    client.begin_delete_pool("pool")
    assert client.get_pool("pool").state == "deleting"
    wait_for(lambda: [node.state for node in client.list_nodes("pool")] == ["leavingpool"])
    service.advance(seconds=61)
    wait_for(lambda: not list(client.list_pools()))


def test_pool_without_nodes_is_resizing_before_it_is_steady(start_service):
    service = start_service(SLOW)
    client = service.client()
    client.create_pool(pool_options(target_dedicated_nodes=0))
    assert client.get_pool("pool").allocation_state == "resizing"
    service.advance(seconds=61)
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")


def test_defaults_are_shown(client):
    client.create_pool(m.BatchPoolCreateOptions(id="Pool", vm_size="standard_d2s_v3", **_machine()))
    pool = client.get_pool("pOOL")
    assert pool.id == "Pool"
    assert pool.resize_timeout == timedelta(minutes=15)
    assert (pool.target_dedicated_nodes, pool.target_low_priority_nodes) == (0, 0)
    assert (pool.current_dedicated_nodes, pool.current_low_priority_nodes) == (0, 0)
    assert pool.enable_auto_scale is False
    assert pool.enable_inter_node_communication is False
    assert pool.task_slots_per_node == 1
    assert pool.task_scheduling_policy["nodeFillType"] == "Spread"
    assert pool.virtual_machine_configuration.image_reference.version == "latest"
    assert pool.url.endswith("/pools/Pool")


def _machine() -> dict[str, Any]:
    return {"virtual_machine_configuration": pool_options().virtual_machine_configuration}


def test_defaults_of_parts_are_shown_as_azure_shows_them(client):
    machine = m.VirtualMachineConfiguration(
        image_reference=pool_options().virtual_machine_configuration.image_reference,
        node_agent_sku_id="batch.node.ubuntu 24.04",
        os_disk=m.BatchOsDisk(caching="none"),
    )
    network = m.NetworkConfiguration(enable_accelerated_networking=True)
    client.create_pool(
        pool_options(target_dedicated_nodes=0, virtual_machine_configuration=machine, network_configuration=network)
    )
    pool = client.get_pool("pool")
    assert pool.network_configuration.dynamic_vnet_assignment_scope == "none"
    assert pool.virtual_machine_configuration.os_disk["ephemeralOSDiskSettings"] == {}
    assert pool.task_scheduling_policy.job_default_order == "none"


def test_clients_of_older_versions_read_their_properties(service):
    """As in a recorded answer of Azure to a client of 2024-02-01.19.0."""
    raw, version = Raw(service), "2024-02-01.19.0"
    machine = {
        "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"},
        "nodeAgentSKUId": "batch.node.ubuntu 24.04",
    }
    former = {"resourceTags": {"dept": "finance"}, "targetNodeCommunicationMode": "classic"}
    pool = {"id": "pool", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": machine, **former}
    assert raw("POST", "/pools", body=pool, version=version).status_code == 201
    old, new = (raw("GET", "/pools/pool", version=of).json() for of in (version, "2025-06-01"))
    assert {name: old[name] for name in former} == former
    assert old["taskSchedulingPolicy"] == {"nodeFillType": "Spread"}
    assert not former.keys() & new.keys()
    assert new["taskSchedulingPolicy"] == {"jobDefaultOrder": "none", "nodeFillType": "Spread"}
    counts = [raw("GET", "/nodecounts", version=of).json()["value"][0]["dedicated"] for of in (version, "2025-06-01")]
    assert ["deallocated" in each for each in counts] == [False, True]


def test_a_pool_that_is_being_deleted_has_no_targets(start_service):
    client = start_service(SLOW).client()
    client.create_pool(pool_options(target_dedicated_nodes=2))
    client.begin_delete_pool("pool")
    pool = client.get_pool("pool")
    assert (pool.state, pool.target_dedicated_nodes, pool.target_low_priority_nodes) == ("deleting", 0, 0)


def test_nodes_have_an_endpoint_that_says_that_nobody_can_log_in(client):
    (node,) = create_pool(client)
    (endpoint,) = node.endpoint_configuration.inbound_endpoints
    assert (endpoint.name, endpoint.protocol, endpoint.backend_port) == ("SSHRule.0", "tcp", 22)
    assert endpoint.public_fqdn == "no-remote-login.invalid"
    assert node.ipv6_address is None
    assert node.recent_tasks is None


def test_values_are_read_in_azures_form_whatever_was_sent(client):
    machine = pool_options().virtual_machine_configuration
    machine.os_disk = m.BatchOsDisk(caching="readwrite")
    machine.node_placement_configuration = m.BatchNodePlacementConfiguration(policy="zonal")
    machine.security_profile = m.SecurityProfile(security_type="trustedLaunch")
    policy = m.BatchTaskSchedulingPolicy(node_fill_type="pack")
    client.create_pool(
        m.BatchPoolCreateOptions(
            id="pool", vm_size="Standard_D2s_v3", virtual_machine_configuration=machine, task_scheduling_policy=policy
        )
    )
    pool = client.get_pool("pool")
    machine = pool.virtual_machine_configuration
    assert (pool.vm_size, pool.task_scheduling_policy["nodeFillType"]) == ("standard_d2s_v3", "Pack")
    assert (machine.os_disk.caching, machine.node_placement_configuration.policy) == ("ReadWrite", "Zonal")
    assert machine.security_profile.security_type == "trustedlaunch"


def test_pool_ids_are_unique_regardless_of_case(client):
    client.create_pool(pool_options("pool", target_dedicated_nodes=0))
    with pytest.raises(ResourceExistsError) as refusal:
        client.create_pool(pool_options("POOL"))
    assert refusal.value.error.code == "PoolExists"


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"pool_id": "a b"}, "InvalidPropertyValue", "id"),
        ({"pool_id": "x" * 65}, "InvalidPropertyValue", "id"),
        ({"pool_id": "../up"}, "InvalidPropertyValue", "id"),
        ({"vm_size": " "}, "InvalidPropertyValue", "vmSize"),
        ({"task_slots_per_node": 9}, "InvalidPropertyValue", "taskSlotsPerNode"),
        ({"target_dedicated_nodes": -1}, "InvalidPropertyValue", "targetDedicatedNodes"),
        ({"resize_timeout": timedelta(minutes=4)}, "InvalidPropertyValue", "resizeTimeout"),
        ({"virtual_machine_configuration": None}, "MissingRequiredProperty", "virtualMachineConfiguration"),
        ({"network_configuration": m.NetworkConfiguration(subnet_id="net")}, "InvalidPropertyValue", "subnetId"),
        ({"network_configuration": OWN_ADDRESS}, "InvalidPropertyValue", "ipAddressIds"),
        ({"virtual_machine_configuration": OWN_IMAGE}, "InvalidPropertyValue", "virtualMachineImageId"),
        ({"virtual_machine_configuration": SHARED_IMAGE}, "InvalidPropertyValue", "sharedGalleryImageId"),
        ({"virtual_machine_configuration": COMMUNITY_IMAGE}, "InvalidPropertyValue", "communityGalleryImageId"),
        ({"start_task": m.BatchStartTask(command_line="")}, "InvalidPropertyValue", "startTask.commandLine"),
    ],
)
def test_bad_pools_are_refused_by_property(client, options, code, named):
    with pytest.raises(HttpResponseError) as refusal:
        client.create_pool(pool_options(**options))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, code)
    assert next(item for item in refusal.value.model.error_values if item.key == "PropertyName").value == named
    assert not list(client.list_pools())


def test_unknown_image_is_refused(client):
    machine = m.VirtualMachineConfiguration(
        image_reference=m.BatchVmImageReference(publisher="canonical", offer="ubuntu", sku="no-such"),
        node_agent_sku_id="batch.node.ubuntu 24.04",
    )
    with pytest.raises(HttpResponseError) as refusal:
        client.create_pool(pool_options(virtual_machine_configuration=machine))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")
    assert {value.key: value.value for value in refusal.value.model.error_values} == {
        "PropertyName": "imageReference",
        "Reason": "The specified imageReference with publisher canonical offer ubuntu sku no-such is not supported.",
    }


def test_a_node_that_is_created_has_not_joined_its_pool(start_service):
    service = start_service(SLOW)
    client = service.client()
    client.create_pool(pool_options(target_low_priority_nodes=1))
    wait_for_nodes(client, "pool", "creating", "creating")
    pool = client.get_pool("pool")
    assert (pool.current_dedicated_nodes, pool.current_low_priority_nodes) == (0, 0)
    service.advance(seconds=61)
    wait_for_nodes(client, "pool", "starting", "starting")
    pool = client.get_pool("pool")
    assert (pool.current_dedicated_nodes, pool.current_low_priority_nodes) == (1, 1)


def test_usage_metrics_are_an_empty_list(client):
    create_pool(client)
    until = datetime(2026, 3, 6, tzinfo=timezone.utc)
    assert list(client.list_pool_usage_metrics()) == []
    of_a_day: Any = {"start_time": until - timedelta(days=1), "end_time": until, "filter": "poolId eq 'pool'"}
    assert list(client.list_pool_usage_metrics(**of_a_day)) == []


def test_resize_adds_and_removes_nodes(client):
    create_pool(client, target_dedicated_nodes=1)
    client.begin_resize_pool(
        "pool", m.BatchPoolResizeOptions(target_dedicated_nodes=3, target_low_priority_nodes=1), polling_interval=0.02
    ).result()
    nodes = wait_for_nodes(client, "pool", "idle", "idle", "idle", "idle")
    assert sorted(node.id[-2:] for node in nodes) == ["_d", "_d", "_d", "_p"]
    pool = client.get_pool("pool")
    assert (pool.current_dedicated_nodes, pool.current_low_priority_nodes) == (3, 1)
    client.begin_resize_pool(
        "pool", m.BatchPoolResizeOptions(target_dedicated_nodes=0, target_low_priority_nodes=0), polling_interval=0.02
    ).result()
    assert list(client.list_nodes("pool")) == []


def test_resizing_pool_cannot_be_resized(start_service):
    client = start_service(SLOW).client()
    client.create_pool(pool_options())
    with pytest.raises(ResourceExistsError) as refusal:
        client.begin_resize_pool("pool", m.BatchPoolResizeOptions(target_dedicated_nodes=2))
    assert refusal.value.error.code == "PoolBeingResized"


def test_stopped_resize_is_reported_and_keeps_its_targets(start_service):
    service = start_service(SLOW)
    client = service.client()
    client.create_pool(pool_options(target_dedicated_nodes=0))
    service.advance(seconds=61)
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    client.begin_resize_pool("pool", m.BatchPoolResizeOptions(target_dedicated_nodes=2))
    resized = client.get_pool("pool").etag
    client.begin_stop_pool_resize("pool")
    assert client.get_pool("pool").allocation_state == "stopping"
    assert client.get_pool("pool").etag == resized, "as in recorded answers of Azure"
    service.advance(seconds=61)
    pool = wait_for(lambda: next((p for p in client.list_pools() if p.allocation_state == "steady"), None))
    assert [error.code for error in pool.resize_errors] == ["ResizeStopped"]
    assert pool.target_dedicated_nodes == 2


def test_resize_beyond_the_quota_ends_with_its_error(client):
    client.create_pool(pool_options(target_dedicated_nodes=0))
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    poller = client.begin_resize_pool(
        "pool", m.BatchPoolResizeOptions(target_dedicated_nodes=201), polling_interval=0.02
    )
    poller.result()
    pool = client.get_pool("pool")
    assert [error.code for error in pool.resize_errors] == ["AccountCoreQuotaReached"]
    assert pool.current_dedicated_nodes == 200


def test_removed_nodes_lower_the_target(client):
    first, _ = create_pool(client, target_dedicated_nodes=2)
    client.begin_remove_nodes("pool", m.BatchNodeRemoveOptions(node_ids=[first.id]), polling_interval=0.02).result()
    pool = client.get_pool("pool")
    assert (pool.target_dedicated_nodes, pool.current_dedicated_nodes) == (1, 1)
    assert first.id not in [node.id for node in client.list_nodes("pool")]


def test_patch_merges_and_replace_removes(client):
    client.create_pool(pool_options(target_dedicated_nodes=0, start_task=m.BatchStartTask(command_line="/bin/true")))
    client.update_pool("pool", m.BatchPoolUpdateOptions(metadata=[m.BatchMetadataItem(name="a", value="b")]))
    pool = client.get_pool("pool")
    assert pool.start_task.command_line == "/bin/true"
    assert [(item.name, item.value) for item in pool.metadata] == [("a", "b")]
    client.replace_pool_properties("pool", m.BatchPoolReplaceOptions(application_package_references=[], metadata=[]))
    pool = client.get_pool("pool")
    assert pool.start_task is None
    assert pool.metadata is None


def test_deleting_pool_refuses_changes(start_service):
    client = start_service(SLOW).client()
    client.create_pool(pool_options())
    client.begin_delete_pool("pool")
    for change in (
        lambda: client.begin_delete_pool("pool"),
        lambda: client.update_pool("pool", m.BatchPoolUpdateOptions(metadata=[])),
        lambda: client.create_pool(pool_options()),
    ):
        with pytest.raises(ResourceExistsError) as refusal:
            change()
        assert refusal.value.error.code == "PoolBeingDeleted"


def test_exists_and_missing_pools(client):
    client.create_pool(pool_options(target_dedicated_nodes=0))
    assert client.pool_exists("pool") is True
    # azure-batch 15.1.0 raises where it means to answer False.
    with pytest.raises(ResourceNotFoundError):
        client.pool_exists("other")
    with pytest.raises(ResourceNotFoundError) as refusal:
        client.get_pool("other")
    assert refusal.value.error.code == "PoolNotFound"
    with pytest.raises(ResourceNotFoundError) as refusal:
        list(client.list_nodes("other"))
    assert refusal.value.error.code == "PoolNotFound"


def test_node_counts_name_every_pool(client):
    create_pool(client, "one")
    create_pool(client, "two", target_dedicated_nodes=0, target_low_priority_nodes=2)
    counts = {item.pool_id: item for item in client.list_pool_node_counts()}
    assert (counts["one"].dedicated.idle, counts["one"].dedicated.total) == (1, 1)
    assert (counts["two"].low_priority.idle, counts["two"].dedicated.total) == (2, 0)
    assert [item.pool_id for item in client.list_pool_node_counts(filter="poolId eq 'two'")] == ["two"]


@pytest.mark.parametrize(
    ("kind", "path"), [("Network", "virtualNetworks/v/subnets/s"), ("Compute", "galleries/g/images/i")]
)
def test_resources_of_the_user_need_entra_id_as_in_azure(client, kind, path):
    resource = f"/subscriptions/s/resourceGroups/g/providers/Microsoft.{kind}/{path}"
    image = m.VirtualMachineConfiguration(
        image_reference=m.BatchVmImageReference(virtual_machine_image_id=resource),
        node_agent_sku_id="batch.node.ubuntu 24.04",
    )
    if kind == "Network":
        options = pool_options(network_configuration=m.NetworkConfiguration(subnet_id=resource))
    else:
        options = pool_options(virtual_machine_configuration=image)
    with pytest.raises(HttpResponseError) as error:
        client.create_pool(options)
    assert (error.value.status_code, error.value.error.code) == (403, "AuthenticationFailed")
    detail = f"authentication SharedKey is not allowed when external resources of type {kind} are linked."
    assert error.value.response.json()["values"] == [
        {"key": "AuthenticationErrorDetail", "value": f"The specified type of {detail}"}
    ]


def test_a_pool_without_public_addresses_needs_a_subnet(client):
    addresses = m.BatchPublicIpAddressConfiguration(ip_address_provisioning_type="nopublicipaddresses")
    network = m.NetworkConfiguration(public_ip_address_configuration=addresses)
    with pytest.raises(HttpResponseError) as error:
        client.create_pool(pool_options(network_configuration=network))
    assert (error.value.status_code, error.value.error.code) == (400, "InvalidPropertyValue")


def test_pool_without_nodes_takes_another_vm_size(client):
    formula = m.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes = 1;")
    client.create_pool(pool_options(target_dedicated_nodes=0))
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    client.update_pool("pool", m.BatchPoolUpdateOptions(vm_size="Standard_D4s_v5", **_machine()))
    assert client.get_pool("pool").vm_size == "standard_d4s_v5"
    client.enable_pool_auto_scale("pool", formula)
    (node,) = wait_for_nodes(client, "pool", "idle")
    assert node.vm_size == "standard_d4s_v5"
    with pytest.raises(ResourceExistsError) as refusal:
        client.update_pool("pool", m.BatchPoolUpdateOptions(vm_size="Standard_D2s_v5"))
    assert refusal.value.error.code == "OperationInvalidForCurrentState"


def test_autoscaled_pool_without_nodes_takes_another_vm_size(client):
    formula: dict[str, Any] = {"enable_auto_scale": True, "auto_scale_formula": "$TargetDedicatedNodes = 0;"}
    client.create_pool(pool_options(target_dedicated_nodes=None, **formula))
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    client.update_pool("pool", m.BatchPoolUpdateOptions(vm_size="Standard_D4s_v5"))
    pool = client.get_pool("pool")
    assert (pool.vm_size, pool.enable_auto_scale) == ("standard_d4s_v5", True)


def test_vm_size_with_too_few_cores_for_the_slots_is_refused(client):
    client.create_pool(pool_options(target_dedicated_nodes=0, vm_size="Standard_D4s_v5", task_slots_per_node=16))
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    with pytest.raises(HttpResponseError) as refusal:
        client.update_pool("pool", m.BatchPoolUpdateOptions(vm_size="Standard_D2s_v5"))
    details = {each.key: each.value for each in refusal.value.model.error_values}
    assert (refusal.value.status_code, details["PropertyName"]) == (400, "taskSlotsPerNode")


def test_resizing_pool_keeps_its_vm_size(start_service):
    client = start_service(SLOW).client()
    client.create_pool(pool_options(target_dedicated_nodes=0))
    with pytest.raises(ResourceExistsError) as refusal:
        client.update_pool("pool", m.BatchPoolUpdateOptions(vm_size="Standard_D2s_v5"))
    assert refusal.value.error.code == "PoolBeingResized"
