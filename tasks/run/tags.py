"""The tags of what a run creates: whose it is, when it expires, and whether it stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

PROJECT = "prefect-azure-batch"  # the tag by which a sweep finds what runs created
_YES = "yes"


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The tags of a pool, job or container; `flow_run` is empty where no run of this project created it.

    created, expires: None where the tag is missing or is no time.

    kept: on purpose, so that no sweep deletes it unless asked to.

    held: it contains outputs that are nowhere else, and stays until it expires.

    others: what else was read, which is written back unchanged.
    """

    workload: str
    flow_run: str
    created: datetime | None
    expires: datetime | None
    kept: bool = False
    held: bool = False
    others: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls, metadata: Mapping[str, str] | None) -> Tags:
        """The tags among the metadata that Azure Batch or Blob Storage keeps of something."""
        metadata = metadata or {}
        return cls(
            workload=metadata.get("workload", ""),
            flow_run=metadata.get("flow_run", "") if metadata.get("project") == PROJECT else "",
            created=parse_time(metadata.get("created")),
            expires=parse_time(metadata.get("expires")),
            kept=metadata.get("kept") == _YES,
            held=metadata.get("held") == _YES,
            others=metadata,
        )

    def metadata(self) -> dict[str, str]:
        """The metadata to write; the names suit Blob Storage's rule for them."""
        times = {"created": self.created, "expires": self.expires}
        known = {"project": PROJECT, "workload": self.workload, "flow_run": self.flow_run}
        known |= {name: time.isoformat(timespec="seconds") for name, time in times.items() if time}
        known |= {name: _YES for name, is_set in (("kept", self.kept), ("held", self.held)) if is_set}
        others = {name: value for name, value in self.others.items() if name not in ("kept", "held")}
        return {**others, **{name: value for name, value in known.items() if value}}

    def owned_by(self, flow_run_id: str) -> bool:
        """Whether that flow run created it."""
        return bool(self.flow_run) and self.flow_run == flow_run_id

    def expired(self, now: datetime, grace: timedelta) -> bool:
        return self.expires is not None and self.expires <= now - grace

    def same_claim(self, other: Tags) -> bool:
        """Whether both name the same run and the same time to delete it."""
        return (self.flow_run, self.expires, self.kept) == (other.flow_run, other.expires, other.kept)


def parse_time(text: str | None) -> datetime | None:
    """The time in UTC; None for what is none, or does not say in which time zone."""
    try:
        time = datetime.fromisoformat(text or "")
        return time.astimezone(timezone.utc) if time.tzinfo else None
    except (ValueError, OverflowError):
        return None
