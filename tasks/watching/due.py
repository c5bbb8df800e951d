"""What a look at the Batch tasks has to report, decided from the counts alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tasks.reporting.artifacts import MOST_TABLE_ROWS
from tasks.reporting.events import MOST_FAILURE_EVENTS
from tasks.watching.memory import Memory
from tasks.watching.progress import CHANGES_APART, Progress, change_is_due, is_due, table_is_due


@dataclass(frozen=True, kw_only=True)
class Due:
    """What is to be reported, and so what else is to be read; nothing at most looks while nothing is wrong."""

    line: bool = False  # of the log
    table: bool = False  # of Batch tasks
    losses: bool = False  # of spot nodes
    stagnant: bool = False  # nothing has completed since the last line: what the counts do not show is read


def due(memory: Memory, counts: Progress, waiting_for: str, now: datetime) -> Due:
    """What is due after this look."""
    begun = memory.kind_is_new(waiting_for)
    failures = _new_failures(memory, counts, now)
    line = begun or _line(memory, counts, waiting_for, now)
    last = memory.logged
    stagnant = line and not begun and last is not None and counts.completed <= last.completed
    fewer = last is not None and counts.running < last.running and counts.left > counts.running
    listed = memory.table_read
    aged = listed is None or table_is_due(age=now - listed, watched=now - memory.began)
    has_run = bool(counts.running or counts.completed or memory.rate.latest)
    return Due(
        line=line or (failures and counts.now(waiting_for) != memory.last_status),
        table=has_run and (failures or (line and (begun or stagnant or aged))),
        losses=line and (stagnant or fewer or not counts.running),
        stagnant=stagnant,
    )


def _line(memory: Memory, counts: Progress, waiting_for: str, now: datetime) -> bool:
    silent = now - memory.status_logged
    if counts.now(waiting_for) != memory.last_status:
        return change_is_due(silent=silent, watched=now - memory.began, next_look=memory.next_look)
    return is_due(silent=silent, unchanged=now - memory.status_since, next_look=memory.next_look)


def _new_failures(memory: Memory, counts: Progress, now: datetime) -> bool:
    """Whether tasks have failed since they were listed: the first is reported at once, others every few seconds.

    Those that are no events any more are shown in the table, and those for which it has no room are only counted.
    """
    if counts.failed <= memory.failed_read or memory.failed_read >= MOST_TABLE_ROWS:
        return False
    if not memory.failed_read or memory.table_read is None:
        return True
    age = now - memory.table_read
    if memory.failed_read < MOST_FAILURE_EVENTS:
        return age >= CHANGES_APART
    return table_is_due(age=age, watched=now - memory.began)
