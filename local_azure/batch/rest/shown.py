"""What a client reads of a resource: the properties that its version of the API has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from local_azure.batch.rest import shapes, versions
from local_azure.batch.state.store import Document

# The models of bodies whose properties these resources show beside their own.
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
    for each in _models(model):
        if changes := _changes(each, version):
            document = _without(document, changes)
    return document


def names(model: str, version: str) -> frozenset[str]:
    """The properties of the resource that the version has, as `$select` may name them."""
    models = _models(model)
    known = shapes.names(model).union(*(versions.BODIES.get(each, {}) for each in models))
    return frozenset(name for name in known if all(versions.has(version, each, name) for each in models))


def _models(model: str) -> tuple[str, ...]:
    return (model, _BODIES[model]) if model in _BODIES else (model,)


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
