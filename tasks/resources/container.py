"""Containers of a run: create, adopt, tag, delete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from azure.storage.blob import BlobServiceClient, ContainerProperties

from tasks.errors.codes import Code
from tasks.resources.resource import Creatable, Found, Kind, Resource
from tasks.run.identity import Role, Run
from tasks.run.settings import Disposal
from tasks.run.tags import Tags


class ContainerResource(Resource):
    """A container by its name."""

    kind = Kind.CONTAINER
    exists = Code.CONTAINER_ALREADY_EXISTS
    being_deleted = Code.CONTAINER_BEING_DELETED

    def __init__(self, blobs: BlobServiceClient, id: str) -> None:
        super().__init__(id)
        self._client = blobs.get_container_client(id)

    def read(self) -> Found:
        return _found(self._client.get_container_properties())

    def mark(self, tags: Tags) -> None:
        self._client.set_container_metadata(tags.metadata())

    def delete(self) -> None:
        self._client.delete_container()


class Container(ContainerResource, Creatable):
    """One of the run's containers."""

    def __init__(self, blobs: BlobServiceClient, run: Run, role: Role, disposal: Disposal = Disposal.DELETE) -> None:
        super().__init__(blobs, run.container(role))
        self._tags = replace(run.tags, kept=disposal is Disposal.KEEP)

    def create(self) -> None:
        self._client.create_container(metadata=self._tags.metadata())

    def renew(self, found: Found) -> None:
        self.mark(replace(self._tags, held=found.tags.held))


def list_containers(blobs: BlobServiceClient) -> Iterator[Found]:
    return map(_found, blobs.list_containers(include_metadata=True))


def _found(container: ContainerProperties) -> Found:
    state = str(container.lease.state or "") if container.lease else ""
    return Found(kind=Kind.CONTAINER, id=container.name or "", tags=Tags.read(container.metadata), state=state)
