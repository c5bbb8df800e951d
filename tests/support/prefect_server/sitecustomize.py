"""Python imports this as it starts, in the Prefect servers of the tests: garbage is collected in a thread of its own.

A collection in the server's event loop can free a cursor, which waits for its connection while a thread uses that. If
that thread waits for SQLite's lock, and the lock is held by a transaction that only the event loop can continue, the
server stops for the 60 s that Prefect lets SQLite wait. In another thread, a collection that waits stops nothing.
"""

from __future__ import annotations

import gc
import time
from threading import Thread

_YOUNG = 1  # objects that outlive one collection stay: a server of the tests lives for minutes


def _collect() -> None:
    while True:
        time.sleep(1)
        gc.collect(_YOUNG)


gc.disable()
Thread(target=_collect, daemon=True).start()
