"""List what runs have left in the accounts, decide what is deleted, and delete it; known by its tags alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from itertools import groupby

from azure.batch import BatchClient
from azure.storage.blob import BlobServiceClient

from tasks.accounts.clients import Azure
from tasks.errors.service import SERVICE_FAILURES, ServiceError
from tasks.resources.container import ContainerResource, list_containers
from tasks.resources.finished import Saved, Saving, finished_saved
from tasks.resources.job import JobResource, list_jobs
from tasks.resources.ownership import Ending, delete_if_unchanged, hold_if_unchanged
from tasks.resources.pool import PoolResource, list_pools
from tasks.resources.resource import Found, Kind, Resource
from tasks.run.identity import Run
from tasks.run.settings import CleanUp, Disposal, TimeLimits

GRACE = timedelta(minutes=5)  # the machine that tagged something and the one that sweeps may disagree about the time
# For what does not bill by the second: a run that has reached its limit, or that asks, may still download from it.
LONG_GRACE = timedelta(hours=1)


class Verdict(str, Enum):
    """What a sweep decides about a leftover."""

    EXPIRED = "expired"
    ENDED = "its flow run has ended"
    CURRENT = "not expired"
    RUNNING = "its flow run has not ended"
    KEPT = "kept on purpose"
    HELD = Ending.HELD.value
    UNREADABLE = "no readable `expires`"
    BEING_DELETED = "being deleted already"
    OTHERS = "expired, but not of this flow run"

    @property
    def deletes(self) -> bool:
        return self in (Verdict.EXPIRED, Verdict.ENDED)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """A leftover, what became of it, and where it was not deleted the service's words for that."""

    leftover: Found
    ending: Ending
    reason: str = ""


def list_in_batch(azure: Azure) -> list[Found]:
    """All pools and jobs that runs of this project have created. Raises AzureError."""
    with azure.batch() as batch:
        return [found for found in [*list_pools(batch), *list_jobs(batch)] if found.tags.flow_run]


def list_in_storage(azure: Azure) -> list[Found]:
    """All containers that runs of this project have created. Raises AzureError."""
    with azure.blobs() as blobs:
        return [found for found in list_containers(blobs) if found.tags.flow_run]


def judge(leftover: Found, *, now: datetime, include_kept: bool = False) -> Verdict:
    """What a sweep at that time decides."""
    if leftover.is_being_deleted:
        return Verdict.BEING_DELETED
    if leftover.tags.expires is None:
        return Verdict.UNREADABLE
    if leftover.tags.kept and not include_kept:
        return Verdict.KEPT
    grace = GRACE if leftover.kind is Kind.POOL else LONG_GRACE
    return Verdict.EXPIRED if leftover.tags.expired(now, grace) else Verdict.CURRENT


def judge_after(leftover: Found, clean_up: CleanUp, *, include_kept: bool = False) -> Verdict:
    """What a sweep decides when the leftover's flow run has ended, whenever it expires."""
    if leftover.is_being_deleted:
        return Verdict.BEING_DELETED
    if include_kept:
        return Verdict.ENDED
    if leftover.tags.kept or disposal_of(clean_up, leftover.kind) is Disposal.KEEP:
        return Verdict.KEPT
    return Verdict.HELD if leftover.tags.held else Verdict.ENDED


def judge_for(
    leftover: Found, flow_run_id: str, clean_up: CleanUp | None, *, now: datetime, include_kept: bool = False
) -> Verdict:
    """What a sweep for one flow run decides; clean_up is that of its parameters, None while the run may go on."""
    if leftover.tags.owned_by(flow_run_id):
        return judge_after(leftover, clean_up, include_kept=include_kept) if clean_up else Verdict.RUNNING
    verdict = judge(leftover, now=now, include_kept=include_kept)
    return Verdict.OTHERS if verdict is Verdict.EXPIRED else verdict


def judge_all(leftover: Found, ended: Mapping[str, CleanUp], *, now: datetime, include_kept: bool = False) -> Verdict:
    """What a sweep for all runs decides; ended: those whose process is gone, with the clean_up of their parameters.

    Nobody has asked for what such a run has kept, so it is deleted as that of all others.
    """
    verdict = judge(leftover, now=now, include_kept=include_kept)
    clean_up = ended.get(leftover.tags.flow_run)
    if clean_up and verdict is Verdict.CURRENT:
        after = judge_after(leftover, clean_up)
        return after if after.deletes or after is Verdict.HELD else verdict
    return verdict


def delete_each(
    azure: Azure, leftovers: Iterable[Found], saving: Mapping[str, Saving] | None = None
) -> Iterator[Deletion]:
    """Delete them, pools first; each is read again just before, and an error of one does not stop the others.

    saving: how outputs of a run are saved before its containers are deleted, by the flow run's id.
    """
    order = list(Kind)
    by_kind = sorted(leftovers, key=lambda each: order.index(each.kind))
    containers = sorted((each for each in by_kind if each.kind is Kind.CONTAINER), key=_run_of)
    with clients(azure) as (batch, blobs):
        for leftover in by_kind:
            if leftover.kind is not Kind.CONTAINER:
                yield _delete(resource(leftover.kind, leftover.id, batch, blobs), leftover, Saved.NOTHING)
        for (flow_run, workload), of_run in groupby(containers, key=_run_of):
            run = Run.start(flow_run, workload, TimeLimits())
            with finished_saved(azure, blobs, run, (saving or {}).get(flow_run)) as saved:
                for leftover in of_run:
                    yield _delete(resource(leftover.kind, leftover.id, batch, blobs), leftover, saved)


def _run_of(leftover: Found) -> tuple[str, str]:
    return leftover.tags.flow_run, leftover.tags.workload


def _delete(resource: Resource, leftover: Found, saved: Saved) -> Deletion:
    """Delete it, unless it holds what is nowhere else or somebody is at work on that."""
    if saved is Saved.BUSY:
        return Deletion(leftover=leftover, ending=Ending.BUSY)
    try:
        if saved is Saved.PART:
            return Deletion(leftover=leftover, ending=hold_if_unchanged(resource, leftover))
        return Deletion(leftover=leftover, ending=delete_if_unchanged(resource, leftover, held=saved is Saved.ALL))
    except SERVICE_FAILURES as error:
        return Deletion(leftover=leftover, ending=Ending.FAILED, reason=str(ServiceError.of(error)))


@contextmanager
def clients(azure: Azure) -> Iterator[tuple[BatchClient, BlobServiceClient]]:
    """Both services' clients, open."""
    with azure.batch() as batch, azure.blobs() as blobs:
        yield batch, blobs


def resource(kind: Kind, id: str, batch: BatchClient, blobs: BlobServiceClient) -> Resource:
    if kind is Kind.POOL:
        return PoolResource(batch, id)
    return JobResource(batch, id) if kind is Kind.JOB else ContainerResource(blobs, id)


def disposal_of(clean_up: CleanUp, kind: Kind) -> Disposal:
    return {Kind.POOL: clean_up.pool, Kind.JOB: clean_up.job, Kind.CONTAINER: clean_up.containers}[kind]
