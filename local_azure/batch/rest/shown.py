"""What a client reads of a resource: the properties that its version of the API has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from local_azure.batch.rest import shapes, versions
from local_azure.batch.state.store import Document

# The models of bodies whose properties these resources show.
_BODIES = {
    "BatchJob": "BatchJobCreateOptions",
    "BatchJobSchedule": "BatchJobScheduleCreateOptions",
    "BatchPool": "BatchPoolCreateOptions",
    "BatchTask": "BatchTaskCreateOptions",
}


@dataclass(frozen=True, kw_only=True)
class _Changes:
    """What a version leaves out of a model, and of the models in it."""

    absent: frozenset[str] = frozenset()
    within: Mapping[str, _Changes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.absent or self.within)


def shown(document: Document, model: str, version: str) -> Document:
    """The resource without the properties that the version does not have."""
    changes = _changes(_BODIES.get(model, model), version)
    return _without(document, changes) if changes else document


def names(model: str, version: str) -> frozenset[str]:
    """The properties of the resource that the version has, as `$select` may name them."""
    body = _BODIES.get(model, model)
    known = shapes.names(model) | versions.BODIES.get(body, {}).keys()
    return frozenset(name for name in known if versions.has(version, body, name))


@cache
def _changes(model: str, version: str) -> _Changes:
    every = shapes.all_fields(model)
    inner = {name: _changes(each.type, version) for name, each in every.items() if shapes.is_model(each.type)}
    return _Changes(
        absent=frozenset(name for name in every if not versions.has(version, model, name)),
        within={name: changes for name, changes in inner.items() if changes},
    )


def _without(value: Any, changes: _Changes) -> Any:
    if isinstance(value, list):
        return [_without(each, changes) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {name: each for name, each in value.items() if name not in changes.absent}
    return kept | {name: _without(kept[name], inner) for name, inner in changes.within.items() if name in kept}
