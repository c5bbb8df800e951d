"""Reads the nodes of a pool, with the time of the service's own clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from azure.batch import BatchClient
from azure.batch.models import BatchNode

# For one request, without a retry: a run that ends does not wait for it.
_SOON: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 10}


def nodes_now(batch: BatchClient, pool_id: str, fields: Sequence[str]) -> tuple[list[BatchNode], datetime]:
    """The nodes, and when the service listed them by its `Date` header; by this machine's clock where it lacks one."""
    at: list[datetime] = []

    def note_date(response: Any) -> None:
        if date := response.http_response.headers.get("Date"):
            at.append(parsedate_to_datetime(date))

    nodes = list(batch.list_nodes(pool_id, select=list(fields), raw_response_hook=note_date, **_SOON))
    return nodes, at[0] if at else datetime.now(timezone.utc)
