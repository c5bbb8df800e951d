"""The versions of the API: those that are served, and what each has that others have not.

versions.json names what each version added and removed: properties by their model, values by their enumeration. It
also has the shapes of what the models of the installed azure-batch (shapes.json) lack. It was written from the
specification of each version (specification/batch/data-plane in Azure/azure-rest-api-specs).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_TABLE = json.loads(Path(__file__).with_name("versions.json").read_text(encoding="utf-8"))
BODIES: Mapping[str, Mapping[str, str]] = _TABLE["bodies"]
VALUES: Mapping[str, list[str]] = _TABLE["values"]
SERVED: tuple[str, ...] = tuple(_TABLE["versions"])  # from the oldest to the newest; they compare as text
OF_SHAPES = "2025-06-01"  # the version of shapes.json


@cache
def _spans() -> Mapping[tuple[str, str], tuple[str, str]]:
    """Since which version a property or a value exists, and until which; "" for those that have no such version."""
    spans: dict[tuple[str, str], tuple[str, str]] = {}
    for version, changes in _TABLE["versions"].items():
        for kind, names in changes["added"].items():
            spans |= {(kind, name): (version, "") for name in names}
        for kind, names in changes["removed"].items():
            spans |= {(kind, name): (spans.get((kind, name), ("", ""))[0], version) for name in names}
    return spans


def has(version: str, kind: str, name: str) -> bool:
    """Whether the version has this property of a model, or this value of an enumeration."""
    since, until = _spans().get((kind, name), ("", ""))
    return is_within(version, since, until)


def is_within(version: str, since: str, until: str) -> bool:
    """Whether the version is not before `since`, and before `until`; "" is no limit."""
    return since <= version and not (until and version >= until)


def named() -> frozenset[tuple[str, str]]:
    """What some versions have and others have not: models with a property, enumerations with a value."""
    return frozenset(_spans())
