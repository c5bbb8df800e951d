"""Why creating and deleting can be repeated: a run adopts, and deletes, what carries its own tags and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from tasks.errors import ConflictError, error_code
from tasks.settings import Run

Tags = Callable[[], Mapping[str, str] | None]


def make(run: Run, thing: str, create: Callable[[], object], tags: Tags, *, exists: str) -> bool:
    """Create the thing; False if an earlier try of this run did. `exists` is the service's code for that.

    Raises ConflictError, naming the thing, where it is somebody else's.
    """
    try:
        create()
        return True
    except ResourceExistsError as error:
        if error_code(error) != exists:  # such as ContainerBeingDeleted, which passes
            raise
    if not run.owns(tags()):
        raise ConflictError(f"{thing} exists and was not created by this run; delete it or run again")
    return False


def remove(run: Run, delete: Callable[[], object], tags: Tags, *, going: str) -> bool:
    """Delete the thing; False if it is gone, or not this run's. `going` is the code for one being deleted already."""
    try:
        if not run.owns(tags()):
            return False
        delete()
    except ResourceNotFoundError:
        return False
    except ResourceExistsError as error:
        if error_code(error) != going:
            raise
    return True
