"""Clean up after one run, from nothing but its id and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.accounts.clients import Azure
from tasks.errors.service import SERVICE_FAILURES, ServiceError
from tasks.resources.finished import Log, Saved, Saving, finished_saved
from tasks.resources.leftovers import clients, disposal_of, resource
from tasks.resources.ownership import Ending, find, settle
from tasks.resources.resource import Kind, Resource
from tasks.run.identity import Role, Run
from tasks.run.settings import CleanUp, Disposal

# Whether containers hold outputs that are nowhere else; None: as they are tagged.
_HELD = {Saved.PART: True, Saved.ALL: False, Saved.NOTHING: None}


def clean_up_after(
    azure: Azure, run: Run, clean_up: CleanUp, logger: Log, *, held: bool = False, saving: Saving | None = None
) -> None:
    """Delete what that run created, as its clean_up says; what bills first.

    What is to be kept, or has been, is tagged as kept. Containers with outputs that are nowhere else stay until they
    expire: those that are tagged so, or all with `held`, or whose finished outputs cannot all be downloaded with
    `saving`. An error is logged and does not stop the rest.
    """
    keeps = clean_up.containers is Disposal.KEEP
    with clients(azure) as (batch, blobs):
        for kind, id in ((Kind.POOL, run.pool_id), (Kind.JOB, run.job_id)):
            _clean_up(run, resource(kind, id, batch, blobs), disposal_of(clean_up, kind), logger)
        with finished_saved(azure, blobs, run, None if keeps or held else saving) as saved:
            for role in Role if saved is not Saved.BUSY else ():
                container = resource(Kind.CONTAINER, run.container(role), batch, blobs)
                _clean_up(run, container, clean_up.containers, logger, True if held else _HELD[saved])


def clean_up_of(parameters: Mapping[str, Any]) -> CleanUp:
    """The clean_up among the parameters of a flow run, which may be absent or partial.

    A part that cannot be read keeps: what is not deleted now, the sweep deletes when it expires.
    """
    given = parameters.get("clean_up")
    if isinstance(given, CleanUp):
        return given
    if not isinstance(given, Mapping):
        return CleanUp()
    return CleanUp.model_validate({part: _read(given[part]) for part in ("containers", "job", "pool") if part in given})


def _clean_up(run: Run, resource: Resource, disposal: Disposal, logger: Log, held: bool | None = None) -> None:
    try:
        _settle(run, resource, disposal, logger, held)
    except SERVICE_FAILURES as error:
        logger.warning(
            "%s: not cleaned up, a sweep deletes it once it has expired: %s", resource.title, ServiceError.of(error)
        )


def _settle(run: Run, resource: Resource, disposal: Disposal, logger: Log, held: bool | None) -> None:
    found = find(run, resource)
    if found is None:
        logger.debug("%s: gone, or not this run's", resource.title)
        return
    # Nothing but the tags says what the run itself has decided.
    ending = settle(run, resource, found, Disposal.KEEP if found.tags.kept else disposal, held=held)
    if ending is Ending.NOT_MARKED:
        logger.warning("%s: %s", resource.title, ending.value)
    else:
        billing = f"; its {found.nodes} nodes go on billing" if ending is Ending.KEPT and found.nodes else ""
        logger.info("%s: %s%s", resource.title, ending.value, billing)


def _read(disposal: object) -> Disposal:
    try:
        return Disposal(disposal)
    except ValueError:
        return Disposal.KEEP
