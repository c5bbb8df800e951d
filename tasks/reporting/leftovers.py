"""Findings and deletions of a sweep, for its log, its artifact and its final state."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from tasks.reporting.artifacts import MOST_TABLE_ROWS, Key, best_effort
from tasks.reporting.text import escape_markdown, rough_span
from tasks.resources.leftovers import Deletion, Verdict
from tasks.resources.ownership import Ending
from tasks.resources.resource import Found


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A leftover, and what the sweep has decided about it."""

    leftover: Found
    verdict: Verdict
    at: datetime

    def __str__(self) -> str:
        """Such as "expired 2 h 5 min ago"."""
        expires = self.leftover.tags.expires
        if self.verdict is Verdict.EXPIRED and expires:
            return f"expired {rough_span(self.at - expires)} ago"
        if self.verdict is Verdict.CURRENT and expires:
            return (
                f"expires in {rough_span(expires - self.at)}" if expires > self.at else "just expired: left for a while"
            )
        return self.verdict.value


def to_delete(findings: Sequence[Finding]) -> list[Found]:
    return [finding.leftover for finding in findings if finding.verdict.deletes]


def total(findings: Sequence[Finding]) -> str:
    """Such as "3 pools, jobs and containers of ours, 1 of them to be deleted (with 2 nodes, which bill)"."""
    leftovers = to_delete(findings)
    nodes = sum(leftover.nodes for leftover in leftovers)
    with_nodes = f" (with {nodes} nodes, which bill)" if nodes else ""
    what = "pool, job or container" if len(findings) == 1 else "pools, jobs and containers"
    return f"{len(findings)} {what} of ours, {len(leftovers)} of them to be deleted{with_nodes}"


def log_findings(findings: Sequence[Finding]) -> None:
    logger = get_run_logger()
    logger.info("Found %s", total(findings))
    for finding in findings:
        leftover = finding.leftover
        billing = f"; {leftover.nodes} nodes, which bill" if leftover.nodes else ""
        level = logging.WARNING if leftover.nodes and finding.verdict.deletes else logging.INFO
        logger.log(level, "%s of flow run %s: %s%s", leftover.title, leftover.tags.flow_run, finding, billing)


def log_deletion(deletion: Deletion) -> None:
    title, logger = deletion.leftover.title, get_run_logger()
    if deletion.ending is Ending.FAILED:
        logger.warning("%s: not deleted: %s", title, deletion.reason)
    else:
        logger.info("%s: %s", title, deletion.ending.value)


@best_effort
def publish_findings(findings: Sequence[Finding], deletions: Sequence[Deletion], only: UUID | None) -> None:
    """Publish what was found, and whether it was deleted, as a table in the UI."""
    text = findings_table(findings, deletions, only)
    create_markdown_artifact(text, key=Key.LEFTOVERS.value, description="What runs have left in the accounts")


def findings_table(findings: Sequence[Finding], deletions: Sequence[Deletion], only: UUID | None) -> str:
    """The table in Markdown, with a sentence above it."""
    endings = {deletion.leftover.name: deletion for deletion in deletions}
    lines = [
        f"Found {total(findings)}." + (f" Only what flow run {only} created is to be deleted." if only else ""),
        "",
        "| what | flow run | state | nodes | created | expires | |",
        "|:--|:--|:--|--:|:--|:--|:--|",
        *(_row(finding, endings.get(finding.leftover.name)) for finding in findings[:MOST_TABLE_ROWS]),
    ]
    if len(findings) > MOST_TABLE_ROWS:
        lines += ["", f"and {len(findings) - MOST_TABLE_ROWS} more"]
    return "\n".join(lines)


def problems(deletions: Sequence[Deletion], unlisted: Sequence[str]) -> str:
    """Why a sweep fails: what could not be listed, and what was not deleted; empty where neither is."""
    failed = [f"{each.leftover.name}: {each.reason}" for each in deletions if each.ending is Ending.FAILED]
    if failed and not unlisted:
        return "\n".join([f"{len(failed)} of {len(deletions)} were not deleted:", *failed])
    return "\n".join([*unlisted, *failed])


def conclusion(findings: Sequence[Finding], deletions: Sequence[Deletion], *, delete: bool) -> str:
    """The message of the final state."""
    deleted = sum(each.ending is Ending.DELETED for each in deletions)
    return f"{total(findings)}; " + (f"{deleted} deleted" if delete else "a dry run deletes nothing")


def _row(finding: Finding, deletion: Deletion | None) -> str:
    leftover = finding.leftover
    became = str(finding) if deletion is None else f"{finding}; {deletion.ending.value}"
    cells = [leftover.name, leftover.tags.flow_run, leftover.state, f"{leftover.nodes or ''}"]
    cells += [_time(leftover.tags.created), _time(leftover.tags.expires), became]
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def _time(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "?"
