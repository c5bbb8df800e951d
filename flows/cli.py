"""python -m flows.top_words and python -m flows.sweep: the flows as commands.

Options and input are checked here, before Prefect is imported, which takes seconds.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from flows.commands import Command, checked, make_app, run
from flows.word_arguments import word_arguments
from local_azure.embedded import starting_ahead
from tasks.accounts.environment import accounts_in
from tasks.run.parameters import flow_run_uuid, refuse_bad_input, refuse_too_many_paths
from tasks.run.settings import CleanUp, Disposal, PoolSettings, TimeLimits

_POOL = PoolSettings()
_LIMITS = TimeLimits()

app = make_app()
sweep_app = make_app()


@app.command(cls=Command)
def command(
    inputs: Annotated[list[str], typer.Argument(help="Text files, folders (the files in them) and globs.")],
    top_n: Annotated[int, typer.Option(help="Words to list for each file.")] = 10,
    dedicated_nodes: Annotated[
        int, typer.Option("--dedicated-nodes", "--nodes", help="Dedicated nodes of the pool.")
    ] = _POOL.dedicated_nodes,
    spot_nodes: Annotated[
        int, typer.Option(help="Spot nodes of the pool: cheaper, but Azure may take them away.")
    ] = _POOL.spot_nodes,
    dedicated_after_minutes: Annotated[
        int | None, typer.Option(help="Minutes without progress on spot nodes before dedicated nodes are added.")
    ] = None,
    vm_size: Annotated[str, typer.Option(help="VM size of a node.")] = _POOL.vm_size,
    image: Annotated[str, typer.Option(help="Linux image: publisher:offer:sku[:version].")] = _POOL.image,
    slots_per_node: Annotated[int, typer.Option(help="Task slots of a node.")] = _POOL.slots_per_node,
    slots_per_task: Annotated[int, typer.Option(help="Task slots that a Batch task takes.")] = _POOL.slots_per_task,
    pool_id: Annotated[
        str | None, typer.Option(help="Use this existing pool; it is neither changed nor deleted.")
    ] = None,
    run_minutes: Annotated[
        int, typer.Option(help="Limit of the whole run; SAS URLs expire with it.")
    ] = _LIMITS.run_minutes,
    task_minutes: Annotated[int, typer.Option(help="Limit of one Batch task.")] = _LIMITS.task_minutes,
    task_retries: Annotated[int, typer.Option(help="Times a failed Batch task is run again.")] = _LIMITS.task_retries,
    stall_minutes: Annotated[
        int, typer.Option(help="Fail after this many minutes without progress.")
    ] = _LIMITS.stall_minutes,
    allow_failures: Annotated[int, typer.Option(help="Files that may fail in a run that completes.")] = 0,
    output: Annotated[str, typer.Option(help="Folder for the results; each run makes a folder in it.")] = "results",
    delay: Annotated[float, typer.Option(help="Seconds each Batch task waits first, to watch a run.")] = 0,
    keep_containers: Annotated[bool, typer.Option("--keep-containers", help="Do not delete the containers.")] = False,
    keep_job: Annotated[bool, typer.Option("--keep-job", help="Do not delete the job.")] = False,
    keep_pool: Annotated[
        bool, typer.Option("--keep-pool", help="Do not delete the pool. It bills until the run's limit.")
    ] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Ask whether to delete the job and the pool.")] = False,
    accounts: Annotated[str | None, typer.Option(help="Prefect block with the accounts.")] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of files without byte-order mark, such as windows-1251.")
    ] = None,
) -> None:
    """Find the top words of text files on Azure Batch, one Batch task per file.

    Runs on the accounts in AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT, AZURE_BATCH_ACCESS_KEY and
    AZURE_STORAGE_CONNECTION_STRING (or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY; without keys, with Entra ID).
    With none of them set, it runs on an embedded local Azure that ends with the run and costs nothing.
    """
    configured = accounts or accounts_in(os.environ)
    pool = checked(
        PoolSettings,
        dedicated_nodes=dedicated_nodes,
        spot_nodes=spot_nodes,
        dedicated_after_minutes=dedicated_after_minutes,
        vm_size=vm_size,
        image=image,
        slots_per_node=slots_per_node,
        slots_per_task=slots_per_task,
        existing_pool_id=pool_id,
    )
    limits = checked(
        TimeLimits,
        run_minutes=run_minutes,
        task_minutes=task_minutes,
        task_retries=task_retries,
        stall_minutes=stall_minutes,
    )
    word_arguments(top_n, delay, encoding, limits)
    refuse_too_many_paths(inputs)
    found = refuse_bad_input(inputs, allow_failures)
    otherwise = Disposal.ASK if ask else Disposal.DELETE
    clean_up = CleanUp(
        containers=Disposal.KEEP if keep_containers else Disposal.DELETE,
        job=Disposal.KEEP if keep_job else otherwise,
        pool=Disposal.KEEP if keep_pool else otherwise,
    )
    print(
        f"Input: {found}; starting {'Prefect' if configured else 'Prefect and the embedded local Azure'}",
        file=sys.stderr,
    )
    with nullcontext() if configured else starting_ahead():
        from flows.command_run import run_top_words

        run_top_words(output, inputs, top_n, pool, limits, output, clean_up, allow_failures, accounts, delay, encoding)


@sweep_app.command(cls=Command)
def sweep_command(
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; otherwise only say what there is.")] = False,
    flow_run: Annotated[str | None, typer.Option(help="Delete only what this flow run created, if it ended.")] = None,
    include_kept: Annotated[bool, typer.Option("--include-kept", help="Also what was kept on purpose.")] = False,
    accounts: Annotated[str | None, typer.Option(help="Prefect block with the accounts.")] = None,
) -> None:
    """Find what runs of top-words have left in the accounts, and delete what has expired."""
    flow_run_uuid(flow_run)
    if not accounts:
        accounts_in(os.environ)

    from flows.command_run import run_sweep

    run_sweep(delete, flow_run, include_kept, accounts)


def main() -> None:
    run(app, "flows.top_words")


def main_of_sweep() -> None:
    run(sweep_app, "flows.sweep")
