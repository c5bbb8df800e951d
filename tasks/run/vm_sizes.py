"""VM sizes by their names: how many cores a node has, and how many task slots Azure lets it have."""

from __future__ import annotations

import re

SLOTS_PER_CORE, MOST_SLOTS = 4, 256  # Azure's limits (azure-docs, batch-capacity-planning.md of 2026-09-16)

_NAME = re.compile(r"(?:standard|basic)_([a-z]+)(\d+)(?:-(\d+))?([a-z]*)((?:_[a-z0-9]+)*)", re.IGNORECASE)
_NUMBERED = {"a", "d", "ds", "g", "gs"}  # in the oldest series the number is not that of the cores


def cores(vm_size: str) -> int | None:
    """The cores of a node: 2 of Standard_D2as_v5 and of Standard_E4-2s_v5; None where the name does not show them."""
    found = _NAME.fullmatch(vm_size)
    if found is None:
        return None
    family, number, constrained, features, rest = found.groups()
    if constrained:
        return int(constrained)
    oldest = family.lower() in _NUMBERED and not features and rest.lower() in ("", "_v2")
    return None if oldest and not (family.lower() == "a" and rest) else int(number)


def most_slots(vm_size: str) -> int:
    """The most task slots of a node; where its cores are not known, those of the largest."""
    known = cores(vm_size)
    return MOST_SLOTS if known is None else min(SLOTS_PER_CORE * known, MOST_SLOTS)
