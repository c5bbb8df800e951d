"""Create, adopt, keep, hold and delete what is a run's own; every one of these can be repeated.

The tags alone say whose something is. They are read again just before it is changed or deleted, and gone is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import TypeVar

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.errors import ConflictError
from tasks.errors.service import EmbeddedAzureEnded, ServiceError, error_code
from tasks.resources.resource import Creatable, Found, Resource
from tasks.run.identity import Run
from tasks.run.polling import Polling
from tasks.run.settings import Disposal
from tasks.run.tags import Tags

GONE_WITHIN = 600.0  # seconds in which a container, job or pool that is being deleted frees its name, with luck
UNTIL_GONE = Polling(longest=5.0)

T = TypeVar("T")
D = TypeVar("D")


class Ending(str, Enum):
    """What became of something that was to be deleted or kept."""

    DELETED = "deleted"
    GONE = "gone already"
    NOT_FOUND = "not found, or not this run's"
    KEPT = "kept"
    NOT_MARKED = "kept, but cannot be tagged so: a sweep deletes it once it has expired"
    HELD = "stays until it expires, since the results are not complete on this machine"
    CHANGED = "left: its tags have changed"
    BUSY = "left: another process works in the results folder of its run"
    FAILED = "not deleted"


def create_or_adopt(run: Run, resource: Creatable, polling: Polling = UNTIL_GONE) -> bool:
    """Create it; False if a previous attempt of this run did, whose lifetime is then renewed.

    Waits for one of the same name that is still being deleted. Raises ConflictError, naming it, where it is
    somebody else's.
    """
    logged = False
    for waited in polling.ticks():
        try:
            resource.create()
            return True
        except ResourceExistsError as error:
            code = error_code(error)
            if code not in (resource.exists, resource.being_deleted):
                raise
            if waited > GONE_WITHIN:
                message = (
                    f"timed out after {waited:.0f} s waiting for {resource.name} to be deleted; retry the run later"
                )
                raise ServiceError(message, code=code, transient=False) from None
        if code == resource.exists and _adopted(run, resource):
            return False
        if not logged:
            get_run_logger().info("%s: waiting until that of a previous attempt is deleted", resource.title)
            logged = True
    raise AssertionError("polling does not end")


def find(run: Run, resource: Resource) -> Found | None:
    """What there is, if it is this run's; None where it is gone, being deleted or somebody else's."""
    found = _unless_gone(resource, lambda: _read(run, resource), None)
    return found if found and _is_own(run, found) and not found.is_being_deleted else None


def dispose(run: Run, resource: Resource, disposal: Disposal, *, held: bool | None = False) -> Ending:
    """Keep, hold or delete what there is of this run's, as `settle` does."""
    found = find(run, resource)
    return settle(run, resource, found, disposal, held=held) if found else Ending.NOT_FOUND


def settle(run: Run, resource: Resource, found: Found, disposal: Disposal, *, held: bool | None = False) -> Ending:
    """Keep, hold or delete what has just been found; to ask counts as to delete, since nobody waits for the answer.

    held: whether it contains outputs that are nowhere else; with None as it is tagged.
    """
    if disposal is Disposal.KEEP:
        return _keep(resource, found)
    if held or (held is None and found.tags.held):
        return _hold(resource, found)
    ending = _delete(resource)
    if ending is Ending.DELETED and find(run, resource):
        raise ServiceError(f"{resource.name} still exists after its delete", code="NotDeleted", transient=True)
    return ending


def hold(run: Run, resource: Resource) -> bool:
    """Tag it as containing outputs that are nowhere else; False if there is none of this run."""
    found = find(run, resource)
    return found is not None and _hold(resource, found) is Ending.HELD


def delete_if_unchanged(resource: Resource, listed: Found, *, held: bool = False) -> Ending:
    """Delete it if it is still what it was when it was listed; with `held` also if it was tagged as held since."""

    def delete(found: Found) -> Ending:
        held_since = found.tags.held and not listed.tags.held  # by the run, or another clean-up
        return Ending.HELD if held_since and not held else _delete(resource)

    return _if_unchanged(resource, listed, delete)


def hold_if_unchanged(resource: Resource, listed: Found) -> Ending:
    """Tag it as containing outputs that are nowhere else, if it is still what it was when it was listed."""
    return _if_unchanged(resource, listed, lambda found: _hold(resource, found))


def _if_unchanged(resource: Resource, listed: Found, act: Callable[[Found], Ending]) -> Ending:
    found = _unless_gone(resource, resource.read, None)
    if found is None:
        return Ending.GONE
    if not found.tags.same_claim(listed.tags):
        return Ending.CHANGED
    return Ending.GONE if found.is_being_deleted else act(found)


def _delete(resource: Resource) -> Ending:
    """Send its delete; whose it is has just been read."""

    def send() -> Ending:
        resource.delete()
        return Ending.DELETED

    return _unless_gone(resource, send, Ending.GONE)


def _keep(resource: Resource, found: Found) -> Ending:
    if found.tags.kept:
        return Ending.KEPT
    try:
        return _mark(resource, replace(found.tags, kept=True), Ending.KEPT)
    except ResourceExistsError:  # such as a job that has ended, whose tags stay as they are
        return Ending.NOT_MARKED


def _hold(resource: Resource, found: Found) -> Ending:
    return Ending.HELD if found.tags.held else _mark(resource, replace(found.tags, held=True), Ending.HELD)


def _mark(resource: Resource, tags: Tags, ending: Ending) -> Ending:
    def send() -> Ending:
        resource.mark(tags)
        return ending

    return _unless_gone(resource, send, Ending.GONE)


def _adopted(run: Run, resource: Creatable) -> bool:
    """Whether it is this run's, with its lifetime renewed. False where it is being deleted or gone."""

    def adopt() -> bool:
        found = _read(run, resource)
        if found.is_being_deleted:
            return False
        if not _is_own(run, found):
            raise ConflictError(f"{resource.name} exists and was not created by this run; delete it or run again")
        if found.tags.expires != run.tags.expires:
            resource.renew(found)
        return True

    return _unless_gone(resource, adopt, False)


def _unless_gone(resource: Resource, act: Callable[[], T], otherwise: D) -> T | D:
    """What the act returns; the other value where the resource is gone or being deleted."""
    try:
        return act()
    except (ResourceNotFoundError, EmbeddedAzureEnded):
        return otherwise
    except ResourceExistsError as error:
        if error_code(error) != resource.being_deleted:
            raise
        return otherwise


def _read(run: Run, resource: Resource) -> Found:
    """What there is; somebody else's is read twice, for the name is the run's own and one answer may be damaged."""
    found = resource.read()
    return found if found.is_being_deleted or _is_own(run, found) else resource.read()


def _is_own(run: Run, found: Found) -> bool:
    return found.tags.owned_by(run.flow_run_id)
