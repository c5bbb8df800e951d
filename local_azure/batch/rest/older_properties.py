"""Properties that only some versions of the API have, so that a client reads what its version describes."""

from __future__ import annotations

from local_azure.batch.state.store import Document

CURRENT = "2025-06-01"
REMOVED = frozenset({"resourceTags", "targetNodeCommunicationMode"})  # of pools, since then


def shown(pool: Document, version: str) -> Document:
    """The pool as the version has it: jobDefaultOrder is new in the current one, and recorded in none before."""
    if version >= CURRENT:
        return {name: value for name, value in pool.items() if name not in REMOVED}
    policy = {name: value for name, value in pool["taskSchedulingPolicy"].items() if name != "jobDefaultOrder"}
    return {**pool, "taskSchedulingPolicy": policy}
