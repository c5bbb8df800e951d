"""python -m flows.top_words, flows.run_script and flows.sweep: the flows as commands.

Options and input are checked here, before Prefect is imported, which takes seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, Any, cast

import typer

from flows.commands import Command, ScriptCommand, make_app, run
from flows.run_options import takes_run_settings
from flows.word_arguments import word_arguments
from local_azure.embedded import starting_ahead
from tasks.accounts.environment import accounts_in
from tasks.packages.needed import find_packages, refuse_container_image, refuse_existing_pool
from tasks.run.output_address import refuse_join_of_kept_outputs
from tasks.run.parameters import flow_run_uuid, refuse_bad_input, refuse_bad_limit, refuse_too_many_paths
from tasks.run.scripts import find_script, refuse_bad_arguments
from tasks.run.settings import RunSettings
from tasks.tables.joins import Join, JoinFormat

app = make_app()
script_app = make_app()
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
    exact: Annotated[
        bool, typer.Option("--exact", help="Exact totals over all files; each file has a second output, all its words.")
    ] = False,
) -> None:
    """Find the top words of text files on Azure Batch, one Batch task per file or group of small files.

    Runs on the accounts in AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT, AZURE_BATCH_ACCESS_KEY and
    AZURE_STORAGE_CONNECTION_STRING (or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY; without keys, with Entra ID).
    With none of them set, it runs on an embedded local Azure that ends with the run and costs nothing.
    """
    word_arguments(top_n, delay, encoding, settings.limits)
    refuse_join_of_kept_outputs("the summary", settings.output_folder)
    own = {"top_n": top_n, "delay_seconds": delay, "encoding": encoding, "exact": exact}
    run_workload_flow("flows.top_words:top_words", inputs, settings, **own)


@script_app.command(cls=ScriptCommand)
@takes_run_settings
def script_command(
    context: typer.Context,
    script: Annotated[str, typer.Argument(help="A Python or shell file, or any executable for Linux.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders (the files in them), globs, @LIST (a file with one of these per line), and blobs: "
            "az://ACCOUNT/CONTAINER/PREFIX or https://...; in quotes, so that no shell expands them."
        ),
    ],
    *,
    requirements: Annotated[
        str | None, typer.Option(help="Requirements file with the packages to install on the nodes.")
    ] = None,
    modules: Annotated[
        list[str] | None, typer.Option("--with", help="A module or folder that the script imports; may be repeated.")
    ] = None,
    join: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="FORMAT PATTERN", help="Join the outputs that match: csv, json, jsonl or parquet, and a glob."
        ),
    ] = None,
    settings: RunSettings,
) -> None:
    """Run a script over files on Azure Batch, one Batch task per file: SCRIPT INPUTS... -- ARGUMENTS OF THE SCRIPT

    The script is called as SCRIPT ARGUMENTS... INPUT. What it leaves in the folder OUTPUT_DIR is its output. {input},
    {output_dir}, {name} and {stem} in the arguments are filled in.

    Runs on the accounts in AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT, AZURE_BATCH_ACCESS_KEY and
    AZURE_STORAGE_CONNECTION_STRING (or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY; without keys, with Entra ID).
    With none of them set, it runs on an embedded local Azure that ends with the run and costs nothing.
    """
    arguments = list(context.obj)
    path = find_script(script)
    refuse_bad_arguments(arguments)
    wanted = Join(format=cast(JoinFormat, join[0]), pattern=join[1]) if join else None
    refuse_join_of_kept_outputs(wanted, settings.output_folder)
    packages = find_packages(path, requirements, modules or [])
    refuse_existing_pool(packages, settings.pool.existing_pool_id)
    refuse_container_image(packages, settings.pool.container_image)
    own = {
        "script": script,
        "arguments": arguments,
        "join": wanted,
        "requirements": requirements,
        "modules": modules or [],
    }
    run_workload_flow("flows.run_script:run_script", inputs, settings, **own)


def run_workload_flow(entrypoint: str, inputs: Sequence[str], settings: RunSettings, **parameters: Any) -> None:
    """Check accounts and inputs, then run the flow `module:name`, which has the fields of RunSettings as parameters.

    Without an account the embedded local Azure starts while Prefect is imported. Raises RunError.
    """
    configured = settings.accounts or accounts_in(os.environ)
    refuse_too_many_paths(inputs)
    refuse_bad_limit(settings.cost_limit, settings.pool)
    found = refuse_bad_input(inputs, settings.allow_failures, settings.output_folder, settings.files_per_task)
    print(
        f"Input: {found}; starting {'Prefect' if configured else 'Prefect and the embedded local Azure'}",
        file=sys.stderr,
    )
    with nullcontext() if configured else starting_ahead():
        from flows.prefect_server import start_server_ahead  # imports of Prefect take seconds

        start_server_ahead()
        from flows.command_run import run_flow

        run_flow(entrypoint, {"inputs": inputs, **dict(settings), **parameters})


@sweep_app.command(cls=Command)
def sweep_command(
    delete: Annotated[bool, typer.Option("--delete", help="Delete what was found; otherwise only list it.")] = False,
    flow_run: Annotated[str | None, typer.Option(help="Delete only what this flow run created, if it ended.")] = None,
    include_kept: Annotated[bool, typer.Option("--include-kept", help="Delete also what was kept on purpose.")] = False,
    accounts: Annotated[str | None, typer.Option(help="Prefect block with the accounts.")] = None,
) -> None:
    """Find what runs have left in the accounts, and delete what has expired."""
    flow_run_uuid(flow_run)
    if not accounts:
        accounts_in(os.environ)

    from flows.prefect_server import start_server_ahead  # imports of Prefect take seconds

    start_server_ahead()
    from flows.command_run import run_sweep

    run_sweep(delete, flow_run, include_kept, accounts)


def main() -> None:
    run(app, "flows.top_words")


def main_of_run_script() -> None:
    run(script_app, "flows.run_script")


def main_of_sweep() -> None:
    run(sweep_app, "flows.sweep")
