"""What a version of the API has and others have not: clients send and read the properties of the version they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.transport import RequestsTransport

from tests.support.batch_service import SLOW, RunningService, wait_for
from tests.support.raw_requests import VERSION, Raw

NEWEST, CLOUD = "2026-10-01", "2024-02-01.19.0"  # the last version with cloud services
MACHINE = {
    "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"},
    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
}
POOL = {"id": "pool", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE}
CLOUD_POOL = {"id": "pool", "vmSize": "small", "cloudServiceConfiguration": {"osFamily": "4"}}
AUTO = {"zonePlacementPolicy": "Auto"}
MIX = {"vmSizes": [{"name": "Standard_D2s_v3", "rank": 1}, {"name": "Standard_D2as_v5", "rank": 0}]}
LIMITED = {"zoneAllocationPolicy": {"maxZoneCount": 2, "maxInstancePercentPerZonePolicy": {"value": 50}}}


@pytest.fixture
def raw(service: RunningService) -> Raw:
    return Raw(service)


@pytest.fixture
def newest(service: RunningService) -> Any:
    """The SDK of an older version, told to speak the newest; bodies are JSON, which its types do not say."""
    return service.client(api_version=NEWEST, transport=RequestsTransport())


def code(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def refusal(call: Callable[[], Any]) -> tuple[Any, ...]:
    """Status, code and named property of the refusal of a call."""
    with pytest.raises(HttpResponseError) as refused:
        call()
    values = {item.key: item.value for item in refused.value.model.error_values or ()}
    return refused.value.status_code, refused.value.error.code, values.get("PropertyName", "")


def steady(raw: Raw, version: str = CLOUD) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        pool = raw("GET", "/pools/pool", version=version).json()
        return pool if pool["allocationState"] == "steady" else None

    return wait_for(look)


def test_a_pool_of_cloud_services_lives_without_nodes(raw: Raw) -> None:
    assert raw("POST", "/pools", body=CLOUD_POOL, version=CLOUD).status_code == 201
    pool = steady(raw)
    assert pool["cloudServiceConfiguration"] == {"osFamily": "4", "osVersion": "*"}
    assert "virtualMachineConfiguration" not in pool
    patch = {"metadata": [{"name": "a", "value": "b"}]}
    assert raw("PATCH", "/pools/pool", body=patch, version=CLOUD).status_code == 200
    assert steady(raw)["metadata"] == patch["metadata"]
    assert raw("DELETE", "/pools/pool", version=CLOUD).status_code == 202


def test_nodes_of_cloud_services_are_refused_by_resize_errors(raw: Raw) -> None:
    raw("POST", "/pools", body={**CLOUD_POOL, "targetDedicatedNodes": 2}, version=CLOUD)
    pool = steady(raw)
    assert (pool["currentDedicatedNodes"], pool["targetDedicatedNodes"]) == (0, 2)
    (error,) = pool["resizeErrors"]
    assert (error["code"], error["values"][0]["name"]) == ("IncompatibleVMSize", "cloudServiceConfiguration")


def test_a_resize_of_cloud_services_can_be_stopped(start_service: Callable[..., RunningService]) -> None:
    raw = Raw(start_service(SLOW))
    raw("POST", "/pools", body={**CLOUD_POOL, "targetLowPriorityNodes": 3}, version=CLOUD)
    assert raw("POST", "/pools/pool/stopresize", version=CLOUD).status_code == 202


@pytest.mark.parametrize("version", ["2024-07-01.20.0", VERSION, NEWEST])
def test_later_versions_have_no_cloud_services(raw: Raw, version: str) -> None:
    refused = raw("POST", "/pools", body=CLOUD_POOL, version=version)
    assert code(refused) == (400, "InvalidRequestBody")
    assert {"key": "PropertyName", "value": "cloudServiceConfiguration"} in refused.json()["values"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({**CLOUD_POOL, "virtualMachineConfiguration": MACHINE}, "cloudServiceConfiguration"),
        ({**CLOUD_POOL, "cloudServiceConfiguration": {"osFamily": "12"}}, "cloudServiceConfiguration.osFamily"),
    ],
)
def test_an_invalid_cloud_service_is_refused_by_name(raw: Raw, body: object, named: str) -> None:
    refused = raw("POST", "/pools", body=body, version=CLOUD)
    assert code(refused) == (400, "InvalidPropertyValue")
    assert {"key": "PropertyName", "value": named} in refused.json()["values"]


def test_pools_show_what_the_version_of_the_reader_has(raw: Raw) -> None:
    tags = {"resourceTags": {"dept": "finance"}, "targetNodeCommunicationMode": "Classic"}
    upgrade = {"upgradePolicy": {"mode": "manual"}}
    assert raw("POST", "/pools", body={**POOL, **tags, **upgrade}, version=CLOUD).status_code == 201
    shown = {version: raw("GET", "/pools/pool", version=version).json() for version in (CLOUD, VERSION)}
    assert shown[CLOUD]["resourceTags"] == {"dept": "finance"}
    assert shown[CLOUD]["targetNodeCommunicationMode"] == "classic"
    assert shown[CLOUD]["taskSchedulingPolicy"] == {"nodeFillType": "Spread"}
    assert shown[VERSION]["taskSchedulingPolicy"] == {"nodeFillType": "Spread", "jobDefaultOrder": "none"}
    assert not shown[VERSION].keys() & tags.keys()
    before = raw("GET", "/pools/pool", version="2023-05-01.17.0").json()
    assert not before.keys() & {"resourceTags", "upgradePolicy"}
    (listed,) = raw("GET", "/pools?$select=resourceTags", version=CLOUD).json()["value"]
    assert listed == {"resourceTags": {"dept": "finance"}}
    assert code(raw("GET", "/pools?$select=resourceTags")) == (400, "InvalidQueryParameterValue")


@pytest.mark.parametrize(
    ("version", "more"),
    [
        ("2023-11-01.18.0", {"upgradePolicy": {"mode": "manual"}}),
        ("2023-05-01.17.0", {"resourceTags": {"a": "b"}}),
        ("2022-01-01.15.0", {"targetNodeCommunicationMode": "classic"}),
        ("2024-07-01.20.0", {"taskSchedulingPolicy": {"nodeFillType": "pack", "jobDefaultOrder": "none"}}),
        (VERSION, {"resourceTags": {"a": "b"}}),
        (VERSION, {"certificateReferences": []}),
        (VERSION, {"vmSkuProfile": MIX}),
    ],
)
def test_a_property_of_another_version_is_refused(raw: Raw, version: str, more: dict[str, Any]) -> None:
    assert code(raw("POST", "/pools", body={**POOL, **more}, version=version)) == (400, "InvalidRequestBody")


@pytest.mark.parametrize(("mode", "current"), [("classic", "classic"), ("default", "simplified")])
def test_pools_with_nodes_show_how_these_communicate(raw: Raw, mode: str, current: str) -> None:
    raw("POST", "/pools", body={**POOL, "targetNodeCommunicationMode": mode}, version=CLOUD)
    assert "currentNodeCommunicationMode" not in steady(raw)
    raw("POST", "/pools/pool/resize", body={"targetDedicatedNodes": 1}, version=CLOUD)
    assert steady(raw)["currentNodeCommunicationMode"] == current
    assert "currentNodeCommunicationMode" not in raw("GET", "/pools/pool").json()


def test_an_empty_list_of_certificates_is_none_until_replaced(raw: Raw) -> None:
    assert raw("POST", "/pools", body={**POOL, "certificateReferences": []}, version=CLOUD).status_code == 201
    assert "certificateReferences" not in steady(raw)
    body: dict[str, Any] = {"certificateReferences": [], "applicationPackageReferences": [], "metadata": []}
    assert raw("POST", "/pools/pool/updateproperties", body=body, version=CLOUD).status_code == 204
    pool = steady(raw)
    assert (pool["certificateReferences"], pool["targetNodeCommunicationMode"]) == ([], "default")


def test_a_certificate_does_not_exist(raw: Raw) -> None:
    references = {"certificateReferences": [{"thumbprint": "0AF", "thumbprintAlgorithm": "sha1"}]}
    refused = raw("POST", "/pools", body={**POOL, **references}, version=CLOUD)
    assert code(refused) == (409, "InvalidCertificateReferences")
    assert refused.json()["values"] == [{"key": "sha1-0af", "value": "The specified certificate does not exist."}]


def test_a_job_whose_auto_pool_has_no_certificate_completes(raw: Raw) -> None:
    references = [{"thumbprint": "0AF", "thumbprintAlgorithm": "sha1", "storeLocation": "localmachine"}]
    machine = {"vmSize": "small", "cloudServiceConfiguration": {"osFamily": "4"}, "certificateReferences": references}
    pool_info = {"autoPoolSpecification": {"poolLifetimeOption": "job", "pool": machine}}
    assert raw("POST", "/jobs", body={"id": "job", "poolInfo": pool_info}, version=CLOUD).status_code == 201
    job = raw("GET", "/jobs/job", version=CLOUD).json()
    error = job["executionInfo"]["schedulingError"]
    assert (job["state"], error["category"], error["code"]) == (
        "completed",
        "UserError",
        "InvalidCertificatesInAutoPool",
    )
    assert error["details"] == [{"name": "sha1-0af", "value": "The specified certificate does not exist."}]
    (shown,) = job["poolInfo"]["autoPoolSpecification"]["pool"]["certificateReferences"]
    assert shown["storeLocation"] == "LocalMachine"
    assert raw("GET", "/pools", version=CLOUD).json()["value"] == []


def test_a_task_that_needs_a_token_fails_when_it_would_run(raw: Raw) -> None:
    raw("POST", "/pools", body={**POOL, "targetDedicatedNodes": 1})
    raw("POST", "/jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})
    task = {"id": "task", "commandLine": "/bin/true", "authenticationTokenSettings": {"access": ["job"]}}
    assert raw("POST", "/jobs/job/tasks", body=task, version=CLOUD).status_code == 201
    path = "/jobs/job/tasks/task"
    wait_for(lambda: raw("GET", path).json()["state"] == "completed")
    assert "authenticationTokenSettings" not in raw("GET", path).json()
    shown = raw("GET", path, version=CLOUD).json()
    assert shown["authenticationTokenSettings"] == {"access": ["job"]}
    assert shown["executionInfo"]["failureInfo"]["code"] == "NotImplemented"


def test_node_counts_have_the_states_of_their_version(raw: Raw) -> None:
    raw("POST", "/pools", body=POOL)

    def states(version: str) -> set[str]:
        (counts,) = raw("GET", "/nodecounts", version=version).json()["value"]
        return set(counts["dedicated"])

    assert states(VERSION) - states(CLOUD) == {"deallocated", "deallocating"}
    assert states(CLOUD) - states("2023-11-01.18.0") == {"upgradingOS"}


@pytest.mark.parametrize("operation", ["deallocate", "start"])
def test_operations_are_unknown_to_versions_before_them(raw: Raw, operation: str) -> None:
    path = f"/pools/pool/nodes/node/{operation}"
    assert code(raw("POST", path, version="2024-02-01.19.0")) == (400, "InvalidUri")
    assert code(raw("POST", path, version="2024-07-01.20.0")) == (404, "PoolNotFound")


def test_the_newest_version_has_no_usage_metrics(raw: Raw) -> None:
    assert code(raw("GET", "/poolusagemetrics", version=NEWEST)) == (400, "InvalidUri")
    before = raw("GET", "/poolusagemetrics")
    assert before.status_code == 200 or code(before) == (501, "NotImplemented")


def test_ipv6_addresses_are_shown_to_versions_that_have_them(raw: Raw) -> None:
    network = {"publicIPAddressConfiguration": {"ipFamilies": ["IPv4", "IPv6"]}}
    raw("POST", "/pools", body={**POOL, "networkConfiguration": network, "targetDedicatedNodes": 1})
    (node,) = wait_for(lambda: raw("GET", "/pools/pool/nodes").json()["value"])
    path = f"/pools/pool/nodes/{node['id']}"

    def shown(version: str) -> set[str]:
        answers = [raw("GET", where, version=version).json() for where in (path, f"{path}/remoteloginsettings")]
        return {name for answer in answers for name in answer if "ipv6" in name.lower()}

    since_2025 = {"ipv6Address", "ipv6RemoteLoginIPAddress", "ipv6RemoteLoginPort"}
    assert shown("2024-07-01.20.0") == set()
    assert shown("2025-06-01") == since_2025
    assert shown(NEWEST) == since_2025 | {"publicIPv6Address"}
    assert raw("GET", path, version=NEWEST).json()["publicIPv6Address"] == "2001:db8::1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/pools/pool/resize", {"targetDedicatedNodes": 0, "nodeDeallocationOption": "retaineddata"}),
        ("/pools/pool/nodes/node/reboot", {"nodeRebootOption": "retaineddata"}),
        ("/pools/pool/nodes/node/reimage", {"nodeReimageOption": "retaineddata"}),
        ("/pools/pool/nodes/node/deallocate", {"nodeDeallocateOption": "retaineddata"}),
    ],
)
def test_the_newest_version_has_no_retained_data(raw: Raw, path: str, body: dict[str, Any]) -> None:
    refused = raw("POST", path, body=body, version=NEWEST)
    assert code(refused) == (400, "InvalidPropertyValue")
    assert {"key": "PropertyValue", "value": "retaineddata"} in refused.json()["values"]
    assert code(raw("POST", path, body=body)) == (404, "PoolNotFound")


def test_an_instance_mix_pool_has_nodes_of_the_first_rank(newest: Any, raw: Raw) -> None:
    profile = {**MIX, "allocationStrategy": "Prioritized"}
    newest.create_pool({**POOL, "vmSize": "Mix", "vmSkuProfile": profile, "targetDedicatedNodes": 1})
    wait_for(lambda: [node.state for node in newest.list_nodes("pool")] == ["idle"])
    assert newest.get_pool("pool")["vmSkuProfile"] == {**MIX, "allocationStrategy": "prioritized"}
    (node,) = newest.list_nodes("pool")
    assert (node.vm_size, node["publicIPAddress"]) == ("standard_d2as_v5", "192.0.2.1")
    assert "vmSkuProfile" not in raw("GET", "/pools/pool").json()
    assert "publicIPAddress" not in raw("GET", "/pools/pool/nodes").json()["value"][0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vmSize": "standard_d2s_v3"}, "vmSize"),
        ({"vmSkuProfile": None}, "vmSize"),
        ({"vmSkuProfile": {"allocationStrategy": "lowestPrice"}}, "vmSkuProfile.vmSizes"),
        ({"vmSkuProfile": {"vmSizes": []}}, "vmSkuProfile.vmSizes"),
        ({"vmSkuProfile": {"vmSizes": [{"name": f"standard_d{n}s_v3"} for n in range(6)]}}, "vmSkuProfile.vmSizes"),
        ({"vmSkuProfile": MIX}, "vmSkuProfile.vmSizes.rank"),
        (
            {"vmSkuProfile": {"vmSizes": [{"name": "a"}], "allocationStrategy": "prioritized"}},
            "vmSkuProfile.vmSizes.rank",
        ),
        ({"vmSkuProfile": {"vmSizes": [{"name": "standard_d2s_v3"}]}, "taskSlotsPerNode": 9}, "taskSlotsPerNode"),
    ],
)
def test_an_invalid_instance_mix_is_refused_by_name(newest: Any, changes: dict[str, Any], named: str) -> None:
    mix = {"vmSize": "Mix", "vmSkuProfile": {"vmSizes": [{"name": "standard_d2s_v3"}]}}
    status, _, name = refusal(lambda: newest.create_pool({**POOL, **mix, **changes}))
    assert (status, name) == (400, named)


def test_zones_are_shown_and_outlive_a_patch_of_the_machine(newest: Any, raw: Raw) -> None:
    machine = {**MACHINE, "placement": AUTO, "resiliencyPolicy": LIMITED}
    newest.create_pool({**POOL, "virtualMachineConfiguration": machine})
    steady(raw, NEWEST)
    newest.update_pool("pool", {"virtualMachineConfiguration": MACHINE})
    shown = newest.get_pool("pool").virtual_machine_configuration
    assert (shown["placement"], shown["resiliencyPolicy"]) == (AUTO, LIMITED)
    assert not raw("GET", "/pools/pool").json()["virtualMachineConfiguration"].keys() & {
        "placement",
        "resiliencyPolicy",
    }


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"placement": AUTO, "nodePlacementConfiguration": {"policy": "zonal"}}, "placement"),
        ({"resiliencyPolicy": LIMITED}, "resiliencyPolicy"),
        (
            {"placement": AUTO, "resiliencyPolicy": {"zoneAllocationPolicy": {"maxZoneCount": 0}}},
            "resiliencyPolicy.zoneAllocationPolicy.maxZoneCount",
        ),
        (
            {
                "placement": AUTO,
                "resiliencyPolicy": {"zoneAllocationPolicy": {"maxInstancePercentPerZonePolicy": {"value": 101}}},
            },
            "resiliencyPolicy.zoneAllocationPolicy.maxInstancePercentPerZonePolicy.value",
        ),
    ],
)
def test_invalid_zones_are_refused_by_name(newest: Any, more: dict[str, Any], named: str) -> None:
    body = {**POOL, "virtualMachineConfiguration": {**MACHINE, **more}}
    refused = refusal(lambda: newest.create_pool(body))
    assert refused == (400, "InvalidPropertyValue", f"virtualMachineConfiguration.{named}")


def test_a_hardware_profile_is_for_pools_that_are_not_automatic(newest: Any) -> None:
    machine = {**MACHINE, "hardwareProfile": {"vmSizeProperties": {"vCPUsAvailable": 1, "vCPUsPerCore": 1}}}
    newest.create_pool({**POOL, "virtualMachineConfiguration": machine})
    shown = newest.get_pool("pool").virtual_machine_configuration
    assert shown["hardwareProfile"] == machine["hardwareProfile"]
    pool = {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": machine}
    auto = {"autoPoolSpecification": {"poolLifetimeOption": "job", "pool": pool}}
    status, _, named = refusal(lambda: newest.create_job({"id": "job", "poolInfo": auto}))
    assert (status, named.rpartition(".")[2]) == (400, "hardwareProfile")
