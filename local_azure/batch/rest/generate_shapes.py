"""python -m local_azure.batch.rest.generate_shapes: write shapes.json from the models of the installed azure-batch.

Run it after an upgrade of azure-batch and read the difference. The service itself reads only the file.
"""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass
from enum import Enum
from typing import Any

from azure.batch import models

from local_azure.batch.rest.shapes import FILE, PLAIN

BODIES = (
    "BatchJob",
    "BatchJobCreateOptions",
    "BatchJobDisableOptions",
    "BatchJobSchedule",
    "BatchJobScheduleCreateOptions",
    "BatchJobScheduleUpdateOptions",
    "BatchJobTerminateOptions",
    "BatchJobUpdateOptions",
    "BatchNodeDeallocateOptions",
    "BatchNodeDisableSchedulingOptions",
    "BatchNodeRebootOptions",
    "BatchNodeReimageOptions",
    "BatchNodeRemoveOptions",
    "BatchNodeUserCreateOptions",
    "BatchNodeUserReplaceOptions",
    "BatchPoolCreateOptions",
    "BatchPoolEnableAutoScaleOptions",
    "BatchPoolEvaluateAutoScaleOptions",
    "BatchPoolReplaceOptions",
    "BatchPoolResizeOptions",
    "BatchPoolUpdateOptions",
    "BatchTask",
    "BatchTaskCreateOptions",
)
SELECTABLE = (
    "BatchJob",
    "BatchJobPreparationAndReleaseTaskStatus",
    "BatchJobSchedule",
    "BatchNode",
    "BatchPool",
    "BatchSubtask",
    "BatchTask",
)


@dataclass(frozen=True, kw_only=True)
class Property:
    """A property of a model, as the SDK declares it."""

    hint: Any  # its type
    read_only: bool


def properties(model: type) -> dict[str, Property]:
    """The properties of a model, by their names on the wire.

    The one place that uses private names of the SDK: how a model's property keeps its wire name and its visibility.
    """
    hints = typing.get_type_hints(model, localns={"_models": models, "_enums": models})
    return {
        declared._rest_name_input or attribute: Property(
            hint=hints[attribute], read_only=declared._visibility == ["read"]
        )
        for attribute, declared in vars(model).items()
        if type(declared).__name__ == "_RestField"
    }


def table() -> dict[str, Any]:
    """The content of shapes.json."""
    bodies: dict[str, dict[str, str]] = {}
    values: dict[str, list[str]] = {}
    pending = [_model(name) for name in BODIES]
    while pending:
        model = pending.pop()
        if model.__name__ in bodies:
            continue
        bodies[model.__name__] = {}
        for name, declared in properties(model).items():
            if declared.read_only:
                continue
            shape = bodies[model.__name__][name] = _shape(declared.hint)
            kind = _kind(declared.hint)
            if issubclass(kind, Enum):
                values[kind.__name__] = [member.value for member in kind]
            elif shape.split(",")[0].removeprefix("list of ") not in PLAIN:
                pending.append(kind)
    selectable = {name: list(properties(_model(name))) for name in SELECTABLE}
    return {"bodies": dict(sorted(bodies.items())), "values": dict(sorted(values.items())), "selectable": selectable}


def text() -> str:
    return json.dumps(table(), indent=2) + "\n"


def _model(name: str) -> type:
    found: type = getattr(models._models, name)  # 15.1 leaves some of them out of its public names
    return found


def _shape(hint: Any) -> str:
    """The type as the table writes it: "str", "list of BatchMetadataItem, required"."""
    kind = _kind(hint).__name__
    is_list = typing.get_origin(_without_none(hint)) is list
    required = type(None) not in typing.get_args(hint)
    return f"{'list of ' if is_list else ''}{kind}{', required' if required else ''}"


def _without_none(hint: Any) -> Any:
    """The type of an optional property; of Union[str, AnEnum] the enumeration, which comes last."""
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    return choices[-1] if typing.get_origin(hint) is typing.Union else hint


def _kind(hint: Any) -> type:
    inner = _without_none(hint)
    if typing.get_origin(inner) is list:
        inner = _without_none(typing.get_args(inner)[0])
    kind: type = typing.get_origin(inner) or inner
    return kind


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
