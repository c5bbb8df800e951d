"""Finds properties anywhere in the body of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def properties(value: Any, name: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """The paths and values of all properties of that name in the body; empty values apart."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == name and inner:
                yield path + name, inner
            elif isinstance(inner, (dict, list)):
                yield from properties(inner, name, path + key + ("." if isinstance(inner, dict) else ""))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from properties(inner, name, f"{path}[{index}].")
