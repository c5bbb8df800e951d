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

    def ticks(self, seconds_left: Callable[[], float | None] = lambda: None) -> Iterator[float]:
        """The seconds since the first look, at each look. seconds_left: about how long it still takes, where known."""
        start = self.clock()
        while True:
            waited = self.clock() - start
            yield waited
            self.sleep(self.delay(waited, seconds_left()))

    def delay(self, waited: float, seconds_left: float | None = None) -> float:
        """The seconds until the next look; towards the end, which may take longer, up to five times as often."""
        delay = min(self.longest, waited / 10)
        if seconds_left is not None:
            delay = max(delay / 5, min(delay, seconds_left / 2))
        return max(self.shortest, delay)
