"""The flow that finds, and when told to deletes, what runs have left in the accounts.

python -m flows.sweep            # a dry run: says what there is, and deletes nothing
python -m flows.sweep --delete
"""

# No postponed annotations: a flow that is served is pickled, and would look for their names in vain.

if __name__ == "__main__":  # before the imports below, which take seconds
    from flows.cli import main_of_sweep

    main_of_sweep()

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect.states import Completed

from tasks.accounts.choose import accounts_in_use
from tasks.accounts.clients import Azure
from tasks.errors import SERVICE_FAILURES, InputError, RunError, ServiceError, log_errors_without_traceback
from tasks.reporting.artifacts import MOST_TABLE_ROWS, best_effort
from tasks.reporting.text import escape_markdown
from tasks.resources.leftovers import (
    Deletion,
    Ending,
    Leftover,
    Verdict,
    clean_up_of,
    delete_each,
    judge,
    judge_after,
    list_in_batch,
    list_in_storage,
)
from tasks.run.parameters import flow_run_uuid
from tasks.run.settings import CleanUp
from tasks.step import RETRIES, step

KEY = "leftovers"  # of the artifact; stable, so that the UI shows its history over the sweeps

log_errors_without_traceback()


class SweepFailed(RunError):
    """Some of what was to be deleted is still there."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A leftover, and what is made of it at the time of the sweep."""

    leftover: Leftover
    verdict: Verdict
    at: datetime

    @property
    def doomed(self) -> bool:
        return self.verdict in (Verdict.EXPIRED, Verdict.ENDED)

    def __str__(self) -> str:
        """Such as "expired 2 h 5 min ago"."""
        expires = self.leftover.expires
        if self.verdict is Verdict.EXPIRED and expires:
            return f"expired {_span(self.at - expires)} ago"
        if self.verdict is Verdict.CURRENT and expires:
            return f"expires in {_span(expires - self.at)}" if expires > self.at else "just expired: left a while"
        return self.verdict.value


@flow(name="sweep", flow_run_name=lambda: f"sweep {datetime.now():%Y-%m-%d %H:%M}", persist_result=False)
def sweep(
    delete: bool = False, flow_run_id: str | None = None, include_kept: bool = False, accounts: str | None = None
) -> State[Any] | None:
    """Find what runs of top-words have left in the accounts, and delete what has expired.

    Only what carries our tags is ours: nothing else is looked at twice, whatever its name.

    Args:
        delete: Delete it. Otherwise this is a dry run that only says what there is.
        flow_run_id: Delete what this flow run created, expired or not, if the run has ended, and nothing else.
        include_kept: Delete also what was kept on purpose.
        accounts: Name of a Prefect block with the accounts, unless the flow run itself named one; without either, the
            accounts of the environment.
    """
    only = flow_run_uuid(flow_run_id)
    # A triggered sweep has the block of its deployment, which need not be the one that the run was given.
    azure = accounts_in_use((only and read_flow_run(only).parameters.get("accounts")) or accounts or None)
    if azure is None:
        nothing = "No account is configured, and the embedded local Azure leaves nothing: it ends with its run"
        get_run_logger().info(nothing)
        return Completed(message=nothing)

    findings, unseen = find_leftovers(azure, only, include_kept)
    doomed = [finding.leftover for finding in findings if finding.doomed]
    deletions = delete_leftovers(azure, doomed) if delete and doomed else []
    publish(findings, deletions, only)
    return _complete(findings, deletions, unseen, delete)


@step("1 find leftovers")
def find_leftovers(azure: Azure, only: UUID | None, include_kept: bool) -> tuple[list[Finding], list[str]]:
    """What there is of ours, and what is made of it; with a flow run's id, nothing but that run's is to be deleted.

    And why one of the two accounts could not be looked at, if so: what is found in the other one may bill.
    """
    found, unseen = _listed(azure)
    clean_up = ended_run_s_clean_up(only) if only else None
    now = datetime.now(timezone.utc)
    findings = []
    for leftover in found:
        verdict = judge(leftover, now=now, include_kept=include_kept)
        if only and leftover.flow_run == str(only):
            verdict = judge_after(leftover, clean_up, include_kept=include_kept) if clean_up else Verdict.RUNNING
        elif only and verdict is Verdict.EXPIRED:
            verdict = Verdict.OTHERS
        findings.append(Finding(leftover=leftover, verdict=verdict, at=now))
    _say(findings)
    return findings, unseen


def _listed(azure: Azure) -> tuple[list[Leftover], list[str]]:
    found: list[Leftover] = []
    unseen: list[str] = []
    lists = {"pools and jobs": list_in_batch, "containers": list_in_storage}
    for what, look in lists.items():
        try:
            found += look(azure)
        except SERVICE_FAILURES as error:
            failure = ServiceError.of(error)
            tries_left = failure.transient and (task_run.run_count or 0) <= RETRIES
            if tries_left or len(unseen) == len(lists) - 1:
                raise
            unseen.append(f"the {what} could not be listed: {failure}")
            get_run_logger().warning("Going on although %s", unseen[-1])
    return found, unseen


@step("2 delete leftovers")
def delete_leftovers(azure: Azure, doomed: Sequence[Leftover]) -> list[Deletion]:
    """Delete them; what cannot be deleted is told, and keeps nothing else from it."""
    logger = get_run_logger()
    deletions = []
    for deletion in delete_each(azure, doomed):
        deletions.append(deletion)
        if deletion.ending is Ending.FAILED:
            logger.warning("The %s was not deleted: %s", deletion.leftover.name, deletion.reason)
        else:
            logger.info("The %s: %s", deletion.leftover.name, deletion.ending.value)
    return deletions


def read_flow_run(flow_run_id: UUID) -> FlowRun:
    """The flow run as the Prefect server has it. Raises InputError where it has none."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            raise InputError(
                f"this Prefect server knows no flow run {flow_run_id}; "
                "a sweep without flow_run_id deletes what has expired, whichever server ran it"
            ) from None


def ended_run_s_clean_up(flow_run_id: UUID) -> CleanUp | None:
    """What that run's parameters say of cleaning up; None while the run may still go on."""
    flow_run = read_flow_run(flow_run_id)
    state = flow_run.state
    if state is None or not state.is_final():
        now = state.name if state else "not begun"
        get_run_logger().warning("Flow run %s has not ended (%s): what it created is left alone", flow_run_id, now)
        return None
    return clean_up_of(flow_run.parameters)


@best_effort
def publish(findings: Sequence[Finding], deletions: Sequence[Deletion], only: UUID | None) -> None:
    """What was found, and what became of it, as a table in the UI."""
    endings = {deletion.leftover.name: deletion for deletion in deletions}
    lines = [
        f"Found {_sum(findings)}." + (f" Only what flow run {only} created is to be deleted." if only else ""),
        "",
        "| what | flow run | state | nodes | created | expires | |",
        "|:--|:--|:--|--:|:--|:--|:--|",
        *(_row(finding, endings.get(finding.leftover.name)) for finding in findings[:MOST_TABLE_ROWS]),
    ]
    if len(findings) > MOST_TABLE_ROWS:
        lines += ["", f"and {len(findings) - MOST_TABLE_ROWS} more"]
    create_markdown_artifact("\n".join(lines), key=KEY, description="What runs have left in the accounts")


def _say(findings: Sequence[Finding]) -> None:
    logger = get_run_logger()
    logger.info("Found %s", _sum(findings))
    for finding in findings:
        leftover = finding.leftover
        billing = f"; {leftover.nodes} nodes, which bill" if leftover.nodes else ""
        tell = logger.warning if leftover.nodes and finding.doomed else logger.info
        tell("The %s of flow run %s: %s%s", leftover.name, leftover.flow_run, finding, billing)


def _complete(
    findings: Sequence[Finding], deletions: Sequence[Deletion], unseen: Sequence[str], delete: bool
) -> State[Any]:
    """The final state. Raises SweepFailed where something was not deleted, naming each, or could not be looked at."""
    failed = [f"{each.leftover.name}: {each.reason}" for each in deletions if each.ending is Ending.FAILED]
    if unseen:
        raise SweepFailed("\n".join([*unseen, *failed]))
    if failed:
        raise SweepFailed(f"{len(failed)} of {len(deletions)} were not deleted:\n" + "\n".join(failed))
    said = f"{_sum(findings)}; " + (
        f"{sum(each.ending is Ending.DELETED for each in deletions)} deleted" if delete else "a dry run deletes nothing"
    )
    return Completed(message=said)


def _sum(findings: Sequence[Finding]) -> str:
    doomed = [finding.leftover for finding in findings if finding.doomed]
    nodes = sum(leftover.nodes for leftover in doomed)
    with_nodes = f" (with {nodes} nodes, which bill)" if nodes else ""
    things = "pool, job or container" if len(findings) == 1 else "pools, jobs and containers"
    return f"{len(findings)} {things} of ours, {len(doomed)} of them to be deleted{with_nodes}"


def _row(finding: Finding, deletion: Deletion | None) -> str:
    leftover = finding.leftover
    became = str(finding) if deletion is None else f"{finding}; {deletion.ending.value}"
    cells = [leftover.name, leftover.flow_run, leftover.state, f"{leftover.nodes or ''}"]
    cells += [_time(leftover.created), _time(leftover.expires), became]
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def _time(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "?"


def _span(span: timedelta) -> str:
    """Such as "2 h 5 min"."""
    hours, minutes = divmod(int(span.total_seconds()) // 60, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
