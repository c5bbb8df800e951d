"""What a run may spend on its nodes, and how long they can live of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# Until nodes are gone after the decision to end: the autoscale formula's interval, and as long for their removal.
RESERVE = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A limit in US dollars, and the most that a dedicated and a spot node of the run's pool cost in an hour."""

    limit: float
    per_hour: float
    spot_per_hour: float
    source: str  # of the prices, with their date

    def hourly(self, dedicated: int, spot: int) -> float:
        return self.per_hour * dedicated + self.spot_per_hour * spot

    def reserve(self, dedicated: int, spot: int) -> float:
        """What these nodes cost while they are removed."""
        return self.hourly(dedicated, spot) * (RESERVE / timedelta(hours=1))

    def lasts(self, dedicated: int, spot: int, spent: float = 0.0) -> timedelta:
        """How long these nodes can live before their removal has to begin; not below zero."""
        left = self.limit - spent - self.reserve(dedicated, spot)
        hourly = self.hourly(dedicated, spot)
        if hourly <= 0:
            return timedelta.max
        return timedelta(hours=min(max(0.0, left / hourly), 24 * 365))


@dataclass(frozen=True, kw_only=True)
class Spent:
    """The most that the nodes had cost at a time, in US dollars."""

    dollars: float = 0.0
    at: datetime
