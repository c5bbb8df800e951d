"""python -m flows.top_words: the flow as a command."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, NoReturn, TextIO

import httpx
import typer
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_UI_URL,
    get_current_settings,
    temporary_settings,
)
from pydantic import BaseModel, ValidationError

from flows.top_words import top_words
from local_azure.embedded import starting_ahead
from tasks.azure import Azure
from tasks.check import refuse_bad_input
from tasks.errors import TopWordsError
from tasks.inputs import encoding_arguments
from tasks.pages import Page, address, forget_report, latest_report, ui_url
from tasks.settings import CleanUp, Disposal, PoolSettings, TimeLimits
from tasks.summary import Summary

_POOL = PoolSettings()
_LIMITS = TimeLimits()

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
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
        int | None, typer.Option(help="Add dedicated nodes when spot nodes have run nothing for so long.")
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
        int, typer.Option(help="Fail when no Batch task has got further for so long.")
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
    forget_report()
    pool = _checked(
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
    limits = _checked(
        TimeLimits,
        run_minutes=run_minutes,
        task_minutes=task_minutes,
        task_retries=task_retries,
        stall_minutes=stall_minutes,
    )
    otherwise = Disposal.ASK if ask else Disposal.DELETE
    clean_up = CleanUp(
        containers=Disposal.KEEP if keep_containers else Disposal.DELETE,
        job=Disposal.KEEP if keep_job else otherwise,
        pool=Disposal.KEEP if keep_pool else otherwise,
    )
    _refuse_unknown_encoding(encoding)
    started = time.monotonic()
    with _azure_starting_ahead(inputs, top_n, delay, limits, accounts), _heartbeats_where_they_are_heard():
        try:
            # Not the run's state: what a server gives whose first answer was lost has no result in it.
            summary = top_words(
                inputs, top_n, pool, limits, output, clean_up, allow_failures, accounts, delay, encoding
            )
        except Exception as error:
            _end_with(error, output)
    print(f"\n{summary}\n\nElapsed time: {time.monotonic() - started:.1f} s. Results: {summary.folder}")
    print(_where_to_see(summary))
    _print_report()


def main() -> None:
    app(prog_name="python -m flows.top_words")


def _refuse_unknown_encoding(encoding: str | None) -> None:
    try:
        encoding_arguments(encoding)
    except TopWordsError as error:
        _fail(f"--{error}")


def _checked(model: type[BaseModel], **values: Any) -> Any:
    """The settings, or the end of the command with each wrong option named."""
    try:
        return model(**values)
    except ValidationError as error:
        _fail("\n".join(_option(each["loc"]) + each["msg"].removeprefix("Value error, ") for each in error.errors()))


def _option(location: tuple[int | str, ...]) -> str:
    """The option at fault, to begin a message with; nothing where several are, which the message names itself."""
    name = str(location[0]) if location else ""
    return f"--{ {'existing_pool_id': 'pool-id'}.get(name, name.replace('_', '-')) }: " if name else ""


def _fail(message: str) -> NoReturn:
    print(f"\nError: {message}", file=sys.stderr)
    _print_report(sys.stderr)
    raise typer.Exit(1)


def _end_with(error: Exception, output: str) -> NoReturn:
    """The end of the command, with all that is known of a run that failed."""
    if isinstance(error, httpx.HTTPError):  # of Prefect's client; that of Azure's is a TopWordsError
        where = get_current_settings().api.url or "a temporary address"
        _fail(
            f"the Prefect server at {where} does not do its part ({type(error).__name__}: {error}). The Batch work "
            f"does not need it: what was counted, if anything, is in the run's folder in {output}, and the log says "
            "what was cleaned up"
        )
    if not isinstance(error, TopWordsError):
        _fail(f"{type(error).__name__}: {error}")
    if error.summary:
        print(f"\n{error.summary}\n\n{_where_to_see(error.summary)}")
    _fail(str(error))


def _azure_starting_ahead(
    inputs: list[str], top_n: int, delay: float, limits: TimeLimits, accounts: str | None
) -> AbstractContextManager[None]:
    """Refuse what can be refused without waiting for Prefect; else start the local Azure, if needed, beside Prefect."""
    try:
        refuse_bad_input(inputs, top_n, delay, limits)
        configured = accounts or Azure.from_environment(os.environ)
    except TopWordsError as error:
        _fail(str(error))
    return nullcontext() if configured else starting_ahead()


def _heartbeats_where_they_are_heard() -> AbstractContextManager[object]:
    """A temporary server ends with the run and so hears none, while a run waits up to a second for its last one.

    Of any other server, Prefect's own lines are to name the UI that it shows by default.
    """
    if ui := ui_url():
        return temporary_settings({PREFECT_UI_URL: ui})
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def _where_to_see(summary: Summary) -> str:
    return f"See this run in the Prefect UI: {address(Page.RUN, summary.flow_run_id)}"


def _print_report(file: TextIO | None = None) -> None:
    """As the last line of all that is printed."""
    if report := latest_report():
        print(f"Report: {report}", file=file)
