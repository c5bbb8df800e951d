"""Outputs of earlier runs that are kept: in folders of runs on this machine, or at a place in Blob Storage."""

from __future__ import annotations

import io
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient

from tasks.accounts.clients import Azure
from tasks.run.destination import Destination
from tasks.run.local_files import at
from tasks.run.manifest import made_in
from tasks.run.parallel import in_parallel
from tasks.run.program import Done
from tasks.run.records import Output
from tasks.run.results import MANIFEST, Results


@contextmanager
def container_of(azure: Azure, destination: Destination) -> Iterator[ContainerClient]:
    with azure.blobs(destination.endpoint) as blobs:
        yield blobs.get_container_client(destination.container)


def read_manifest(container: ContainerClient, destination: Destination) -> pd.DataFrame | None:
    """The manifest beside the outputs; None where there is none. Raises ValueError where it cannot be read."""
    try:
        data = container.download_blob(destination.folder(f"{MANIFEST}.parquet")).readall()
    except ResourceNotFoundError:
        return None
    return pd.read_parquet(io.BytesIO(data))


def made_in_blobs(azure: Azure, destination: Destination) -> tuple[dict[str, Done], set[str]]:
    """What was made of each input by its name, and the names of those whose outputs are not all there any more."""
    with container_of(azure, destination) as container:
        table = read_manifest(container, destination)
        if table is None:
            return {}, set()
        made = made_in(table)
        prefix = destination.folder("") if destination.prefix else ""
        sizes = {blob.name: blob.size for blob in container.list_blobs(name_starts_with=prefix)}
    gone = {
        name for name, done in made.items() if any(sizes.get(each.blob) != each.size for each in done.record.outputs)
    }
    return made, gone


def made_in_folders(results: Results, names: Iterable[str]) -> tuple[dict[str, Done], set[str], dict[str, Results]]:
    """The same of earlier runs in the same output folder, newest first, and whose results have each."""
    wanted = set(names)
    made: dict[str, Done] = {}
    where: dict[str, Results] = {}
    workload = results.folder.name.rpartition("-")[0]
    for folder in sorted(results.folder.parent.glob(f"{workload}-*"), key=_time, reverse=True):
        run = replace(results, folder=folder)
        for name, done in run.done().items():
            if name in wanted and name not in made:
                made[name], where[name] = done, run
    gone = {name for name, done in made.items() if not _all_there(where[name].paths(name, done.record))}
    return made, gone, where


def take_over(results: Results, made: Mapping[str, Done], where: Mapping[str, Results]) -> None:
    """Copy the outputs of earlier runs into the results."""

    def take(name: str) -> None:
        source, target = where[name].folder_of(name), results.folder_of(name)
        if source == target:
            return
        with at(target):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)

    in_parallel(take, made)
    results.remember(made)


def _all_there(outputs: Collection[tuple[Output, Path]]) -> bool:
    try:
        return all(path.stat().st_size == output.size for output, path in outputs)
    except OSError:
        return False


def _time(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
