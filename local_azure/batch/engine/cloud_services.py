"""Pools of cloud services, which API versions before 2024-07-01.20.0 have: they can be created, but get no nodes.

Azure has retired cloud services; their nodes ran Windows.
"""

from __future__ import annotations

from local_azure.batch.state.errors import invalid_property
from local_azure.batch.state.store import Document

PROPERTY = "cloudServiceConfiguration"
FAMILIES = ("2", "3", "4", "5", "6")  # of Windows Server, as the API's reference lists them
WHY_NO_NODES = "Azure has retired cloud services, whose nodes ran Windows; the nodes of this machine run Linux"


def is_one(pool: Document) -> bool:
    return PROPERTY in pool


def complete(spec: Document) -> None:
    """Check the specification of such a pool, and add its defaults. Raises BatchError."""
    configuration = spec[PROPERTY]
    if "virtualMachineConfiguration" in spec:
        raise invalid_property(PROPERTY, "", "give either it or virtualMachineConfiguration")
    if configuration["osFamily"] not in FAMILIES:
        reason = f"it must be one of {', '.join(FAMILIES)}"
        raise invalid_property(f"{PROPERTY}.osFamily", configuration["osFamily"], reason)
    configuration.setdefault("osVersion", "*")
    for account in spec.get("userAccounts", ()):
        account.setdefault("windowsUserConfiguration", {}).setdefault("loginMode", "interactive")
