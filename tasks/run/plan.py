"""What a run is going to do, and whether it can: known before it creates anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import ceil

from tasks.inputs.addresses import SourceBlob
from tasks.inputs.files import InputFile
from tasks.run.estimate import AZURE, LOCAL, Estimate, Load, Place, estimate
from tasks.run.groups import Group, form
from tasks.run.identity import Run
from tasks.run.price import Price
from tasks.run.settings import PoolSettings, RunSettings
from tasks.run.speed import Speed
from tasks.run.vm_sizes import cores

_LONGEST_RUN = 7 * 24 * 60  # minutes
_MINUTE = timedelta(minutes=1)
_ROOM = 1.5  # times the estimate, for what it does not know


@dataclass(frozen=True, kw_only=True)
class Image:
    """The VM image of a new pool, as the Batch account lists it."""

    name: str  # publisher:offer:sku
    verified: bool
    supported_until: date | None = None

    @property
    def support(self) -> str:
        """Until when Azure Batch supports it."""
        until = self.supported_until
        return f"supported by Azure Batch until {until}" if until else "no end of its support is announced"


@dataclass(frozen=True, kw_only=True)
class PlannedPool:
    """The pool that a run is going to use.

    vm_sizes: in the order in which they are tried. existing: its id, where it is not the run's own. image: of the run's
    own, where one was found.
    """

    vm_sizes: Sequence[str]
    dedicated_nodes: int
    spot_nodes: int
    slots_per_node: int
    slots_per_task: int = 1
    existing: str = ""
    image: Image | None = None

    @property
    def nodes(self) -> int:
        return self.dedicated_nodes + self.spot_nodes

    @property
    def at_once(self) -> int:
        """How many Batch tasks can run at the same time."""
        return self.nodes * (self.slots_per_node // self.slots_per_task)

    @property
    def cores_per_node(self) -> int | None:
        """Of the first size; None where its name does not show them."""
        return cores(self.vm_sizes[0])


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """Where the run happens and who signs in there; no secrets."""

    where: str
    batch_signer: str
    storage_signer: str
    storage_has_key: bool
    names: Mapping[str, str]  # in commands: see Azure.names
    is_local: bool  # on this machine


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What step 0 has found of the accounts, and what a person should know of it.

    settings: those of the pool, with the image of a new one named. pool: None where the existing one cannot be used.
    """

    accounts: Accounts
    settings: PoolSettings
    pool: PlannedPool | None
    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run is going to do.

    inputs: all; to_process: those that no earlier attempt or run has done, which size and in_place (blobs that are read
    where they are) count. pool: None where the existing one cannot be used. estimate: None without a pool, or where
    there is nothing to process. speed: None where the script's time is not known; the estimate then is without it.
    price: of a node of the first size; None where it is not known, or nodes cost the run nothing.

    problems: why it cannot work; warnings: why it may not. Each names the fix.
    """

    run: Run
    settings: RunSettings
    accounts: Accounts
    pool: PlannedPool | None
    inputs: int
    to_process: int
    size: int
    in_place: int
    batch_tasks: int
    largest: int  # files in one Batch task
    estimate: Estimate | None
    speed: Speed | None
    price: Price | None
    results: str
    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()

    @property
    def flow_run_id(self) -> str:
        return self.run.flow_run_id


def make_plan(
    *,
    run: Run,
    settings: RunSettings,
    checked: Checked,
    inputs: int,
    to_process: Sequence[InputFile],
    speed: Speed | None,
    price: Price | None,
    results: str,
    is_retry: bool = False,
    problems: Sequence[str] = (),
) -> RunPlan:
    """The plan from what was read.

    is_retry: a previous attempt may have done more than is known yet, so that no estimate refuses the run.

    problems: those that are known beside those of the accounts.
    """
    pool = checked.pool
    groups = form(to_process, slots=pool.at_once, files_per_task=settings.files_per_task) if pool else []
    in_place = [file.size for file in to_process if isinstance(file.source, SourceBlob)]
    size = sum(file.size for file in to_process)
    found, refused, warned = None, list[str](), list[str]()
    if pool and groups:
        found = _estimate(groups, size - sum(in_place), pool, speed, place_of(checked.accounts))
        late = [*_too_long(found, speed, settings, len(to_process), pool), *_too_dear(found, speed, run, pool)]
        sure = speed and speed.same_files and not is_retry and found.least > _allowed(run, pool)
        refused, warned = (late, []) if sure else ([], late)
    return RunPlan(
        run=run,
        settings=settings,
        accounts=checked.accounts,
        pool=pool,
        inputs=inputs,
        to_process=len(to_process),
        size=size,
        in_place=len(in_place),
        batch_tasks=len(groups),
        largest=max((len(group.files) for group in groups), default=0),
        estimate=found,
        speed=speed,
        price=price,
        results=results,
        problems=[*problems, *checked.problems, *refused],
        warnings=[*checked.warnings, *warned],
    )


def place_of(accounts: Accounts) -> Place:
    """The constants of the estimate."""
    return LOCAL if accounts.is_local else AZURE


def _estimate(
    groups: Sequence[Group[InputFile]], uploaded: int, pool: PlannedPool, speed: Speed | None, place: Place
) -> Estimate:
    load = Load.of(
        groups,
        uploaded=uploaded,
        nodes=pool.nodes,
        slots=pool.at_once,
        cores=pool.nodes * (pool.cores_per_node or pool.slots_per_node),
        node_seconds=speed.seconds if speed else 0.0,
    )
    return estimate(load, place)


def _allowed(run: Run, pool: PlannedPool) -> float:
    """Seconds until the run's nodes go at the latest: by run_minutes, or sooner by cost_limit."""
    return (run.nodes_until(pool.dedicated_nodes, pool.spot_nodes, run.started) - run.started).total_seconds()


def _too_long(
    found: Estimate, speed: Speed | None, settings: RunSettings, files: int, pool: PlannedPool
) -> Iterator[str]:
    """Why run_minutes will not do, where the estimate says so."""
    given = settings.limits.run_minutes
    if not (needs := _needs(found, given * 60.0)):
        return
    why = (
        f"{files:,} files of {speed.seconds:,.3g} s each, as in {speed.run}, with {pool.at_once:,} Batch tasks at once"
        if speed
        else f"{files:,} files, without the time of the script, which is not known yet"
    )
    wanted = ceil(max(found.seconds, found.least) * _ROOM / 60)
    more = "more nodes (dedicated_nodes)" if not pool.existing else "a pool with more nodes"
    fix = f"set run_minutes to {wanted:,}, or use {more}" if wanted <= _LONGEST_RUN else f"use {more}, or several runs"
    yield f"this run needs {needs}, and run_minutes is {given:,} ({why}); {fix}"


def _too_dear(found: Estimate, speed: Speed | None, run: Run, pool: PlannedPool) -> Iterator[str]:
    """Why cost_limit will not do, where the estimate says so."""
    budget, nodes = run.budget, (pool.dedicated_nodes, pool.spot_nodes)
    if budget is None:
        return
    lasts = budget.lasts(*nodes)
    if lasts >= run.lifetime or not (needs := _needs(found, lasts.total_seconds())):
        return
    without = "" if speed else ", without the time of the script, which is not known yet"
    wanted = budget.hourly(*nodes) * max(found.seconds, found.least) * _ROOM / 3600 + budget.reserve(*nodes)
    yield (
        f"this run needs {needs}{without}, and cost_limit (${budget.limit:,.2f}) is enough for {lasts // _MINUTE:,} "
        f"minutes of its nodes; set cost_limit to {ceil(wanted * 100) / 100:,.2f}, or use smaller nodes or spot nodes"
    )


def _needs(found: Estimate, allowed: float) -> str:
    """How long it takes, where that is more than the seconds that are allowed."""
    if found.least > allowed:
        return f"at least {ceil(found.least / 60):,} minutes"
    return f"about {ceil(found.seconds / 60):,} minutes" if found.seconds > allowed else ""


def planned_pool(settings: PoolSettings, image: Image | None) -> PlannedPool:
    """A new pool, as the settings describe it."""
    return PlannedPool(
        vm_sizes=settings.vm_size,
        dedicated_nodes=settings.dedicated_nodes,
        spot_nodes=settings.spot_nodes,
        slots_per_node=settings.slots_per_node,
        slots_per_task=settings.slots_per_task,
        image=image,
    )
