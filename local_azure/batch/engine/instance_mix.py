"""Instance Mix pools, since API version 2026-10-01: nodes of one of several VM sizes."""

from __future__ import annotations

from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.store import Document

PROPERTY = "vmSkuProfile"
MIX = "mix"  # the vmSize of such a pool
MAXIMUM_SIZES = 5


def complete(spec: Document) -> None:
    """Check the profile of a pool, if it has one, and add its default strategy. Raises BatchError."""
    profile = spec.get(PROPERTY)
    if (spec["vmSize"].lower() == MIX) != (profile is not None):
        raise invalid_property("vmSize", spec["vmSize"], f"it must be 'Mix' with a {PROPERTY}, and only then")
    if profile is None:
        return
    sizes, path = profile.get("vmSizes"), f"{PROPERTY}.vmSizes"
    if sizes is None:
        raise BatchError(Code.MissingRequiredProperty, f"The property is {path}.", PropertyName=path)
    if not 1 <= len(sizes) <= MAXIMUM_SIZES:
        raise invalid_property(path, len(sizes), f"give 1 to {MAXIMUM_SIZES} VM sizes")
    ranked = profile.setdefault("allocationStrategy", "lowestPrice") == "prioritized"
    for size in sizes:
        if ("rank" in size) != ranked:
            reason = "it is required with the strategy prioritized, and refused with others"
            raise invalid_property(f"{path}.rank", size.get("rank", ""), reason)
        if size.get("rank", 0) < 0:
            raise invalid_property(f"{path}.rank", size["rank"], "it must not be negative")


def sizes(pool: Document) -> list[str]:
    """The VM sizes that nodes of the pool may have, the preferred one first."""
    if PROPERTY not in pool:
        return [pool["vmSize"]]
    ordered = sorted(pool[PROPERTY]["vmSizes"], key=lambda size: size.get("rank", 0))
    return [size["name"].lower() for size in ordered]
