"""The machines of pools in specifications: image, disks, extensions, mounts. Not whether this machine can have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from local_azure.batch.engine import container_specs, resource_ids
from local_azure.batch.engine.images import NODE_AGENTS, is_windows, node_agent_of
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.store import Document

MAXIMUM_LUN = 63  # of a data disk
_MACHINE = "virtualMachineConfiguration"
_MOUNTS = "mountConfiguration"
_OF_GALLERY = ("virtualMachineImageId", "sharedGalleryImageId", "communityGalleryImageId")
_BLOB_KEYS = ("accountKey", "sasKey", "identityReference")
_SECRETS = ("accountKey", "sasKey", "password", "protectedSettings")


def check(spec: Document) -> None:
    """Check the machine of a pool. Raises BatchError."""
    machine = spec.get(_MACHINE)
    if machine is None:
        raise BatchError(Code.MissingRequiredProperty, f"The property is {_MACHINE}.", PropertyName=_MACHINE)
    _check_image(machine)
    if "windowsConfiguration" in machine and not is_windows(machine):
        raise invalid_property(f"{_MACHINE}.windowsConfiguration", "", "the image is one of Linux")
    _check_disks(machine.get("dataDisks", ()))
    names = [each["name"] for each in machine.get("extensions", ())]
    _check_distinct(f"{_MACHINE}.extensions", names)
    for mount in spec.get(_MOUNTS, ()):
        _check_mount(mount)


def complete(spec: Document) -> None:
    """Add documented defaults, and remove keys and passwords, which are not stored."""
    machine = spec.get(_MACHINE, {})
    if "publisher" in (reference := machine.get("imageReference", {})):
        reference.setdefault("version", "latest")
    for disk in machine.get("dataDisks", ()):
        disk.setdefault("caching", "ReadWrite")
    if disk := machine.get("osDisk"):
        disk.setdefault("ephemeralOSDiskSettings", {})
    systems = [system for mount in spec.get(_MOUNTS, ()) for system in mount.values()]
    registries = machine.get("containerConfiguration", {}).get("containerRegistries", ())
    for each in (*machine.get("extensions", ()), *systems, *registries):
        for name in _SECRETS:
            each.pop(name, None)


def _check_image(machine: Document) -> None:
    reference = machine["imageReference"]
    resource_ids.check_image(reference)
    agent_given = machine["nodeAgentSKUId"]
    if "virtualMachineImageId" in reference and agent_given.lower() not in NODE_AGENTS:
        raise invalid_property(
            f"{_MACHINE}.nodeAgentSKUId", agent_given, "it is not the node agent of a supported image"
        )
    if any(name in reference for name in _OF_GALLERY):
        return
    agent = node_agent_of(reference)
    if agent is None:
        # The values are those of a recorded answer.
        image = " ".join(f"{name} {reference.get(name, '')}" for name in ("publisher", "offer", "sku"))
        reason = f"The specified imageReference with {image} is not supported."
        detail = f"{reason} GET /supportedimages lists those that are."
        raise BatchError(Code.InvalidPropertyValue, detail, PropertyName="imageReference", Reason=reason)
    if agent_given.lower() != agent:
        raise invalid_property(f"{_MACHINE}.nodeAgentSKUId", agent_given, f"the node agent for this image is {agent!r}")
    container_specs.check_machine(machine)


def _check_disks(disks: Iterable[Document]) -> None:
    path = f"{_MACHINE}.dataDisks"
    for disk in disks:
        if not 0 <= disk["lun"] <= MAXIMUM_LUN:
            raise invalid_property(f"{path}.lun", disk["lun"], f"it must be between 0 and {MAXIMUM_LUN}")
        if disk["diskSizeGB"] < 1:
            raise invalid_property(f"{path}.diskSizeGB", disk["diskSizeGB"], "it must be positive")
    _check_distinct(f"{path}.lun", [disk["lun"] for disk in disks])


def _check_distinct(path: str, values: list[object]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise invalid_property(path, value, "it is given more than once")


def _check_mount(mount: Document) -> None:
    if len(mount) != 1:
        raise invalid_property(_MOUNTS, ", ".join(mount), "give exactly one file system in each of its entries")
    blob = mount.get("azureBlobFileSystemConfiguration")
    given = [name for name in _BLOB_KEYS if blob and name in blob]
    if blob and len(given) != 1:
        path = f"{_MOUNTS}.azureBlobFileSystemConfiguration"
        raise invalid_property(path, ", ".join(given), f"give exactly one of {', '.join(_BLOB_KEYS)}")
