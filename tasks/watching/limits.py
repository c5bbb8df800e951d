"""How long watching the Batch tasks may take, and what it may do about a wait."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is watched, and its limits."""

    job_id: str
    tasks: int  # of the job
    expires: datetime
    lifetime: timedelta
    stall_minutes: int
    dedicated_after_minutes: int | None = None  # None: no dedicated nodes are added
    added_nodes: int = 0  # how many those are

    @property
    def stall(self) -> timedelta:
        return timedelta(minutes=self.stall_minutes)
