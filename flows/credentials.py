"""Save the accounts of the environment as a Prefect block.

python -m flows.credentials production
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from flows.commands import Command, make_app, run
from tasks.accounts.environment import BATCH_SETTINGS, STORAGE_SETTINGS, accounts_in
from tasks.errors import InputError

NAME = "flows.credentials"

app = make_app()


@app.command(cls=Command)
def command(
    name: Annotated[str, typer.Argument(help="Name of the block: lowercase letters, digits and dashes.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the block of this name holds.")] = False,
) -> None:
    """Save the accounts that the AZURE_* settings of the environment name as a Prefect block.

    On the Prefect server at PREFECT_API_URL, or without that setting where `make ui` finds it. The keys come from
    the environment alone, never from the command line, where other users of the machine could read them.
    """
    if accounts_in(os.environ) is None:
        names = ", ".join((*BATCH_SETTINGS, *STORAGE_SETTINGS))
        raise InputError(f"none of {names} is set; set those of your accounts and run the command again")

    from flows.prefect_server import ensure_prefect_server
    from tasks.accounts.block import save  # it imports Prefect, which takes seconds

    ensure_prefect_server()
    block = save(name, overwrite=overwrite)
    print(f"Saved the block {name!r}: {block.azure().describe()}")
    print(f'Name it in the parameters of a run or of a deployment: accounts: "{name}"')


def main() -> None:
    run(app, NAME)


if __name__ == "__main__":
    main()
