"""Outputs of earlier runs that are kept: in folders of runs on this machine, or at a place in Blob Storage."""

from __future__ import annotations

import io
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.errors import InputError
from tasks.errors.local_files import at
from tasks.inputs.content import Content
from tasks.run.destination import Destination
from tasks.run.manifest import COLUMNS, made_in
from tasks.run.output_address import MANIFEST
from tasks.run.program import Done
from tasks.run.records import Output
from tasks.run.results import Results


@contextmanager
def container_of(azure: Azure, destination: Destination) -> Iterator[ContainerClient]:
    with azure.blobs(destination.endpoint) as blobs:
        yield blobs.get_container_client(destination.container)


def read_manifest(container: ContainerClient, destination: Destination) -> tuple[pd.DataFrame, str] | None:
    """The manifest beside the outputs and its ETag; None where there is none. Raises InputError for another file."""
    name = destination.folder(f"{MANIFEST}.parquet")
    try:
        blob = container.download_blob(name)
        data = blob.readall()
    except ResourceNotFoundError:
        return None
    try:
        return pd.read_parquet(io.BytesIO(data))[list(COLUMNS)], str(blob.properties.etag)
    except (ValueError, KeyError, OSError):  # of pyarrow too
        raise InputError(
            f"output {destination}: the blob {name} is not the manifest that a run writes; delete it, or name another "
            "folder"
        ) from None


def made_in_blobs(azure: Azure, destination: Destination) -> tuple[dict[str, Done], set[str]]:
    """What was made of each input by its name, and the names of those whose outputs are not all there any more."""
    with container_of(azure, destination) as container:
        found = read_manifest(container, destination)
        if found is None:
            return {}, set()
        made = made_in(found[0])
        prefix = destination.folder("") if destination.prefix else ""
        there = {
            blob.name: (blob.size, bytes(blob.content_settings.content_md5 or b""))
            for blob in container.list_blobs(name_starts_with=prefix)
        }
    gone = {
        name
        for name, done in made.items()
        if any(there.get(each.blob) != (each.size, each.md5) for each in done.record.outputs)
    }
    return made, gone


def made_in_folders(
    results: Results, contents: Mapping[str, str]
) -> tuple[dict[str, Done], set[str], dict[str, Results]]:
    """The same of earlier runs in the same output folder, and whose results have each.

    Of several, the newest that is of the same content and program, else the newest.
    """
    made: dict[str, Done] = {}
    where: dict[str, Results] = {}
    usable: set[str] = set()
    for run in _runs(results):
        for name, done in run.done().items():
            if name not in contents or name in usable:
                continue
            same = (done.content, done.program) == (contents[name], results.program)
            if same and _all_there(run.paths(name, done.record)):
                usable.add(name)
            elif name in made:
                continue
            made[name], where[name] = done, run
        if len(usable) == len(contents):
            break
    gone = {name for name in made.keys() - usable if not _all_there(where[name].paths(name, made[name].record))}
    return made, gone, where


def unreadable_runs(results: Results) -> list[Path]:
    """The folders of earlier runs whose notes of finished files are damaged."""
    return [run.folder for run in _runs(results) if run.notes_unreadable()]


def _runs(results: Results) -> list[Results]:
    """Those of all runs of the workload in the output folder, the newest first."""
    workload = results.folder.name.rpartition("-")[0]
    folders = sorted(results.folder.parent.glob(f"{workload}-*"), key=_time, reverse=True)
    return [replace(results, folder=folder) for folder in folders]


def take_over(results: Results, made: Mapping[str, Done], where: Mapping[str, Results]) -> None:
    """Copy the outputs of earlier runs into the results."""

    def take(name: str) -> None:
        source, target = where[name].folder_of(name), results.folder_of(name)
        if source == target:
            return
        with at(target):
            shutil.rmtree(target, ignore_errors=True)
            if made[name].record.outputs:
                shutil.copytree(source, target)
            else:
                target.mkdir(parents=True)

    in_parallel(take, made)
    results.remember(made)


def _all_there(outputs: Collection[tuple[Output, Path]]) -> bool:
    """Whether each is there, with the content that it had."""
    try:
        return all(
            path.stat().st_size == output.size and Content.of(path).md5 == output.md5 for output, path in outputs
        )
    except (OSError, InputError):
        return False


def _time(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
