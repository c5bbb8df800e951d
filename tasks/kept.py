"""Outputs that are kept: which inputs need not be processed again, and the manifest that says so to later runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContainerClient, ContentSettings
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.accounts.sources import account_of
from tasks.errors import InputError
from tasks.errors.advice import help_against
from tasks.errors.codes import Code, Service, Where
from tasks.errors.service import error_code
from tasks.errors.text import as_unicode
from tasks.inputs.files import InputFile
from tasks.run.destination import Destination
from tasks.run.kept_outputs import (
    container_of,
    made_in_blobs,
    made_in_folders,
    read_manifest,
    take_over,
    unreadable_runs,
)
from tasks.run.manifest import manifest, manifest_parts, with_others
from tasks.run.outcomes import TaskOutcome
from tasks.run.output_address import MANIFEST
from tasks.run.results import Results, content_of
from tasks.run.skip_done import ToRun, what_to_run
from tasks.step import step
from tasks.tables.write import write_parts, write_table

_MOST_NAMED = 20  # files in the log
_CSV, _PARQUET = "text/csv; charset=utf-8", "application/vnd.apache.parquet"


@step("0 find what is done")
def skip_done(
    azure: Azure, files: Sequence[InputFile], results: Results, destination: Destination, *, only_look: bool = False
) -> dict[str, str]:
    """Take over the outputs of earlier runs for the inputs that are as they were, unless it is only to look.

    Returns why each of the others is to be processed, by name.
    """
    contents = dict(zip([file.name for file in files], in_parallel(content_of, files), strict=True))
    if destination.kept:
        by_shown, gone = made_in_blobs(azure, destination)
        made = {name: by_shown[as_unicode(name)] for name in contents if as_unicode(name) in by_shown}
        gone = {name for name in made if as_unicode(name) in gone}
        where: dict[str, Results] = {}
    else:
        for folder in unreadable_runs(results):
            get_run_logger().warning("Results %s: not reused, because their .done.json cannot be read", folder)
        made, gone, where = made_in_folders(results, contents)
    to_run = what_to_run(contents, results.program, made, gone)
    _log(to_run)
    if not only_look:
        if destination.kept:
            results.remember(to_run.done)
        else:
            take_over(results, to_run.done, where)
    return {name: why.value for name, why in to_run.why.items()}


def _log(to_run: ToRun) -> None:
    logger = get_run_logger()
    logger.info("Inputs: %s", to_run)
    for name, why in list(to_run.why.items())[:_MOST_NAMED]:
        logger.info("Input %s: to be processed, because %s", name, why.value)
    if (more := len(to_run.why) - _MOST_NAMED) > 0:
        logger.info("and %d more", more)


def check_destination(azure: Azure, destination: Destination) -> None:
    """Raises InputError, naming the fix, where the nodes could not store outputs there."""
    if not destination.kept:
        return
    with container_of(azure, destination) as container:
        try:
            container.get_container_properties()
            read_manifest(container, destination)
        except ResourceNotFoundError as error:
            if error_code(error) != Code.CONTAINER_NOT_FOUND:
                raise
            names = {"account": account_of(destination.endpoint), "container": destination.container}
            helps = help_against(Service.STORAGE, Where.REQUEST, Code.CONTAINER_NOT_FOUND, names)
            raise InputError(
                f"output {destination}: there is no container {destination.container!r} in the account; {helps}"
            ) from None
        except HttpResponseError as error:
            if error.status_code not in (401, 403):
                raise
            raise InputError(
                f"output {destination}: the container cannot be used ({error_code(error)}); give the identity that "
                "signs in the role Storage Blob Data Contributor on it, or check the account's key and firewall"
            ) from None


def save_manifest(azure: Azure, outcomes: Sequence[TaskOutcome], results: Results, destination: Destination) -> None:
    """Leave the table of all outputs in the results folder and, where outputs are kept in blobs, beside them."""
    path = results.folder / MANIFEST
    if not destination.kept:
        write_parts(manifest_parts(outcomes, results.done()), path)
        return
    table = manifest(outcomes, results.done())
    with container_of(azure, destination) as container:
        while not _added(container, destination, table, path):
            get_run_logger().info(
                "Manifest of %s: another run has written it at the same time, trying again", destination
            )
    get_run_logger().info("Outputs kept in %s; %s names them", destination, destination.folder(f"{MANIFEST}.csv"))


def _added(container: ContainerClient, destination: Destination, table: pd.DataFrame, path: Path) -> bool:
    """Add the table to the manifest beside the outputs; False where another run has written it in between."""
    old, etag = read_manifest(container, destination) or (None, None)
    write_table(table if old is None else with_others(table, old), path)
    parquet, text = (
        container.get_blob_client(destination.folder(f"{MANIFEST}{each}")) for each in (".parquet", ".csv")
    )
    if etag:
        unchanged: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified, "overwrite": True}
    else:
        unchanged = {"overwrite": False}
    try:
        written = parquet.upload_blob(
            path.with_suffix(".parquet").read_bytes(), content_settings=ContentSettings(_PARQUET), **unchanged
        )
    except (ResourceExistsError, ResourceModifiedError):
        return False
    text.upload_blob(path.with_suffix(".csv").read_bytes(), overwrite=True, content_settings=ContentSettings(_CSV))
    return bool(parquet.get_blob_properties().etag == written["etag"])  # else that run's CSV may be the older one
