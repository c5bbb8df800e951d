"""What a node costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars for one node and hour, and where the figures come from; spot_per_hour is None where it is not known.

    A spot node without a price counts as a dedicated one: it never costs more.
    """

    per_hour: float
    spot_per_hour: float | None = None
    source: str

    def of(self, node_seconds: float, spot_node_seconds: float = 0) -> float:
        """US dollars for these seconds of dedicated nodes and of spot nodes; Azure bills by the second."""
        return (self.per_hour * node_seconds + self.spot * spot_node_seconds) / 3600

    def hourly(self, dedicated: int, spot: int) -> float:
        """US dollars for an hour of these nodes."""
        return self.per_hour * dedicated + self.spot * spot

    @property
    def spot(self) -> float:
        """What a spot node costs in an hour, at most."""
        return self.per_hour if self.spot_per_hour is None else self.spot_per_hour
