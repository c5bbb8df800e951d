"""The run's containers: create, adopt, tag, delete."""

from __future__ import annotations

from collections.abc import Mapping

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from tasks.resources.base import Resource
from tasks.run.identity import HELD, Role, Run
from tasks.run.settings import Disposal


class Container(Resource):
    exists = "ContainerAlreadyExists"
    going = "ContainerBeingDeleted"

    def __init__(self, blobs: BlobServiceClient, run: Run, role: Role, disposal: Disposal) -> None:
        self._client = blobs.get_container_client(run.container(role))
        self._tags = run.tags_for(disposal)
        self.name = f"container {run.container(role)}"

    def create(self) -> None:
        self._client.create_container(metadata=self._tags)

    def tags(self) -> Mapping[str, str] | None:
        return self._client.get_container_properties().metadata or {}

    def renew(self) -> None:
        self.mark({**self._tags, **(HELD if self.is_held() else {})})

    def is_held(self) -> bool:
        """Whether it is tagged as holding outputs that are nowhere else."""
        try:
            return HELD.items() <= (self.tags() or {}).items()
        except ResourceNotFoundError:
            return False

    def mark(self, tags: Mapping[str, str]) -> None:
        self._client.set_container_metadata(dict(tags))

    def delete(self) -> None:
        self._client.delete_container()


def hold(run: Run, container: Container) -> bool:
    """Tag it as holding outputs that are nowhere else; False if there is none of this run."""
    try:
        tags = container.tags()
        if not run.owns(tags):
            return False
        container.mark({**(tags or {}), **HELD})
    except ResourceNotFoundError:
        return False
    return True
