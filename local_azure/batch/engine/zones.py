"""Availability zones of a pool, since API version 2026-10-01: accepted and shown, since one machine has none."""

from __future__ import annotations

from local_azure.batch.state.errors import invalid_property
from local_azure.batch.state.store import Document

PLACEMENT, POLICY = "placement", "resiliencyPolicy"
_MACHINE = "virtualMachineConfiguration"


def check(machine: Document) -> None:
    """Check both properties of a virtualMachineConfiguration. Raises BatchError."""
    if PLACEMENT in machine and "nodePlacementConfiguration" in machine:
        raise invalid_property(f"{_MACHINE}.{PLACEMENT}", "", "it cannot be combined with nodePlacementConfiguration")
    policy = machine.get(POLICY)
    if policy is None:
        return
    if PLACEMENT not in machine:
        raise invalid_property(f"{_MACHINE}.{POLICY}", "", "it requires placement.zonePlacementPolicy to be Auto")
    allocation, path = policy["zoneAllocationPolicy"], f"{_MACHINE}.{POLICY}.zoneAllocationPolicy"
    if (count := allocation.get("maxZoneCount", 1)) < 1:
        raise invalid_property(f"{path}.maxZoneCount", count, "it must be positive")
    percent = allocation.get("maxInstancePercentPerZonePolicy", {}).get("value", 1)
    if not 1 <= percent <= 100:
        reason = "it must be between 1 and 100"
        raise invalid_property(f"{path}.maxInstancePercentPerZonePolicy.value", percent, reason)


def keep(machine: Document, patch: Document) -> None:
    """Keep what a patch of the virtualMachineConfiguration does not name: both outlive a patch of the rest."""
    for name in (PLACEMENT, POLICY):
        if name in machine:
            patch.setdefault(name, machine[name])
