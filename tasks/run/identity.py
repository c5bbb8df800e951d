"""The names and lifetime of one run's resources, derived from the flow run's id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum

from tasks.run.settings import Disposal, TimeLimits

PROJECT = "prefect-azure-batch"  # the tag by which a sweep tells what runs created from everything else
HELD = {"held": "yes"}  # the tag of containers that stay until they expire, because of outputs that are nowhere else


class Role(str, Enum):
    """The three containers of a run."""

    APPLICATION = "application"
    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The names, tags and lifetime of one run's resources, all derived from the flow run's id.

    A retry of the flow run therefore meets, and adopts, the resources of the first try.
    """

    workload: str  # its name, with which those of the resources begin
    flow_run_id: str
    started: datetime
    lifetime: timedelta

    @classmethod
    def start(cls, flow_run_id: str, workload: str, limits: TimeLimits) -> Run:
        lifetime = timedelta(minutes=limits.run_minutes)
        started = datetime.now(timezone.utc)
        return cls(workload=workload, flow_run_id=flow_run_id, started=started, lifetime=lifetime)

    @property
    def name(self) -> str:
        # Prefect's ids are UUIDv7: they begin with the time, so only the tail tells simultaneous runs apart.
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

    @property
    def expires_text(self) -> str:
        """When it expires, for people."""
        return f"{self.expires:%Y-%m-%d %H:%M %Z}"

    @property
    def tags(self) -> dict[str, str]:
        """The metadata that every resource of this run carries; the names suit Blob Storage's rule for metadata."""
        return {
            "project": PROJECT,
            "workload": self.workload,
            "flow_run": self.flow_run_id,
            "created": self.started.isoformat(timespec="seconds"),
            "expires": self.expires.isoformat(timespec="seconds"),
        }

    def tags_for(self, disposal: Disposal) -> dict[str, str]:
        """The tags of what becomes that when the run ends: what is kept on purpose is nothing for a sweep."""
        return {**self.tags, "kept": "yes"} if disposal is Disposal.KEEP else self.tags

    def owns(self, tags: Mapping[str, str] | None) -> bool:
        """Whether a resource with these tags was created by this run."""
        tags = tags or {}
        return tags.get("project") == PROJECT and tags.get("flow_run") == self.flow_run_id


@dataclass(frozen=True, kw_only=True)
class UsedPool:
    """The pool that a run's tasks run on."""

    id: str
    slots_per_node: int
    own: bool  # created by this run: its start task has put the node script on the nodes
    vm_size: str = ""
    dedicated_nodes: int = 0
    spot_nodes: int = 0
    added_nodes: int = 0  # dedicated ones, asked for while the run waited for spot nodes
    added_at: datetime | None = None
    asked_at: datetime | None = field(default=None, compare=False)  # when this run asked for it

    @property
    def nodes(self) -> int:
        return self.dedicated_nodes + self.spot_nodes + self.added_nodes
