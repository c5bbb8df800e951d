"""Before step 1: refuse what cannot work while nothing exists yet that could bill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prefect.logging import get_run_logger

from tasks.azure import Azure
from tasks.errors import InputError
from tasks.inputs import InputFile, find_inputs
from tasks.pool import existing_pool, supported_image
from tasks.settings import PoolSettings
from tasks.steps import step


def refuse_bad_input(inputs: Sequence[str], top_n: int, delay_seconds: float) -> list[InputFile]:
    """The input files. Raises InputError, naming the thing and the fix, for anything that cannot work."""
    if top_n < 1:
        raise InputError(f"top_n is {top_n}; ask for at least 1 word per file")
    if delay_seconds < 0:
        raise InputError(f"delay_seconds is {delay_seconds:g}; a delay is 0 or more seconds")
    return find_inputs(inputs)


@step("0 check input")
def check_input(inputs: Sequence[str], top_n: int, delay_seconds: float) -> list[InputFile]:
    """The input files that the parameters name; see refuse_bad_input."""
    files = refuse_bad_input(inputs, top_n, delay_seconds)
    size = sum(file.size for file in files)
    get_run_logger().info("%d input files, %s bytes", len(files), f"{size:,}")
    return files


@step("0 check accounts")
def check_accounts(azure: Azure, pool: PoolSettings, results: Path) -> None:
    """Ask both accounts something that needs their credentials, and whether the pool's settings can work."""
    _make_folder(results)
    with azure.batch() as batch:
        if pool.existing_pool_id:
            existing_pool(batch, pool.existing_pool_id)
        else:
            supported_image(batch, pool.image)
    with azure.blobs() as blobs:
        next(blobs.list_containers(results_per_page=1).by_page(), None)
    get_run_logger().info("The Batch account and the storage account answer, and the pool's settings can work")


def _make_folder(results: Path) -> None:
    try:
        results.mkdir(parents=True, exist_ok=True)
        if not os.access(results, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise InputError(
            f"output folder {str(results.parent)!r}: cannot be written ({error.strerror}); name another"
        ) from None
