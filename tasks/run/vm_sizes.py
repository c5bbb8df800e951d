"""VM sizes by their names: cores, quota family, and when Azure retires them. Names are compared without case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

# Azure's limits (azure-docs, batch-capacity-planning.md of 2026-09-16).
SLOTS_PER_CORE, MOST_SLOTS = 4, 256

# Each has a quota of its own. On the first three, Microsoft's GA4GH TES has allocated Batch pools in more than 40
# regions (its list of May 2025); the last is what Azure's compute team recommends in place of v2 and v3 sizes
# (azure-cli#31358). All boot images of both generations, from a disk that needs no NVMe driver: v6 sizes do not.
# Those with a local disk for temporary files come first.
DEFAULT_SIZES = ("Standard_D2ads_v5", "Standard_D2ds_v5", "Standard_D2s_v5", "Standard_D2as_v5")

# What Azure has announced, as read on that day: the retirement pages of its docs on VM sizes.
READ_ON = date(2026, 11, 28)
_RETIREMENTS = (
    # day, series, the names of its sizes
    (date(2026, 9, 30), "NVv3", r"nv\d+s_v3"),
    (date(2026, 9, 30), "NVv4", r"nv\d+as_v4"),
    (date(2028, 5, 1), "D", r"d\d+"),
    (date(2028, 5, 1), "Ds", r"ds\d+"),
    (date(2028, 5, 1), "Dv2", r"d\d+_v2"),
    (date(2028, 5, 1), "Dsv2", r"ds\d+(-\d+)?_v2"),
    (date(2028, 5, 1), "Ls", r"l\d+s"),
    (date(2028, 11, 15), "Av2", r"a\d+m?_v2"),
    (date(2028, 11, 15), "F", r"f\d+"),
    (date(2028, 11, 15), "Fs", r"f\d+s"),
    (date(2028, 11, 15), "Fsv2", r"f\d+s_v2"),
    (date(2028, 11, 15), "G", r"gs?\d+(-\d+)?"),
    (date(2028, 11, 15), "Lsv2", r"l\d+s_v2"),
    (date(2028, 11, 15), "B", r"b\d+[a-z]*"),
)

# Letters of the family, a number, constrained cores, letters of features; then accelerator and version.
_NAME = re.compile(r"(?:standard|basic)_([a-z]+)(\d+)(?:-(\d+))?([a-z]*)((?:_[a-z0-9]+)*)")
# Sizes of D, Ds, Dv2 and Dsv2 are numbered; the number in the names of later ones is that of their cores.
_CORES_OF_D = {1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 11: 2, 12: 4, 13: 8, 14: 16, 15: 20}
_NUMBERED = {"a", "g", "gs"}  # the first versions of these are numbered, too: their cores are not known here


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What the name of a VM size has."""

    family: str
    number: int
    constrained: int | None
    features: str
    rest: str  # such as "_t4_v3"


def _parts(vm_size: str) -> _Parts | None:
    name = vm_size.lower().removesuffix("_promo")
    if not (found := _NAME.fullmatch(name)):
        return None
    family, number, constrained, features, rest = found.groups()
    cores = int(constrained) if constrained else None
    return _Parts(family=family, number=int(number), constrained=cores, features=features, rest=rest)


def cores(vm_size: str) -> int | None:
    """The cores of a node: 2 of Standard_D2as_v5 and of Standard_E4-2s_v5; None where the name does not show them."""
    parts = _parts(vm_size)
    if parts is None:
        return None
    if parts.constrained:
        return parts.constrained
    if parts.family in ("d", "ds") and parts.rest in ("", "_v2") and not parts.features:
        return _CORES_OF_D.get(parts.number)
    return None if parts.family in _NUMBERED and not parts.rest else parts.number


def most_slots(vm_size: str) -> int:
    """The most task slots that Azure lets a node have; where its cores are not known, those of the largest."""
    known = cores(vm_size)
    return MOST_SLOTS if known is None else min(SLOTS_PER_CORE * known, MOST_SLOTS)


def family(vm_size: str) -> str:
    """What the sizes that share a quota have in common in their names; the name itself where it is none that is known.

    Azure's own names, such as standardDADSv5Family, are not needed to distinguish them.
    """
    parts = _parts(vm_size)
    return f"{parts.family}{parts.features}{parts.rest}" if parts else vm_size.lower()


def same_size(one: str, other: str) -> bool:
    return one.lower() == other.lower()


def retirement_warnings(vm_sizes: Sequence[str], today: date) -> list[str]:
    """A warning for each size whose series Azure retires, or has retired."""
    found = []
    for vm_size in vm_sizes:
        name = vm_size.lower().removeprefix("standard_").removesuffix("_promo")
        for day, series, names in _RETIREMENTS:
            if re.fullmatch(names, name):
                verb = "retires" if today < day else "has retired"
                found.append(
                    f"VM size {vm_size}: Azure {verb} its series {series} on {day} and limits its quota before "
                    f"(announced by {READ_ON}); use a current size, such as {DEFAULT_SIZES[0]}"
                )
    return found
