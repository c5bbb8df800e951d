"""Decides which properties of a pool the nodes of this machine cannot have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from local_azure.batch.engine import cloud_services
from local_azure.batch.engine.images import is_windows
from local_azure.batch.state.store import Document

# The code for pools that never get nodes: Azure has it for a VM size that does not support what the pool asks for.
CODE = "IncompatibleVMSize"
_MESSAGE = "Requested VM size is not compatible with requested configuration"

_OF_MACHINE = {
    "dataDisks": "no disk can be attached to a node of this machine",
    "extensions": "no extension can be installed on a node of this machine",
}


def unavailable(pool: Document, why_no_containers: Callable[[Document], str]) -> Mapping[str, str]:
    """The properties that keep the pool from having nodes here, each with the reason; empty if it can have some.

    why_no_containers: why nodes with a containerConfiguration cannot be had; only called for pools that have one.
    """
    if cloud_services.is_one(pool):
        return {cloud_services.PROPERTY: cloud_services.WHY_NO_NODES}
    machine = pool["virtualMachineConfiguration"]
    found = {name: reason for name, reason in _OF_MACHINE.items() if machine.get(name)}
    if is_windows(machine):
        found = {"imageReference": "the nodes of this machine run Linux", **found}
    if machine.get("diskEncryptionConfiguration", {}).get("targets"):
        found["diskEncryptionConfiguration"] = "the disks of this machine are not encrypted for a node"
    configuration = machine.get("containerConfiguration")
    if configuration and (reason := why_no_containers(configuration)):
        found["containerConfiguration"] = reason
    paths = {f"virtualMachineConfiguration.{name}": reason for name, reason in found.items()}
    if pool.get("mountConfiguration"):
        paths["mountConfiguration"] = "no file system can be mounted on a node of this machine"
    return paths


def resize_error(reasons: Mapping[str, str]) -> Document:
    """The entry of resizeErrors that names these properties."""
    return {
        "code": CODE,
        "message": f"{_MESSAGE}: no node of this machine fits {', '.join(reasons)}",
        "values": [{"name": name, "value": reason} for name, reason in reasons.items()],
    }
