"""python -m examples.log_levels.flow: the flow as a command."""

from __future__ import annotations

import os
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

import typer

from flows.commands import Command, make_app, run
from tasks.accounts.environment import accounts_in
from tasks.errors.text import visible
from tasks.run.inputs import find_inputs
from tasks.run.parameters import refuse_too_many_paths

_LOGS = Path(__file__).resolve().parent / "logs"

app = make_app()


@app.command(cls=Command)
def command(
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Log files, folders and globs; without any, the sample logs.")
    ] = None,
) -> None:
    """Count the lines of log files by level on Azure Batch, one Batch task per file."""
    accounts_in(os.environ)
    inputs = inputs or [str(_LOGS)]
    refuse_too_many_paths(inputs)
    find_inputs(inputs)

    from flows.prefect_server import ensure_prefect_server  # it imports Prefect, which takes seconds

    log_levels = resolve_name("examples.log_levels.flow:log_levels")
    ensure_prefect_server()
    print(visible(log_levels(inputs).to_string(index=False)))


def main() -> None:
    run(app, "examples.log_levels.flow")
