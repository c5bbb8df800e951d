"""What a run is going to do, and whether it can: known before it creates anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from math import ceil

from tasks.inputs.addresses import SourceBlob
from tasks.inputs.files import InputFile
from tasks.run.estimate import AZURE, LOCAL, Estimate, Load, Place, estimate
from tasks.run.groups import form
from tasks.run.identity import Run
from tasks.run.settings import PoolSettings, RunSettings
from tasks.run.speed import Speed
from tasks.run.vm_sizes import cores

_LONGEST_RUN = 7 * 24 * 60  # minutes
_ROOM = 1.5  # times the estimate, for what it does not know


@dataclass(frozen=True, kw_only=True)
class Image:
    """The VM image of a new pool, as the Batch account lists it."""

    name: str  # publisher:offer:sku
    verified: bool
    supported_until: date | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedPool:
    """The pool that a run is going to use.

    vm_sizes: in the order in which they are tried. existing: its id, where it is not the run's own. image: of the run's
    own.
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
    batch_endpoint: str
    batch_name: str
    batch_signer: str
    storage_signer: str
    is_local: bool  # the embedded local Azure


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What step 0 has found of the accounts; settings: those of the pool, with the image of a new one named."""

    accounts: Accounts
    settings: PoolSettings
    pool: PlannedPool


@dataclass(frozen=True, kw_only=True)
class Prices:
    """US dollars for a node and hour, and where they come from.

    spot_is_most: that of spot nodes is the most that they can cost.
    """

    dedicated: float
    spot: float
    source: str
    spot_is_most: bool = False

    def of(self, pool: PlannedPool, node_seconds: float) -> float:
        """US dollars for that many seconds of all nodes of the pool together."""
        per_hour = pool.dedicated_nodes * self.dedicated + pool.spot_nodes * self.spot
        return per_hour / max(1, pool.nodes) * node_seconds / 3600


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run is going to do.

    inputs: all; to_process: those that no earlier attempt or run has done, which size and in_place (blobs that are read
    where they are) count. estimate: None where there is nothing to process. speed: None where the script's time is not
    known; the estimate then is without it. prices: None where they are not known, or nodes cost nothing.

    problems: why it cannot work; warnings: why it may not. Each names the fix.
    """

    run: Run
    settings: RunSettings
    accounts: Accounts
    pool: PlannedPool
    inputs: int
    to_process: int
    size: int
    in_place: int
    batch_tasks: int
    largest: int  # files in one Batch task
    estimate: Estimate | None
    speed: Speed | None
    prices: Prices | None
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
    accounts: Accounts,
    pool: PlannedPool,
    inputs: int,
    to_process: Sequence[InputFile],
    speed: Speed | None,
    prices: Prices | None,
    results: str,
    is_retry: bool = False,
) -> RunPlan:
    """The plan from what was read.

    is_retry: a previous attempt may have done more than is known yet, so that no estimate refuses the run.
    """
    groups = form(to_process, slots=pool.at_once, files_per_task=settings.files_per_task)
    in_place = [file.size for file in to_process if isinstance(file.source, SourceBlob)]
    size = sum(file.size for file in to_process)
    found = None
    if groups:
        load = Load.of(
            groups,
            uploaded=size - sum(in_place),
            nodes=pool.nodes,
            slots=pool.at_once,
            cores=pool.nodes * (pool.cores_per_node or pool.slots_per_node),
            node_seconds=speed.seconds if speed else 0.0,
        )
        found = estimate(load, place_of(accounts))
    late = list(_too_long(found, speed, settings, len(to_process), pool)) if found else []
    dear = _too_dear(found, prices, settings.cost_limit, pool) if found else []
    must_fail = bool(found and speed and speed.same_files and found.least > _limit(settings) and not is_retry)
    return RunPlan(
        run=run,
        settings=settings,
        accounts=accounts,
        pool=pool,
        inputs=inputs,
        to_process=len(to_process),
        size=size,
        in_place=len(in_place),
        batch_tasks=len(groups),
        largest=max((len(group.files) for group in groups), default=0),
        estimate=found,
        speed=speed,
        prices=prices,
        results=results,
        problems=late if must_fail else [],
        warnings=[*([] if must_fail else late), *dear],
    )


def place_of(accounts: Accounts) -> Place:
    """The constants of the estimate."""
    return LOCAL if accounts.is_local else AZURE


def _limit(settings: RunSettings) -> float:
    return settings.limits.run_minutes * 60.0


def _too_long(
    found: Estimate, speed: Speed | None, settings: RunSettings, files: int, pool: PlannedPool
) -> Iterator[str]:
    """Why run_minutes will not do, where the estimate says so."""
    given = settings.limits.run_minutes
    at_least = found.least > _limit(settings)
    if not at_least and found.seconds <= _limit(settings):
        return
    needs = f"at least {ceil(found.least / 60):,}" if at_least else f"about {ceil(found.seconds / 60):,}"
    why = (
        f"{files:,} files of {speed.seconds:,.3g} s each, as in {speed.run}, with {pool.at_once:,} Batch tasks at once"
        if speed
        else f"{files:,} files, without the time of the script, which is not known yet"
    )
    wanted = ceil(max(found.seconds, found.least) * _ROOM / 60)
    more = "more nodes (dedicated_nodes)" if not pool.existing else "a pool with more nodes"
    fix = f"set run_minutes to {wanted:,}, or use {more}" if wanted <= _LONGEST_RUN else f"use {more}, or several runs"
    yield f"this run needs {needs} minutes, and run_minutes is {given:,} ({why}); {fix}"


def _too_dear(found: Estimate, prices: Prices | None, limit: float | None, pool: PlannedPool) -> list[str]:
    """Why cost_limit will not do, where the estimate says so."""
    dollars = prices.of(pool, found.node_seconds) if prices else 0.0
    if limit is None or dollars < limit:
        return []
    return [
        f"this run needs nodes for about ${dollars:,.2f}, and cost_limit is ${limit:,.2f}: it will end with files not "
        "processed; set a larger cost_limit, or give this run fewer files"
    ]


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
