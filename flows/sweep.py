"""The flow that finds what runs have left in the accounts, and with `delete` deletes it.

python -m flows.sweep            # a dry run: lists leftovers, deletes nothing
python -m flows.sweep --delete
"""

# No postponed annotations: a flow that is served is pickled, and would not find their names.

if __name__ == "__main__":  # before the imports below, which take seconds
    from flows.cli import main_of_sweep

    main_of_sweep()

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect.states import Completed

from flows.automations import FLOWS
from tasks.accounts.choose import accounts_in_use
from tasks.accounts.clients import Azure
from tasks.errors import InputError, RunError
from tasks.errors.log import log_errors_without_traceback
from tasks.errors.service import SERVICE_FAILURES, ServiceError
from tasks.reporting.leftovers import (
    Finding,
    conclusion,
    log_deletion,
    log_findings,
    problems,
    publish_findings,
    to_delete,
)
from tasks.resources.clean_up import clean_up_of
from tasks.resources.finished import Saving
from tasks.resources.leftovers import Deletion, delete_each, judge_all, judge_for, list_in_batch, list_in_storage
from tasks.resources.resource import Found
from tasks.run.parameters import flow_run_uuid
from tasks.run.settings import CleanUp, output_folder_of, settings_in
from tasks.step import RETRIES, step
from tasks.watching.ended_runs import ended_runs

SAVE_SECONDS = 240.0  # to download what one run has finished

log_errors_without_traceback()


class SweepFailed(RunError):
    """Some of what was to be deleted still exists."""


@flow(name="sweep", flow_run_name=lambda: f"sweep {datetime.now():%Y-%m-%d %H:%M}", persist_result=False)
def sweep(
    delete: bool = False, flow_run_id: str | None = None, include_kept: bool = False, accounts: str | None = None
) -> State[Any] | None:
    """Find what runs of this project have left in the accounts, and delete what is expired or of a run that is lost.

    Only resources with our tags are deleted, whatever the names of others. A run is lost if it is Crashed or Cancelled
    on the Prefect server, or has sent no heartbeat for minutes and gives no sign of life while the sweep waits.

    Args:
        delete: Delete it. Otherwise this is a dry run that only lists what there is.
        flow_run_id: Delete what this flow run created, expired or not, if the run has ended, and nothing else.
        include_kept: Delete also what was kept on purpose.
        accounts: Name of a Prefect block with the accounts, unless the flow run itself named one; without either, the
            accounts of the environment.
    """
    only = flow_run_uuid(flow_run_id)
    # A triggered sweep has the block of its deployment; the run may have used another one.
    azure = accounts_in_use((only and settings_in(read_flow_run(only).parameters).get("accounts")) or accounts or None)
    if azure is None:
        nothing = "No account is configured, and the embedded local Azure leaves nothing: it ends with its run"
        get_run_logger().info(nothing)
        return Completed(message=nothing)

    found, unlisted = find_leftovers(azure)
    with get_client(sync_client=True) as client:
        runs = ended_runs(client, azure, found, only, flows=FLOWS, deletes=delete)
    ended = {id: settings_in(run.parameters or {}) for id, run in runs.items()}
    clean_ups = {id: clean_up_of(settings) for id, settings in ended.items()}
    findings = judge_each(found, clean_ups, only, include_kept)
    log_findings(findings)
    leftovers = to_delete(findings)
    folders = {id: output_folder_of(settings) for id, settings in ended.items()}
    deletions = delete_leftovers(azure, leftovers, folders) if delete and leftovers else []
    publish_findings(findings, deletions, only)
    if problem := problems(deletions, unlisted):
        raise SweepFailed(problem)
    return Completed(message=conclusion(findings, deletions, delete=delete))


def judge_each(
    found: Sequence[Found], ended: Mapping[str, CleanUp], only: UUID | None, include_kept: bool
) -> list[Finding]:
    """Decide about each; with a flow run's id, only its own are deleted."""
    now = datetime.now(timezone.utc)
    return [
        Finding(
            leftover=leftover,
            verdict=judge_for(leftover, str(only), ended.get(str(only)), now=now, include_kept=include_kept)
            if only
            else judge_all(leftover, ended, now=now, include_kept=include_kept),
            at=now,
        )
        for leftover in found
    ]


@step("1 find leftovers")
def find_leftovers(azure: Azure) -> tuple[list[Found], list[str]]:
    """List the resources with our tags.

    Also returns why one of the two accounts could not be listed; the sweep continues with the other, which may bill.
    """
    found: list[Found] = []
    unlisted: list[str] = []
    lists = {"pools and jobs": list_in_batch, "containers": list_in_storage}
    for what, list_all in lists.items():
        try:
            found += list_all(azure)
        except SERVICE_FAILURES as error:
            failure = ServiceError.of(error)
            retries_left = failure.transient and (task_run.run_count or 0) <= RETRIES
            if retries_left or len(unlisted) == len(lists) - 1:
                raise
            unlisted.append(f"the {what} could not be listed: {failure}")
            get_run_logger().warning("Continuing, but %s", unlisted[-1])
    return found, unlisted


@step("2 delete leftovers")
def delete_leftovers(azure: Azure, leftovers: Sequence[Found], folders: Mapping[str, str]) -> list[Deletion]:
    """Delete them; an error with one is logged and does not stop the others.

    folders: the output folder of each run that has ended, into which its finished outputs are downloaded before.
    """
    logger = get_run_logger()
    saving = {id: Saving(output_folder=each, seconds=SAVE_SECONDS, logger=logger) for id, each in folders.items()}
    deletions = []
    for deletion in delete_each(azure, leftovers, saving):
        deletions.append(deletion)
        log_deletion(deletion)
    return deletions


def read_flow_run(flow_run_id: UUID) -> FlowRun:
    """Read the flow run from the Prefect server. Raises InputError if it has none."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            raise InputError(
                f"this Prefect server knows no flow run {flow_run_id}; "
                "a sweep without flow_run_id deletes what has expired, whichever server ran it"
            ) from None
