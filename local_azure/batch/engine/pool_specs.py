"""Pool specifications: validation and defaults, for pools and auto pools."""

from __future__ import annotations

import re
from datetime import timedelta

from local_azure.batch.engine import (
    autoscale,
    cloud_services,
    instance_mix,
    machine_specs,
    references,
    resource_ids,
    task_specs,
    zones,
)
from local_azure.batch.engine.images import is_windows
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.store import Document
from local_azure.batch.state.wire import duration, parse_duration

MINIMUM_RESIZE_TIMEOUT = timedelta(minutes=5)
MAXIMUM_SLOTS_PER_NODE = 256
# The Dv2 sizes are numbered; newer sizes have the number of cores in their name.
_DV2_CORES = {1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 11: 2, 12: 4, 13: 8, 14: 16, 15: 20}


def with_defaults(spec: Document) -> Document:
    """The specification with defaults. Raises BatchError if it is invalid."""
    _check_machine(spec)
    check_targets(spec)
    autoscale.check_spec(spec)
    spec = {
        "resizeTimeout": "PT15M",
        "targetDedicatedNodes": 0,
        "targetLowPriorityNodes": 0,
        "enableAutoScale": False,
        "enableInterNodeCommunication": False,
        "taskSlotsPerNode": 1,
        **spec,
    }
    policy = {"jobDefaultOrder": "none", "nodeFillType": "Spread"}
    spec["taskSchedulingPolicy"] = {**policy, **spec.get("taskSchedulingPolicy", {})}
    if "networkConfiguration" in spec:
        spec["networkConfiguration"].setdefault("dynamicVNetAssignmentScope", "none")
    check_slots(spec)
    if "startTask" in spec:
        spec["startTask"] = start_task(spec["startTask"])
    _complete(spec, spec.get("virtualMachineConfiguration", {}))
    return spec


def check_machine_change(pool: Document, patch: Document) -> None:
    """Complete a patch of the machine of a pool without nodes. Raises BatchError if the pool would be invalid."""
    if "virtualMachineConfiguration" in patch:
        zones.keep(pool.get("virtualMachineConfiguration", {}), patch["virtualMachineConfiguration"])
    changed = {**pool, **patch}
    _check_machine(changed)
    check_slots(changed)
    _complete(patch, changed.get("virtualMachineConfiguration", {}))


def _complete(spec: Document, machine: Document) -> None:
    """Add the defaults of a specification or a patch for a pool of that machine; passwords are not stored."""
    if "vmSize" in spec:
        spec["vmSize"] = spec["vmSize"].lower()
    references.complete(spec)
    machine_specs.complete(spec)
    for account in spec.get("userAccounts", ()):
        account.pop("password")
        account.setdefault("elevationLevel", "nonadmin")
        if is_windows(machine):
            account.setdefault("windowsUserConfiguration", {}).setdefault("loginMode", "batch")


def refuse_linked_resources(spec: Document) -> None:
    """Refuse a subnet, or an image of a gallery, from a client that has signed with the account's key.

    Raises BatchError in Azure's words, which Azure/aztk#240 and MicrosoftDocs/azure-docs#51092 quote.
    """
    machine = spec.get("virtualMachineConfiguration", {})
    linked = {
        "Compute": "virtualMachineImageId" in machine.get("imageReference", {}),
        "Network": "subnetId" in spec.get("networkConfiguration", {}),
    }
    for kind in (kind for kind, is_linked in linked.items() if is_linked):
        reason = f"The specified type of authentication SharedKey is not allowed when external resources of type {kind}"
        raise BatchError(Code.AuthenticationFailed, AuthenticationErrorDetail=f"{reason} are linked.")


def start_task(task: Document) -> Document:
    task_specs.check_command(task, "startTask.")
    identity = task_specs.user_identity(task)
    return {"maxTaskRetryCount": 0, "waitForSuccess": True, **task, "userIdentity": identity}


def check_targets(body: Document) -> None:
    for name in ("targetDedicatedNodes", "targetLowPriorityNodes"):
        if body.get(name, 0) < 0:
            raise invalid_property(name, body[name], "it must not be negative")
    check_resize_timeout(body)


def check_resize_timeout(body: Document) -> None:
    if "resizeTimeout" in body and parse_duration(body["resizeTimeout"]) < MINIMUM_RESIZE_TIMEOUT:
        reason = f"it must be at least {duration(MINIMUM_RESIZE_TIMEOUT)}"
        raise invalid_property("resizeTimeout", body["resizeTimeout"], reason)


def check_slots(spec: Document) -> None:
    allowed = min(*(4 * cores(size) for size in instance_mix.sizes(spec)), MAXIMUM_SLOTS_PER_NODE)
    if not 1 <= spec["taskSlotsPerNode"] <= allowed:
        reason = f"it must be between 1 and {allowed} for the size {spec['vmSize']}"
        raise invalid_property("taskSlotsPerNode", spec["taskSlotsPerNode"], reason)


def cores(vm_size: str) -> int:
    """The cores of a VM size, derived from its name: 2 for standard_d2s_v3."""
    match = re.match(r"(?:standard|basic)_([a-z]+)(\d+)(?:-(\d+))?[a-z]*(?:_[a-z0-9]+)*?(?:_v(\d+))?\Z", vm_size, re.I)
    if not match:
        return MAXIMUM_SLOTS_PER_NODE
    family, number, constrained, version = match.groups()
    if version == "2" and family.lower() in ("d", "ds"):
        return _DV2_CORES.get(int(number), int(number))
    # The numbers of the oldest series do not give the cores.
    return int(constrained or number) if version or family.lower() not in ("a", "d", "ds", "g", "gs") else 64


def _check_machine(spec: Document) -> None:
    if not spec["vmSize"].strip():
        raise invalid_property("vmSize", spec["vmSize"], "it must not be empty")
    instance_mix.complete(spec)
    _check_network(spec.get("networkConfiguration", {}))
    if cloud_services.is_one(spec):
        cloud_services.complete(spec)
        return
    zones.check(spec.get("virtualMachineConfiguration", {}))
    machine_specs.check(spec)


def _check_network(network: Document) -> None:
    resource_ids.check_network(network)
    provisioning = network.get("publicIPAddressConfiguration", {}).get("provision", "")
    if provisioning.lower() == "nopublicipaddresses" and "subnetId" not in network:
        path = "networkConfiguration.publicIPAddressConfiguration.provision"
        raise invalid_property(path, provisioning, "a pool without public IP addresses needs a subnetId")
