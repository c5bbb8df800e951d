"""How often to poll something that takes its time, and what time it is; injected, so that tests need not wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True, kw_only=True)
class Polling:
    """The seconds between two looks: a tenth of the time waited so far, between the two bounds."""

    shortest: float = 0.2
    longest: float = 14.0  # so that the log can report progress twice a minute
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _now

    def ticks(self) -> Iterator[float]:
        """The seconds since the first look, at each look."""
        start = self.clock()
        while True:
            waited = self.clock() - start
            yield waited
            self.sleep(self.delay(waited))

    def delay(self, waited: float) -> float:
        """The seconds until the next look."""
        return min(self.longest, max(self.shortest, waited / 10))
