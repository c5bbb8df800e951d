"""The limits within which the Batch tasks of a run are watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tasks.run.budget import Budget


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The job that is watched, with its limits."""

    job_id: str
    tasks: int  # of the job
    expires: datetime
    lifetime: timedelta
    stall_minutes: int
    dedicated_after_minutes: int | None = None  # None: no dedicated nodes are added
    added_nodes: int = 0  # how many of them are added
    budget: Budget | None = None  # for the nodes; None: no limit
    names: Mapping[str, str] = field(default_factory=dict)  # of the accounts, for commands that help

    @property
    def stall(self) -> timedelta:
        return timedelta(minutes=self.stall_minutes)
