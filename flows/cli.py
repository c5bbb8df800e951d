"""python -m flows.top_words and python -m flows.sweep: the flows as commands.

Options and input are checked here, before Prefect is imported, which takes seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from flows.commands import Command, make_app, run
from flows.run_options import takes_run_settings
from flows.word_arguments import word_arguments
from local_azure.embedded import starting_ahead
from tasks.accounts.environment import accounts_in
from tasks.run.parameters import flow_run_uuid, refuse_bad_input, refuse_too_many_paths
from tasks.run.settings import RunSettings

app = make_app()
sweep_app = make_app()


@app.command(cls=Command)
@takes_run_settings
def command(
    inputs: Annotated[list[str], typer.Argument(help="Text files, folders (the files in them) and globs.")],
    top_n: Annotated[int, typer.Option(help="Words to list for each file.")] = 10,
    *,
    settings: RunSettings,
    delay: Annotated[float, typer.Option(help="Seconds each Batch task waits first, to watch a run.")] = 0,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of files without byte-order mark, such as windows-1251.")
    ] = None,
) -> None:
    """Find the top words of text files on Azure Batch, one Batch task per file.

    Runs on the accounts in AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT, AZURE_BATCH_ACCESS_KEY and
    AZURE_STORAGE_CONNECTION_STRING (or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY; without keys, with Entra ID).
    With none of them set, it runs on an embedded local Azure that ends with the run and costs nothing.
    """
    word_arguments(top_n, delay, encoding, settings.limits)
    own = {"top_n": top_n, "delay_seconds": delay, "encoding": encoding}
    run_workload_flow("flows.top_words:top_words", inputs, settings, **own)


def run_workload_flow(entrypoint: str, inputs: Sequence[str], settings: RunSettings, **parameters: Any) -> None:
    """Check accounts and inputs, then run the flow `module:name`, which has the fields of RunSettings as parameters.

    Without an account the embedded local Azure starts while Prefect is imported. Raises RunError.
    """
    configured = settings.accounts or accounts_in(os.environ)
    refuse_too_many_paths(inputs)
    files = refuse_bad_input(inputs, settings.allow_failures)
    print(
        f"{len(files):,} input files; starting {'Prefect' if configured else 'Prefect and the embedded local Azure'}",
        file=sys.stderr,
    )
    with nullcontext() if configured else starting_ahead():
        from flows.command_run import run_flow  # it imports Prefect, which takes seconds

        run_flow(entrypoint, {"inputs": inputs, **dict(settings), **parameters})


@sweep_app.command(cls=Command)
def sweep_command(
    delete: Annotated[bool, typer.Option("--delete", help="Delete what was found; otherwise only list it.")] = False,
    flow_run: Annotated[str | None, typer.Option(help="Delete only what this flow run created, if it ended.")] = None,
    include_kept: Annotated[bool, typer.Option("--include-kept", help="Delete also what was kept on purpose.")] = False,
    accounts: Annotated[str | None, typer.Option(help="Prefect block with the accounts.")] = None,
) -> None:
    """Find what runs of top-words have left in the accounts, and delete what has expired."""
    flow_run_uuid(flow_run)
    if not accounts:
        accounts_in(os.environ)

    from flows.command_run import run_sweep  # it imports Prefect, which takes seconds

    run_sweep(delete, flow_run, include_kept, accounts)


def main() -> None:
    run(app, "flows.top_words")


def main_of_sweep() -> None:
    run(sweep_app, "flows.sweep")
