"""What runs have left in the accounts, told from everything else by its tags alone, and how it is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from logging import Logger, LoggerAdapter
from typing import Any, TypeAlias, TypeVar

from azure.batch import BatchClient
from azure.batch.models import BatchJob, BatchJobUpdateOptions, BatchPool, BatchPoolUpdateOptions
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.blob import BlobServiceClient, ContainerProperties

from tasks.accounts.clients import Azure
from tasks.errors import SERVICE_FAILURES, EmbeddedAzureEnded, ServiceError, error_code
from tasks.resources.tags import metadata, tags
from tasks.run.identity import HELD, PROJECT, Role, Run
from tasks.run.settings import CleanUp, Disposal

GRACE = timedelta(minutes=5)  # the machine that tagged a thing and the one that sweeps it may disagree about the time
# For what does not bill by the second: a run that has reached its limit, or that asks, may still download from it.
LONG_GRACE = timedelta(hours=1)
_GONE = {f"{kind}{how}" for kind in ("Pool", "Job", "Container") for how in ("NotFound", "BeingDeleted")}
_KEPT = {"kept": "yes"}  # the tag of what no sweep deletes

Log: TypeAlias = "Logger | LoggerAdapter[Any]"  # as text: Python 3.10 knows no LoggerAdapter[]
D = TypeVar("D")


class Kind(str, Enum):
    """What a run creates, in the order in which it is deleted: nodes bill by the second."""

    POOL = "pool"
    JOB = "job"
    CONTAINER = "container"


class Verdict(str, Enum):
    """What a sweep makes of a leftover; only the first two are deleted."""

    EXPIRED = "expired"
    ENDED = "its flow run has ended"
    CURRENT = "not expired"
    RUNNING = "its flow run has not ended"
    KEPT = "kept on purpose"
    HELD = "holds outputs that were not downloaded: stays until it expires"
    UNREADABLE = "no readable `expires`"
    GOING = "being deleted already"
    OTHERS = "expired, but not of this flow run"


class Ending(str, Enum):
    """What became of a leftover that was to be deleted."""

    DELETED = "deleted"
    GONE = "gone already"
    CHANGED = "left: it is not tagged as before"
    FAILED = "not deleted"


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A pool, job or container that carries our tags; no time where a tag is missing or is none."""

    kind: Kind
    id: str
    flow_run: str
    created: datetime | None
    expires: datetime | None
    kept: bool
    held: bool = False  # holds outputs that are nowhere else, for as long as it does not expire
    state: str
    dedicated_nodes: int = 0
    spot_nodes: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind.value} {self.id}"

    @property
    def nodes(self) -> int:
        return self.dedicated_nodes + self.spot_nodes

    def same_claim(self, other: Leftover) -> bool:
        """Whether both are of the same run, and to be deleted at the same time."""
        return (self.flow_run, self.expires, self.kept) == (other.flow_run, other.expires, other.kept)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """A leftover, what became of it, and where it was not deleted the service's words for that."""

    leftover: Leftover
    ending: Ending
    reason: str = ""


def list_in_batch(azure: Azure) -> list[Leftover]:
    """All pools and jobs that runs of this project have created. Raises AzureError."""
    with azure.batch() as batch:
        pools = batch.list_pools(select=["id", "state", "metadata", "currentDedicatedNodes", "currentLowPriorityNodes"])
        jobs = batch.list_jobs(select=["id", "state", "metadata"])
        return [leftover for leftover in [*map(_pool, pools), *map(_job, jobs)] if leftover]


def list_in_storage(azure: Azure) -> list[Leftover]:
    """All containers that runs of this project have created. Raises AzureError."""
    with azure.blobs() as blobs:
        return [leftover for leftover in map(_container, blobs.list_containers(include_metadata=True)) if leftover]


def judge(leftover: Leftover, *, now: datetime, include_kept: bool = False) -> Verdict:
    """What a sweep at that time makes of it."""
    if leftover.state == "deleting":
        return Verdict.GOING
    if leftover.expires is None:
        return Verdict.UNREADABLE
    if leftover.kept and not include_kept:
        return Verdict.KEPT
    grace = GRACE if leftover.kind is Kind.POOL else LONG_GRACE
    return Verdict.EXPIRED if leftover.expires <= now - grace else Verdict.CURRENT


def judge_after(leftover: Leftover, clean_up: CleanUp, *, include_kept: bool = False) -> Verdict:
    """What is made of it when its flow run has ended, whenever it expires."""
    if leftover.state == "deleting":
        return Verdict.GOING
    keep = leftover.kept or _disposal(clean_up, leftover.kind) is Disposal.KEEP
    if leftover.held and not keep and not include_kept:
        return Verdict.HELD
    return Verdict.KEPT if keep and not include_kept else Verdict.ENDED


def delete_each(azure: Azure, leftovers: Iterable[Leftover]) -> Iterator[Deletion]:
    """Delete them, pools first; each is looked at again just before, and an error of one does not stop the others."""
    order = list(Kind)
    with _opened(azure) as shelf:
        for leftover in sorted(leftovers, key=lambda each: order.index(each.kind)):
            try:
                yield Deletion(leftover=leftover, ending=shelf.delete(leftover))
            except SERVICE_FAILURES as error:
                reason = str(ServiceError.of(error))
                yield Deletion(leftover=leftover, ending=Ending.FAILED, reason=reason)


def clean_up_after(azure: Azure, run: Run, clean_up: CleanUp, logger: Log, *, held: bool = False) -> None:
    """Delete what that run created, as its clean_up says; nothing is known of it but its names.

    To ask counts as to delete, since nobody waits for the answer. What is to be kept is marked as kept, as the run
    itself would have done. Containers with outputs that are nowhere else stay until they expire: those that are marked
    so, or all with `held`. An error is logged and does not stop the rest.
    """
    with _opened(azure) as shelf:
        for kind, name in _names(run):
            try:
                _clean_up(shelf, kind, name, run.flow_run_id, _disposal(clean_up, kind), logger, held)
            except SERVICE_FAILURES as error:
                logger.warning("The %s %s was not cleaned up: %s", kind.value, name, ServiceError.of(error))


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


class _Shelf:
    """Both accounts, open: one thing in them at a time."""

    def __init__(self, batch: BatchClient, blobs: BlobServiceClient) -> None:
        self._batch = batch
        self._blobs = blobs
        self._finds: dict[Kind, Callable[[str], Leftover | None]] = {
            Kind.POOL: lambda name: _pool(batch.get_pool(name)),
            Kind.JOB: lambda name: _job(batch.get_job(name)),
            Kind.CONTAINER: lambda name: _container(blobs.get_container_client(name).get_container_properties()),
        }
        self._deletes: dict[Kind, Callable[[str], object]] = {
            Kind.POOL: batch.begin_delete_pool,
            Kind.JOB: batch.begin_delete_job,
            Kind.CONTAINER: blobs.delete_container,
        }

    def find(self, kind: Kind, name: str) -> Leftover | None:
        """The thing of that name, if there is one and it carries our tags."""
        return _unless_gone(lambda: self._finds[kind](name), None)

    def delete(self, leftover: Leftover) -> Ending:
        """Send its delete, if it is still what it was. Pools and jobs vanish soon after."""

        def look_and_delete() -> Ending:
            present = self._finds[leftover.kind](leftover.id)
            if present is None or not present.same_claim(leftover):
                return Ending.CHANGED
            if present.state == "deleting":
                return Ending.GONE
            self._deletes[leftover.kind](leftover.id)
            return Ending.DELETED

        return _unless_gone(look_and_delete, Ending.GONE)

    def mark_container(self, name: str, tags: Mapping[str, str]) -> None:
        container = self._blobs.get_container_client(name)
        container.set_container_metadata({**(container.get_container_properties().metadata or {}), **tags})

    def mark_kept(self, leftover: Leftover) -> None:
        """Add to its tags that it is kept, so that no sweep deletes it."""
        if leftover.kind is Kind.CONTAINER:
            self.mark_container(leftover.id, _KEPT)
        elif leftover.kind is Kind.JOB:
            items = metadata({**tags(self._batch.get_job(leftover.id).metadata), **_KEPT})
            self._batch.update_job(leftover.id, BatchJobUpdateOptions(metadata=items))
        else:
            items = metadata({**tags(self._batch.get_pool(leftover.id).metadata), **_KEPT})
            self._batch.update_pool(leftover.id, BatchPoolUpdateOptions(metadata=items))


@contextmanager
def _opened(azure: Azure) -> Iterator[_Shelf]:
    with ExitStack() as stack:
        yield _Shelf(stack.enter_context(azure.batch()), stack.enter_context(azure.blobs()))


def _clean_up(
    shelf: _Shelf, kind: Kind, name: str, flow_run_id: str, disposal: Disposal, logger: Log, held: bool
) -> None:
    found = shelf.find(kind, name)
    if found is None or found.flow_run != flow_run_id or found.state == "deleting":
        logger.debug("The %s %s is gone, or not this run's", kind.value, name)
    elif found.kept or disposal is Disposal.KEEP:
        if not found.kept:
            try:
                shelf.mark_kept(found)
            except ResourceExistsError:  # such as a job that has ended, whose tags stay as they are
                logger.warning("The %s cannot be marked as kept: a sweep deletes it once it has expired", found.name)
        logger.info("The %s is kept%s", found.name, f", and {found.nodes} nodes go on billing" if found.nodes else "")
    elif kind is Kind.CONTAINER and (held or found.held):
        if not found.held:
            shelf.mark_container(name, HELD)
        logger.info("The %s %s", found.name, Verdict.HELD.value)
    else:
        logger.info("The %s: %s", found.name, shelf.delete(found).value)


def _read(disposal: object) -> Disposal:
    try:
        return Disposal(disposal)
    except ValueError:
        return Disposal.KEEP


def _names(run: Run) -> list[tuple[Kind, str]]:
    containers = [(Kind.CONTAINER, run.container(role)) for role in Role]
    return [(Kind.POOL, run.pool_id), (Kind.JOB, run.job_id), *containers]


def _disposal(clean_up: CleanUp, kind: Kind) -> Disposal:
    return {Kind.POOL: clean_up.pool, Kind.JOB: clean_up.job, Kind.CONTAINER: clean_up.containers}[kind]


def _unless_gone(act: Callable[[], D], otherwise: D) -> D:
    try:
        return act()
    except EmbeddedAzureEnded:
        return otherwise
    except HttpResponseError as error:
        if error_code(error) not in _GONE:
            raise
        return otherwise


def _pool(pool: BatchPool) -> Leftover | None:
    nodes = {"dedicated_nodes": pool.current_dedicated_nodes or 0, "spot_nodes": pool.current_low_priority_nodes or 0}
    return _leftover(Kind.POOL, pool.id, tags(pool.metadata), pool.state, **nodes)


def _job(job: BatchJob) -> Leftover | None:
    return _leftover(Kind.JOB, job.id, tags(job.metadata), job.state)


def _container(container: ContainerProperties) -> Leftover | None:
    lease = container.lease.state if container.lease else None
    return _leftover(Kind.CONTAINER, container.name, container.metadata or {}, lease)


def _leftover(kind: Kind, name: str | None, tagged: Mapping[str, str], state: object, **nodes: int) -> Leftover | None:
    """The thing, if its tags say that a run of this project created it."""
    if not name or tagged.get("project") != PROJECT or not tagged.get("flow_run"):
        return None
    return Leftover(
        kind=kind,
        id=name,
        flow_run=tagged["flow_run"],
        created=_time(tagged.get("created")),
        expires=_time(tagged.get("expires")),
        kept=tagged.get("kept") == "yes",
        held=tagged.get("held") == "yes",
        state=str(getattr(state, "value", state) or ""),
        **nodes,
    )


def _time(text: str | None) -> datetime | None:
    """The time in a tag, in UTC; None for what is none, or does not say of which time zone."""
    try:
        time = datetime.fromisoformat((text or "").replace("Z", "+00:00"))  # Python 3.10 reads no Z
        return time.astimezone(timezone.utc) if time.tzinfo else None
    except (ValueError, OverflowError):
        return None
