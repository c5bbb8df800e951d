"""Tags in the form in which Azure Batch keeps them."""

from __future__ import annotations

from collections.abc import Mapping

from azure.batch.models import (
    BatchMetadataItem,
)


def metadata(tags: Mapping[str, str]) -> list[BatchMetadataItem]:
    """Tags in the form in which Batch keeps them."""
    return [BatchMetadataItem(name=name, value=value) for name, value in tags.items()]


def tags(items: list[BatchMetadataItem] | None) -> dict[str, str]:
    return {item.name: item.value for item in items or ()}
