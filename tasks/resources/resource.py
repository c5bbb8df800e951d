"""A pool, job or container by its id, whether or not it exists: what each kind of them can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from tasks.run.tags import Tags

_DELETING = "deleting"  # the state of a pool or job that is being deleted


class Kind(str, Enum):
    """What a run creates, in the order in which it is deleted: nodes bill by the second."""

    POOL = "pool"
    JOB = "job"
    CONTAINER = "container"


class Named:
    """What is known of a resource of a kind by its id alone: how a message names it."""

    kind: Kind
    id: str

    @property
    def name(self) -> str:
        return f"{self.kind.value} {self.id}"

    @property
    def title(self) -> str:
        """The name as a log line begins with it."""
        return f"{self.kind.value.capitalize()} {self.id}"


@dataclass(frozen=True, kw_only=True)
class Found(Named):
    """A pool, job or container that exists, as its service describes it."""

    kind: Kind
    id: str
    tags: Tags
    state: str
    dedicated_nodes: int = 0
    spot_nodes: int = 0

    @property
    def nodes(self) -> int:
        return self.dedicated_nodes + self.spot_nodes

    @property
    def is_being_deleted(self) -> bool:
        return self.state == _DELETING


class Resource(Named, ABC):
    """A pool, job or container by its id."""

    exists: ClassVar[str]  # the service's code where one is to be created that exists
    being_deleted: ClassVar[str]  # and where it is still being deleted

    def __init__(self, id: str) -> None:
        self.id = id

    @abstractmethod
    def read(self) -> Found:
        """What there is. Raises ResourceNotFoundError where there is nothing."""

    @abstractmethod
    def mark(self, tags: Tags) -> None:
        """Give it these tags and change nothing else."""

    @abstractmethod
    def delete(self) -> None:
        """Send its delete; pools and jobs vanish soon after."""


class Creatable(Resource):
    """One that knows how it is created."""

    @abstractmethod
    def create(self) -> None: ...

    @abstractmethod
    def renew(self, found: Found) -> None:
        """Give what exists the tags, and with them the lifetime, of the run's present attempt."""
