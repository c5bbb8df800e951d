"""Which VM size a pool tries next that got no nodes of its present one: decided without a service."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from azure.batch.models import ResizeError

from tasks.errors.advice import advice
from tasks.errors.codes import SPOT_QUOTAS, Where
from tasks.resources.allocation import Remedy, described, remedy_of
from tasks.run.identity import RefusedSize, UsedPool
from tasks.run.vm_sizes import cores, family


@dataclass(frozen=True, kw_only=True)
class NextSize:
    """The size to try next, with those that were passed over for it."""

    size: str
    later: Sequence[str]  # the sizes after it
    refused: Sequence[RefusedSize]  # the present one, and those that could not help
    at_once: bool  # else once the present one has had its chance

    def applied(self, pool: UsedPool, now: datetime) -> UsedPool:
        """The pool with this size; its nodes are asked for now."""
        refused = (*pool.refused_sizes, *self.refused)
        return replace(pool, vm_size=self.size, other_sizes=self.later, refused_sizes=refused, asked_at=now)

    def withdrawn(self, pool: UsedPool, why: str, brief: str) -> UsedPool:
        """The pool without this size among those to try, as Batch does not offer it; it keeps its present one."""
        others = tuple(size for size in pool.other_sizes if size != self.size)
        refused = (*pool.refused_sizes, RefusedSize(size=self.size, why=why, brief=brief))
        return replace(pool, other_sizes=others, refused_sizes=refused)


def refused_now(pool: UsedPool, errors: Sequence[ResizeError]) -> RefusedSize:
    """The pool's present size with the errors of its last allocation."""
    why = "; ".join(map(described, errors))
    return RefusedSize(size=pool.vm_size, why=why, brief=", ".join(str(error.code) for error in errors))


def next_size(pool: UsedPool, errors: Sequence[ResizeError], *, helped: bool = False) -> NextSize | None:
    """The next of the pool's sizes that can get nodes where the present one got these errors; None where none can.

    helped: dedicated nodes will be added, so that a used up quota of spot cores is no reason for another size.
    """
    remedies = {Remedy.TIME if helped and error.code in SPOT_QUOTAS else remedy_of(error.code) for error in errors}
    if not remedies or None in remedies or remedies == {Remedy.TIME}:
        return None
    passed = [refused_now(pool, errors)]
    for at, size in enumerate(pool.other_sizes):
        reason = _why_not(size, pool, remedies)
        if not reason:
            at_once = not remedies & {Remedy.PATIENCE, Remedy.TIME}
            return NextSize(size=size, later=pool.other_sizes[at + 1 :], refused=passed, at_once=at_once)
        passed.append(RefusedSize(size=size, why=f"not tried, {reason}", brief="not tried"))
    return None


def _why_not(size: str, pool: UsedPool, remedies: Collection[Remedy | None]) -> str:
    """Why that size would get no nodes either, as one of those before it did; empty where it may."""
    before = [(each.size, {remedy_of(code) for code in each.brief.split(", ")}) for each in pool.refused_sizes]
    for refused, helps in [*before, (pool.vm_size, remedies)]:
        of_size, of_refused = cores(size), cores(refused)
        fewer = of_size is None or of_refused is None or of_size < of_refused
        if Remedy.FEWER_CORES in helps and not fewer:
            return f"since it has no fewer cores than {refused}"
        if Remedy.OTHER_FAMILY in helps and family(size) == family(refused) and not fewer:
            return f"since it shares the quota of {refused}"
    return ""


def no_size_left(pool: UsedPool, errors: Sequence[ResizeError], names: Mapping[str, str] | None = None) -> str:
    """Why the pool gets no nodes, with the reason of each of its sizes, and what to do about it.

    names: those of the accounts, for commands.
    """
    present = refused_now(pool, errors)
    remedies = {remedy_of(error.code) for error in errors}
    untried = [(size, _why_not(size, pool, remedies)) for size in pool.other_sizes]
    not_tried = [RefusedSize(size=size, why=f"not tried, {why}", brief="") for size, why in untried if why]
    before = [code for each in pool.refused_sizes for code in each.brief.split(", ")]
    hint = advice(Where.RESIZE, *(error.code for error in errors), *before, names=names)
    if not pool.refused_sizes and not not_tried:
        return f"pool {pool.id} got no nodes: {present.why}{hint}"
    reasons = "; ".join(_by_reason([*pool.refused_sizes, present, *not_tried]))
    return f"pool {pool.id} got no nodes of any of its VM sizes: {reasons}{hint}"


def _by_reason(refused: Sequence[RefusedSize]) -> Iterator[str]:
    """The sizes in their order with the reason for each, which is written once for those that follow one another."""
    for why, same in groupby(refused, key=lambda each: each.why):
        yield f"{', '.join(each.size for each in same)}: {why}"
