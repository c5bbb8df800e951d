"""The shapes of request bodies: the property names and types of the Batch REST API.

shapes.json holds those of one API version. generate_shapes.py writes it from the models of Microsoft's `azure-batch`,
and a test compares the two. What other versions have is in versions.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from local_azure.batch.rest import versions
from local_azure.batch.state.errors import BatchError, Code, invalid_property, not_implemented
from local_azure.batch.state.wire import duration, parse_duration, parse_timestamp, timestamp

# Features that are not implemented: refused, as accepting them without effect would mislead. Properties that cannot
# matter on one machine (networks, user accounts, operating system disks, upgrade policies) are accepted and shown. For
# those that its nodes cannot have, see engine/unavailable.py.
_NOT_SERVED = {
    "applicationLicenses",
    "containerHostBatchBindMounts",
}
# Enumerations that the service writes otherwise than the models of the API, whichever way a client has sent them.
# Seen in recorded answers of Azure: Spread, ReadWrite, Zonal, trustedlaunch, and TaskCompletion (Azure/Batch#171). The
# other values of these enumerations are inferred from them.
_AS_READ: Mapping[str, tuple[str, ...]] = {
    "BatchNodeFillType": ("Spread", "Pack"),
    "BatchNodePlacementPolicyType": ("Regional", "Zonal"),
    "CachingType": ("None", "ReadOnly", "ReadWrite"),
    "OutputFileUploadCondition": ("TaskSuccess", "TaskFailure", "TaskCompletion"),
    "SecurityTypes": ("trustedlaunch", "confidentialvm"),
}
# The most characters of a text, by model ("" is any) and property: documented by the models of the API.
_LONGEST = {("", "displayName"): 1024, ("UserAccount", "name"): 20}
_NUMBER = re.compile(r"-?[0-9]{1,10}")
FILE = Path(__file__).with_name("shapes.json")
_TABLE = json.loads(FILE.read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Field:
    """One property: its type, which is a plain type, an enumeration or a model, by name."""

    type: str
    is_list: bool
    required: bool


@cache
def fields(model: str, version: str = versions.OF_SHAPES) -> Mapping[str, Field]:
    """The properties of a model that a client of the version may send, by their names on the wire."""
    return {name: each for name, each in all_fields(model).items() if versions.has(version, model, name)}


@cache
def all_fields(model: str) -> Mapping[str, Field]:
    """The properties that the model has in any version."""
    texts = {**_TABLE["bodies"].get(model, {}), **versions.BODIES.get(model, {})}
    return {name: _field(text) for name, text in texts.items()}


def is_model(type_name: str) -> bool:
    """Whether a type is a model, and not a plain type or an enumeration."""
    return type_name in _TABLE["bodies"] or type_name in versions.BODIES


@cache
def _required(model: str, version: str) -> tuple[str, ...]:
    return tuple(name for name, field in fields(model, version).items() if field.required)


def _field(text: str) -> Field:
    """The field that the table writes as "str" or "list of BatchMetadataItem, required"."""
    name, _, required = text.partition(", ")
    return Field(type=name.removeprefix("list of "), is_list=name.startswith("list of "), required=bool(required))


def names(model: str) -> frozenset[str]:
    """The names of all properties of a resource, as it is read."""
    return frozenset(_TABLE["selectable"][model])


@cache
def enum_values(name: str, version: str = versions.OF_SHAPES) -> Mapping[str, str] | None:
    """The values of an enumeration as they are read, keyed by lower case; None if the type is not an enumeration."""
    values = _AS_READ.get(name) or _TABLE["values"].get(name) or versions.VALUES.get(name)
    if values is None:
        return None
    return {value.lower(): value for value in values if versions.has(version, name, value)}


def check(body: Any, model: str, version: str = versions.OF_SHAPES) -> dict[str, Any]:
    """The body in canonical form: durations, timestamps and enum values normalised, nulls removed.

    Raises BatchError for a property that is unknown, missing, or of another type, and names it.
    """
    if not isinstance(body, Mapping):
        raise BatchError(Code.InvalidRequestBody, "The body must be a JSON object.")
    return _object(body, model, "", version)


def _object(body: Mapping[str, Any], model: str, path: str, version: str) -> dict[str, Any]:
    known = fields(model, version)
    checked = {}
    for name, value in body.items():
        if name.startswith("odata.") or value is None:
            continue
        if name not in known:
            reason = f"The property {path + name!r} does not exist."
            raise BatchError(Code.InvalidRequestBody, reason, PropertyName=path + name, Reason=reason)
        if name in _NOT_SERVED and value:
            raise not_implemented(f"The property {path}{name}")
        limit = _LONGEST.get((model, name)) or _LONGEST.get(("", name))
        if limit and isinstance(value, str) and len(value) > limit:
            raise invalid_property(path + name, f"{value[:100]}...", f"it has more than {limit} characters")
        field = known[name]
        convert = _one_of(field.type, version)
        checked[name] = _list(value, convert, path + name) if field.is_list else convert(value, path + name)
    for name in _required(model, version):
        if name not in checked:
            raise BatchError(Code.MissingRequiredProperty, f"The property is {path + name}.", PropertyName=path + name)
    return checked


def _list(value: Any, convert: Callable[[Any, str], Any], path: str) -> list[Any]:
    if not isinstance(value, list):
        raise invalid_property(path, value, "a list is required")
    return [convert(item, f"{path}[{index}]") for index, item in enumerate(value)]


@cache
def _one_of(type_name: str, version: str) -> Callable[[Any, str], Any]:
    """The function that validates a value of the type."""
    if type_name in PLAIN:
        return PLAIN[type_name]
    values = enum_values(type_name, version)
    return _enumeration(values) if values is not None else _model(type_name, version)


def _enumeration(values: Mapping[str, str]) -> Callable[[Any, str], Any]:
    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, str) or value.lower() not in values:
            raise invalid_property(path, value, f"it must be one of {', '.join(values.values())}")
        return values[value.lower()]

    return convert


def _model(type_name: str, version: str) -> Callable[[Any, str], Any]:
    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise invalid_property(path, value, "a JSON object is required")
        return _object(value, type_name, path + ".", version)

    return convert


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise invalid_property(path, value, "a string is required")
    return value


def _integer(value: Any, path: str) -> int:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)  # the az command line sends its options as text
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_property(path, value, "an integer is required")
    if not -(2**31) <= value < 2**31:
        raise invalid_property(path, value, "the integer is out of range")
    return value


def _map(value: Any, path: str) -> Any:
    """An object, also as text, as an example of the specification has it; it is shown as it was given."""
    given = value
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            given = json.loads(value)
    if not isinstance(given, Mapping):
        raise invalid_property(path, value, "a JSON object is required")
    return value


def _flag(value: Any, path: str) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise invalid_property(path, value, "true or false is required")
    return value


def _duration(value: Any, path: str) -> str:
    try:
        length = parse_duration(_text(value, path))
    except ValueError as error:
        raise invalid_property(path, value, str(error)) from error
    if length < timedelta():
        raise invalid_property(path, value, "it must not be negative")
    return duration(length)


def _timestamp(value: Any, path: str) -> str:
    try:
        return timestamp(parse_timestamp(_text(value, path)))
    except ValueError as error:
        raise invalid_property(path, value, str(error)) from error


PLAIN: Mapping[str, Callable[[Any, str], Any]] = {
    "str": _text,
    "int": _integer,
    "bool": _flag,
    "timedelta": _duration,
    "datetime": _timestamp,
    "dict": _map,
}
