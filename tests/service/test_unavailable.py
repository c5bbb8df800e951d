"""Pools whose nodes this machine cannot have: created, read, changed and deleted as in Azure, but without nodes."""

from __future__ import annotations

from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.support.batch_service import MACHINE, create_job, pool_options, task, wait_for, wait_for_nodes
from tests.support.raw_requests import Raw

QUICKLY: Any = {"polling_interval": 0.02}  # an int, says the SDK
WINDOWS = {
    "imageReference": {"publisher": "MicrosoftWindowsServer", "offer": "WindowsServer", "sku": "2022-Datacenter"},
    "nodeAgentSKUId": "batch.node.windows amd64",
}
LINUX = MACHINE.as_dict()
EXTENSION = {"name": "monitor", "publisher": "Microsoft.Azure.Monitor", "type": "AzureMonitorLinuxAgent"}
NFS = {"nfsMountConfiguration": {"source": "host:/share", "relativeMountPath": "share"}}
BLOBS = {"accountName": "account", "containerName": "data", "relativeMountPath": "data"}
DISK = {"lun": 0, "diskSizeGB": 32}
KEY = {"keyUrl": "https://v.example/keys/k/1", "identityReference": {"resourceId": "/subscriptions/s/identity"}}
# The property that the resize error names, its pool's machine, and the pool's further options.
FEATURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "virtualMachineConfiguration.imageReference": (WINDOWS, {}),
    "virtualMachineConfiguration.dataDisks": ({**LINUX, "dataDisks": [DISK]}, {}),
    "virtualMachineConfiguration.diskEncryptionConfiguration": (
        {**LINUX, "diskEncryptionConfiguration": {"targets": ["temporarydisk"], "customerManagedKey": KEY}},
        {},
    ),
    "virtualMachineConfiguration.extensions": ({**LINUX, "extensions": [EXTENSION]}, {}),
    "virtualMachineConfiguration.containerConfiguration": (
        {**LINUX, "containerConfiguration": {"type": "criCompatible"}},
        {},
    ),
    "mountConfiguration": (LINUX, {"mount_configuration": [m.MountConfiguration(NFS)]}),
}


def options(machine: dict[str, Any], nodes: int = 0, **more: Any) -> m.BatchPoolCreateOptions:
    configuration = m.VirtualMachineConfiguration(machine)
    return pool_options(virtual_machine_configuration=configuration, target_dedicated_nodes=nodes, **more)


def errors_of(client) -> list[tuple[str, list[str]]]:
    """Codes of the pool's resize errors, each with the properties that it names."""
    pool = client.get_pool("pool")
    return [(error.code, [each.name for each in error.error_values]) for error in pool.resize_errors or ()]


def steady(client) -> m.BatchPool:
    return wait_for(lambda: pool if (pool := client.get_pool("pool")).allocation_state == "steady" else None)


@pytest.mark.parametrize("named", FEATURES)
def test_pool_that_can_have_no_nodes_lives_without_them(client, named, caplog):
    machine, more = FEATURES[named]
    client.create_pool(options(machine, **more))
    pool = steady(client)
    assert pool.resize_errors is None
    assert pool.virtual_machine_configuration.as_dict().items() >= read_back(machine).items()
    for change in ({"targetDedicatedNodes": 2}, {"targetDedicatedNodes": 0, "targetLowPriorityNodes": 1}):
        client.begin_resize_pool("pool", m.BatchPoolResizeOptions(change), **QUICKLY).result()
        assert errors_of(client) == [("IncompatibleVMSize", [named])]
    pool = client.get_pool("pool")
    assert (pool.current_dedicated_nodes, pool.current_low_priority_nodes) == (0, 0)
    assert f"no node of this machine fits {named}" in pool.resize_errors[0].message
    assert f"Pool pool: not resized as asked: IncompatibleVMSize: {pool.resize_errors[0].message}" in caplog.messages
    client.begin_resize_pool("pool", m.BatchPoolResizeOptions(target_low_priority_nodes=0), **QUICKLY).result()
    assert errors_of(client) == []
    client.begin_delete_pool("pool", **QUICKLY).result()
    with pytest.raises(ResourceNotFoundError):
        client.get_pool("pool")


def read_back(machine: dict[str, Any]) -> dict[str, Any]:
    """The machine with the defaults that are added when it is read."""
    shown = {**machine, "imageReference": {**machine["imageReference"], "version": "latest"}}
    return {**shown, "dataDisks": [{**DISK, "caching": "ReadWrite"}]} if "dataDisks" in machine else shown


def test_a_resize_error_names_all_that_cannot_be_had(client):
    machine = {**WINDOWS, "dataDisks": [DISK], "windowsConfiguration": {"enableAutomaticUpdates": False}}
    client.create_pool(options(machine, nodes=1, mount_configuration=[m.MountConfiguration(NFS)]))
    wait_for(lambda: client.get_pool("pool").resize_errors)
    names = ["imageReference", "dataDisks"]
    paths = [*(f"virtualMachineConfiguration.{name}" for name in names), "mountConfiguration"]
    assert errors_of(client) == [("IncompatibleVMSize", paths)]
    shown = client.get_pool("pool").virtual_machine_configuration
    assert shown.windows_configuration.as_dict() == {"enableAutomaticUpdates": False}


def test_autoscale_of_a_pool_without_possible_nodes_ends_with_an_error(client):
    client.create_pool(options(WINDOWS))
    steady(client)
    formula = m.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes = 1;")
    client.enable_pool_auto_scale("pool", formula)
    wait_for(lambda: client.get_pool("pool").resize_errors)
    assert errors_of(client) == [("IncompatibleVMSize", ["virtualMachineConfiguration.imageReference"])]
    assert client.get_pool("pool").current_dedicated_nodes == 0


def test_the_auto_pool_of_a_job_shows_its_error_and_the_task_waits(client):
    specification = m.BatchPoolSpecification(
        vm_size="standard_d2s_v3",
        target_dedicated_nodes=1,
        virtual_machine_configuration=m.VirtualMachineConfiguration(WINDOWS),
    )
    auto = m.BatchAutoPoolSpecification(pool_lifetime_option="job", pool=specification)
    client.create_job(m.BatchJobCreateOptions(id="job", pool_info=m.BatchPoolInfo(auto_pool_specification=auto)))
    client.create_task("job", task())
    pool = client.get_job("job").execution_info.pool_id
    (error,) = wait_for(lambda: client.get_pool(pool).resize_errors)
    assert error.code == "IncompatibleVMSize"
    assert client.get_task("job", "task").state == "active"


def test_a_pool_that_is_changed_to_linux_gets_nodes(client):
    client.create_pool(options({**WINDOWS, "dataDisks": [DISK]}, nodes=1))
    wait_for(lambda: client.get_pool("pool").resize_errors)
    client.update_pool("pool", m.BatchPoolUpdateOptions(virtual_machine_configuration=MACHINE))
    client.begin_resize_pool("pool", m.BatchPoolResizeOptions(target_dedicated_nodes=1), **QUICKLY).result()
    wait_for_nodes(client, "pool", "idle")
    assert client.get_pool("pool").resize_errors is None


def test_a_pool_without_nodes_is_changed_to_what_cannot_be_had(client):
    client.create_pool(options(LINUX))
    steady(client)
    change = m.BatchPoolUpdateOptions(
        virtual_machine_configuration=m.VirtualMachineConfiguration({**LINUX, "dataDisks": [DISK]}),
        mount_configuration=[m.MountConfiguration({"azureBlobFileSystemConfiguration": {**BLOBS, "sasKey": "s3cr3t"}})],
    )
    client.update_pool("pool", change)
    pool = client.get_pool("pool")
    assert [disk.caching for disk in pool.virtual_machine_configuration.data_disks] == ["ReadWrite"]
    assert [mount.as_dict() for mount in pool.mount_configuration] == [{"azureBlobFileSystemConfiguration": BLOBS}]
    with pytest.raises(HttpResponseError) as refusal:
        client.update_pool("pool", m.BatchPoolUpdateOptions(mount_configuration=[m.MountConfiguration({})]))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")


def test_settings_of_an_extension_may_be_text(client, service):
    """As in examples of the specification, which show them as they were given."""
    extension = {**EXTENSION, "settings": '{"verbose": "yes"}', "protectedSettings": '{"token": "s3cr3t"}'}
    client.create_pool(options({**LINUX, "extensions": [extension]}))
    (shown,) = Raw(service)("GET", "/pools/pool").json()["virtualMachineConfiguration"]["extensions"]
    assert shown == {**EXTENSION, "settings": '{"verbose": "yes"}'}


def test_keys_of_mounts_and_settings_of_extensions_are_not_kept(client, service):
    share = {"accountName": "account", "azureFileUrl": "https://account.example/share", "relativeMountPath": "share"}
    cifs = {"username": "me", "source": "//host/share", "relativeMountPath": "cifs"}
    mounts = [
        {"azureBlobFileSystemConfiguration": {**BLOBS, "accountKey": "s3cr3t"}},
        {"azureFileShareConfiguration": {**share, "accountKey": "s3cr3t"}},
        {"cifsMountConfiguration": {**cifs, "password": "s3cr3t"}},
    ]
    protected = {**EXTENSION, "settings": {"verbose": "yes"}, "protectedSettings": {"token": "s3cr3t"}}
    mounted = [m.MountConfiguration(each) for each in mounts]
    client.create_pool(options({**LINUX, "extensions": [protected]}, mount_configuration=mounted))
    pool = client.get_pool("pool")
    assert [next(iter(mount.as_dict().values())) for mount in pool.mount_configuration] == [BLOBS, share, cifs]
    (extension,) = pool.virtual_machine_configuration.extensions
    assert extension.as_dict() == {**EXTENSION, "settings": {"verbose": "yes"}}
    for file in service.data.glob("batch.db*"):
        assert b"s3cr3t" not in file.read_bytes()


def test_users_of_windows_have_the_login_mode_of_batch(client):
    account = m.UserAccount(name="me", password="s3cr3t")
    client.create_pool(options(WINDOWS, user_accounts=[account]))
    (shown,) = client.get_pool("pool").user_accounts
    assert (shown.elevation_level, shown.windows_user_configuration.login_mode) == ("nonadmin", "batch")


@pytest.mark.parametrize(
    ("machine", "property"),
    [
        ({**LINUX, "dataDisks": [{**DISK, "lun": 64}]}, "dataDisks.lun"),
        ({**LINUX, "dataDisks": [DISK, DISK]}, "dataDisks.lun"),
        ({**LINUX, "dataDisks": [{**DISK, "diskSizeGB": 0}]}, "dataDisks.diskSizeGB"),
        ({**LINUX, "dataDisks": [{**DISK, "caching": "fast"}]}, "dataDisks[0].caching"),
        ({**LINUX, "diskEncryptionConfiguration": {"targets": ["paper"]}}, "diskEncryptionConfiguration.targets[0]"),
        ({**LINUX, "extensions": [EXTENSION, EXTENSION]}, "extensions"),
        ({**LINUX, "extensions": [{**EXTENSION, "settings": "none"}]}, "extensions[0].settings"),
        ({**LINUX, "extensions": [{**EXTENSION, "settings": "[1]"}]}, "extensions[0].settings"),
        ({**LINUX, "windowsConfiguration": {"enableAutomaticUpdates": True}}, "windowsConfiguration"),
        ({**WINDOWS, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}, "nodeAgentSKUId"),
    ],
)
def test_malformed_machines_are_refused_at_creation(client, machine, property):
    assert refused(client, options(machine)) == f"virtualMachineConfiguration.{property}"


@pytest.mark.parametrize(
    ("mount", "property"),
    [
        ({}, "mountConfiguration"),
        ({**NFS, "cifsMountConfiguration": {**NFS["nfsMountConfiguration"], "username": "u", "password": "p"}}, ""),
        ({"azureBlobFileSystemConfiguration": BLOBS}, ".azureBlobFileSystemConfiguration"),
        (
            {"azureBlobFileSystemConfiguration": {**BLOBS, "accountKey": "k", "sasKey": "s"}},
            ".azureBlobFileSystemConfiguration",
        ),
    ],
)
def test_malformed_mounts_are_refused_at_creation(client, mount, property):
    given = options(LINUX, mount_configuration=[m.MountConfiguration(mount)])
    assert refused(client, given) == f"mountConfiguration{property.removeprefix('mountConfiguration')}"


def refused(client, given: m.BatchPoolCreateOptions) -> str:
    """The property with which the pool is refused."""
    with pytest.raises(HttpResponseError) as refusal:
        client.create_pool(given)
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")
    return next(each.value for each in refusal.value.model.error_values if each.key == "PropertyName")


def test_windows_images_are_listed_beside_those_of_linux(client):
    images = list(client.list_supported_images(filter="osType eq 'windows'"))
    assert {image.node_agent_sku_id for image in images} == {"batch.node.windows amd64"}
    listed = {image.image_reference.sku: image for image in images}
    assert listed["2016-datacenter-smalldisk"].batch_support_end_of_life.isoformat() == "2027-01-12T00:00:00+00:00"
    assert listed["2022-datacenter"].capabilities is None
    for sku in ("2022-datacenter-g2", "2019-datacenter-core-g2", "2022-datacenter-core-smalldisk-g2"):
        assert listed[sku].capabilities == ["Generation2VMImage"]
    linux = list(client.list_supported_images(filter="osType eq 'linux'"))
    assert len(images) + len(linux) == len(list(client.list_supported_images()))


def test_images_that_azure_takes_no_more_are_refused(client):
    reference = {"publisher": "canonical", "offer": "ubuntuserver", "sku": "18.04-lts"}
    given = options({"imageReference": reference, "nodeAgentSKUId": "batch.node.ubuntu 18.04"})
    assert refused(client, given) == "imageReference"


def test_a_job_on_windows_runs_no_task_on_linux(client):
    client.create_pool(options(WINDOWS, nodes=1))
    create_job(client)
    client.create_task("job", task(command_line="cmd /c dir"))
    wait_for(lambda: client.get_pool("pool").resize_errors)
    assert client.get_task("job", "task").state == "active"
    assert list(client.list_nodes("pool")) == []
