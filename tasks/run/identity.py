"""The names and lifetime of one run's resources, derived from the flow run's id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum

from tasks.run.budget import Budget
from tasks.run.settings import TimeLimits
from tasks.run.tags import Tags


class Role(str, Enum):
    """The three containers of a run."""

    APPLICATION = "application"
    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The names, tags and lifetime of one run's resources, all derived from the flow run's id.

    A retry of the flow run therefore meets, and adopts, the resources of the previous attempt.
    """

    workload: str  # its name, with which those of the resources begin
    flow_run_id: str
    started: datetime
    lifetime: timedelta
    budget: Budget | None = None  # for its nodes

    @classmethod
    def start(cls, flow_run_id: str, workload: str, limits: TimeLimits) -> Run:
        lifetime = timedelta(minutes=limits.run_minutes)
        started = datetime.now(timezone.utc)
        return cls(workload=workload, flow_run_id=flow_run_id, started=started, lifetime=lifetime)

    @property
    def name(self) -> str:
        # Prefect's ids are UUIDv7: they begin with the time, so only the tail differs between simultaneous runs.
        return f"{self.workload}-{self.flow_run_id.replace('-', '')[-12:]}"

    @property
    def pool_id(self) -> str:
        return self.name

    @property
    def job_id(self) -> str:
        return self.name

    def container(self, role: Role) -> str:
        return f"{self.name}-{role.value}"

    @property
    def expires(self) -> datetime:
        return self.started + self.lifetime

    def nodes_until(self, dedicated: int, spot: int, asked_at: datetime) -> datetime:
        """When a pool that is asked for then gives up its nodes: when the run expires, or sooner as its budget ends."""
        if self.budget is None:
            return self.expires
        return min(self.expires, asked_at + self.budget.lasts(dedicated, spot))

    @property
    def expires_text(self) -> str:
        """When it expires, for people."""
        return f"{self.expires:%Y-%m-%d %H:%M %Z}"

    @property
    def tags(self) -> Tags:
        """What every resource of this run is tagged with."""
        return Tags(
            workload=self.workload,
            flow_run=self.flow_run_id,
            created=self.started.replace(microsecond=0),
            expires=self.expires.replace(microsecond=0),
        )


@dataclass(frozen=True, kw_only=True)
class RefusedSize:
    """A VM size of which a run's pool got no nodes."""

    size: str
    why: str  # codes and messages of the service
    brief: str  # the codes alone

    def __str__(self) -> str:
        return f"{self.size}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class UsedPool:
    """The pool that a run's tasks run on."""

    id: str
    slots_per_node: int
    own: bool  # created by this run: its start task has put the node script on the nodes
    outdated: bool = False  # a previous attempt created it, and its nodes have another script
    installs: bool = False  # its start task installs packages or modules
    container_image: str | None = None  # in which Batch tasks run
    container_registry: str | None = None  # how they sign in to its registry, where the pool's nodes have not done so
    vm_size: str = ""  # the one in use
    other_sizes: Sequence[str] = ()  # the ones still to be tried, in their order
    refused_sizes: Sequence[RefusedSize] = ()
    dedicated_nodes: int = 0
    spot_nodes: int = 0
    added_nodes: int = 0  # dedicated ones, asked for while the run waited for spot nodes
    added_at: datetime | None = None
    asked_at: datetime | None = field(default=None, compare=False)  # when this run asked for it
    nodes_until: datetime | None = field(default=None, compare=False)  # by its formula; None where that is not ours

    @property
    def instead_of(self) -> str:
        """Such as "Standard_D2ads_v5 (AccountVMSeriesCoreQuotaReached)"; empty where the first size is in use."""
        return ", ".join(f"{each.size} ({each.brief})" for each in self.refused_sizes)

    @property
    def nodes(self) -> int:
        return self.dedicated_nodes + self.spot_nodes + self.added_nodes
