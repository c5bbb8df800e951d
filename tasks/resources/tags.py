"""Tags in the form in which Azure Batch keeps them."""

from __future__ import annotations

from azure.batch.models import BatchMetadataItem

from tasks.run.tags import Tags


def metadata(tags: Tags) -> list[BatchMetadataItem]:
    """The tags as metadata of a pool or job."""
    return [BatchMetadataItem(name=name, value=value) for name, value in tags.metadata().items()]


def tags(items: list[BatchMetadataItem] | None) -> dict[str, str]:
    """The metadata of a pool or job by name."""
    return {item.name: item.value for item in items or ()}
