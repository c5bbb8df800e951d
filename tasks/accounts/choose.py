"""Which accounts a run uses: those of a block, of the environment, or the embedded local Azure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace

from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.errors import InputError


def azure_for_run(accounts: str | None = None) -> AbstractContextManager[Azure]:
    """The accounts of the Prefect block of that name, else those of the environment, else the embedded local Azure.

    The latter runs for as long as the context is entered. Raises InputError where there is no such block, and where
    half of an account is configured.
    """
    logger = get_run_logger()
    configured = _of_block(accounts) if accounts else Azure.from_environment(os.environ)
    if configured is not None:
        logger.info("Running on %s", configured.describe())
        return nullcontext(configured)
    logger.info(
        "No AZURE_BATCH_* or AZURE_STORAGE_* setting: running on the embedded local Azure "
        "(Azurite and the local Batch service), which ends with this run"
    )
    return _embedded()


def _of_block(name: str) -> Azure:
    from tasks.accounts.block import accounts  # it imports Azure from here

    return accounts(name)


@contextmanager
def _embedded() -> Iterator[Azure]:
    from local_azure.embedded import LocalAzureFailed, embedded_azure  # the one place that starts the default

    with ExitStack() as stack:
        try:
            settings = stack.enter_context(embedded_azure())
        except LocalAzureFailed as error:
            raise InputError(str(error)) from None
        embedded = Azure.from_environment(settings)
        assert embedded is not None
        yield replace(embedded, ends_with_run=True)


def accounts_in_use(block: str | None) -> Azure | None:
    """The accounts in that Prefect block, or those of the environment; None where there are none.

    Raises InputError where there is no such block, or where it or the environment has half of an account.
    """
    if block:
        from tasks.accounts.block import accounts  # only with a block is there more to import

        return accounts(block)
    return Azure.from_environment(os.environ)
