"""Why creating and deleting can be repeated: a run adopts, and deletes, what carries its own tags and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.errors import ConflictError, EmbeddedAzureEnded, ServiceError, error_code
from tasks.run.identity import Run
from tasks.run.polling import Polling
from tasks.run.settings import Disposal

GONE_WITHIN = 600.0  # seconds in which a container, job or pool that is being deleted frees its name, with luck
UNTIL_GONE = Polling(longest=5.0)


class Resource(ABC):
    """A container, job or pool by its name, whether or not it exists."""

    name: str  # as a message says it, such as "pool top-words-0123456789ab"
    exists: str  # the service's code for one that is there already
    going: str  # and for one that is still being deleted

    @abstractmethod
    def create(self) -> None: ...

    @abstractmethod
    def tags(self) -> Mapping[str, str] | None:
        """What it is tagged with; None where it is being deleted. Raises ResourceNotFoundError where there is none."""

    @abstractmethod
    def renew(self) -> None:
        """Give it the tags, and with them the lifetime, of the run's present try."""

    @abstractmethod
    def mark(self, tags: Mapping[str, str]) -> None:
        """Give it these tags and change nothing else."""

    @abstractmethod
    def delete(self) -> None: ...


def make(run: Run, resource: Resource, polling: Polling = UNTIL_GONE) -> bool:
    """Create it; False if an earlier try of this run did, whose lifetime is then renewed.

    Waits for one of the same name that is still being deleted. Raises ConflictError, naming it, where it is
    somebody else's.
    """
    told = False
    for waited in polling.ticks():
        try:
            resource.create()
            return True
        except ResourceExistsError as error:
            code = error_code(error)
            if code not in (resource.exists, resource.going):
                raise
            if waited > GONE_WITHIN:
                raise ServiceError(
                    f"the earlier {resource.name} has been being deleted for {waited:.0f} seconds, and is still there; "
                    "retry the run when it is gone",
                    code=code,
                    transient=False,
                ) from None
        if code == resource.exists and _adopted(run, resource):
            return False
        if not told:
            get_run_logger().info("Waiting for the earlier %s to be gone", resource.name)
            told = True
    raise AssertionError("polling does not end")


def remove(run: Run, resource: Resource) -> bool:
    """Delete it; False if it is gone, or going, or not this run's.

    Raises ServiceError where it is still there after a delete that the service has accepted.
    """
    tags = _tags(run, resource)
    if not run.owns(tags):
        return False
    try:
        resource.delete()
    except ResourceNotFoundError:
        return True
    except ResourceExistsError as error:
        if error_code(error) != resource.going:
            raise
    if run.owns(_tags(run, resource)):
        raise ServiceError(f"{resource.name} is still there after its delete", code="NotDeleted", transient=True)
    return True


def keep(run: Run, resource: Resource) -> bool:
    """Mark it as kept on purpose, so that no sweep deletes it; False if there is none of this run."""
    tags = _tags(run, resource)
    if not run.owns(tags):
        return False
    if tags != (kept := {**(tags or {}), **run.tags_for(Disposal.KEEP)}):
        try:
            resource.mark(kept)
        except ResourceExistsError:  # such as a job that has ended
            get_run_logger().warning("A sweep deletes %s after %s", resource.name, run.expires_text)
    return True


def _adopted(run: Run, resource: Resource) -> bool:
    """Whether it is this run's, with its lifetime renewed. False where it is going or gone."""
    try:
        tags = _read(run, resource)
        if tags is None:
            return False
        if not run.owns(tags):
            raise ConflictError(f"{resource.name} exists and was not created by this run; delete it or run again")
        if tags.get("expires") != run.tags["expires"]:
            resource.renew()
        return True
    except ResourceNotFoundError:
        return False
    except ResourceExistsError as error:
        if error_code(error) != resource.going:
            raise
        return False


def _tags(run: Run, resource: Resource) -> Mapping[str, str] | None:
    try:
        return _read(run, resource)
    except (ResourceNotFoundError, EmbeddedAzureEnded):
        return None


def _read(run: Run, resource: Resource) -> Mapping[str, str] | None:
    """Its tags; those of another are read twice, for the name is the run's own and one answer may be damaged."""
    tags = resource.tags()
    return tags if tags is None or run.owns(tags) else resource.tags()
