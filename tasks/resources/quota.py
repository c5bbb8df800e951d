"""Creates a pool or job where the account's quota of them is used up: waits for other runs of this project to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from azure.core.exceptions import ResourceExistsError
from prefect.logging import get_run_logger

from tasks.errors import RunTimeout
from tasks.errors.advice import advice
from tasks.errors.codes import Code, Where
from tasks.errors.service import ServiceError, error_code
from tasks.errors.text import listed
from tasks.resources.ownership import create_or_adopt
from tasks.resources.resource import Creatable, Found, Kind
from tasks.run.identity import Run
from tasks.run.polling import Polling

# The service's codes where one more is to be created. Of jobs, only active ones count (azure-docs, batch-quota-limit).
_QUOTAS = {Kind.POOL: Code.POOL_QUOTA_REACHED, Kind.JOB: Code.ACTIVE_JOB_QUOTA_REACHED}
_ENDED = "completed"  # the state of a job that does not count any more
UNTIL_ROOM = Polling(shortest=2.0, longest=30.0)


def create_within_quota(
    run: Run,
    resource: Creatable,
    list_all: Callable[[], Iterable[Found]],
    polling: Polling = UNTIL_ROOM,
    meanwhile: Callable[[], None] = lambda: None,
    names: Mapping[str, str] | None = None,
) -> bool:
    """As create_or_adopt, but where the account's quota is used up, wait while other runs of this project hold some.

    meanwhile: what is done each time before it waits; what it raises ends the wait. names: those of the accounts, for
    the command that helps. Raises ServiceError, with what to do, where none of them will make room, and RunTimeout at
    the run's limit.
    """
    named: list[str] = []
    for _ in polling.ticks():
        try:
            return create_or_adopt(run, resource)
        except ResourceExistsError as error:
            if error_code(error) != _QUOTAS.get(resource.kind):
                raise
        there = list(list_all())
        holders = sorted(each.id for each in there if _makes_room(run, each, polling.now()))
        if not holders:
            raise ServiceError(_used_up(resource, there, names), code=_QUOTAS[resource.kind], transient=False)
        if polling.now() >= run.expires:
            raise RunTimeout(
                f"the run reached its limit of {run.lifetime} while it waited for the account's quota of "
                f"{resource.kind.value}s, of which other runs hold {listed(holders)}"
            )
        if holders != named:
            get_run_logger().warning(
                "%s: waiting, the account's quota of %ss is used up; other runs hold %s",
                resource.title,
                resource.kind.value,
                listed(holders),
            )
            named = holders
        meanwhile()
    raise AssertionError("polling does not end")


def _makes_room(run: Run, found: Found, now: datetime) -> bool:
    """Whether another run holds it that will delete it, or whose deletion has begun."""
    tags = found.tags
    if found.is_being_deleted:
        return True
    if found.state == _ENDED or not tags.flow_run or tags.owned_by(run.flow_run_id) or tags.kept:
        return False
    return tags.expires is not None and tags.expires > now


def _used_up(resource: Creatable, there: Sequence[Found], names: Mapping[str, str] | None) -> str:
    kind = resource.kind
    ours = sum(bool(each.tags.flow_run) and each.state != _ENDED for each in there)
    others = sum(each.state != _ENDED for each in there) - ours
    return (
        f"{resource.name} was not created: the account's quota of {kind.value}s is used up ({_QUOTAS[kind]}), and no "
        f"other run will make room: {ours} are of ended or kept runs of this project, {others} of others"
        f"{advice(Where.REQUEST, _QUOTAS[kind], names=names)}"
    )
