"""Steps 2 and 7: upload the node script and the input files with their SAS URLs, download the output."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from azure.storage.blob import BlobServiceClient, ContainerClient, ContentSettings
from prefect.logging import get_run_logger

from tasks.artifacts import publish_sas_links
from tasks.azure import Azure
from tasks.errors import InputError
from tasks.inputs import InputFile
from tasks.outcomes import TaskOutcome
from tasks.settings import Role, Run
from tasks.steps import step

NODE_SCRIPT = Path(__file__).resolve().parents[1] / "node_scripts" / "top_words.py"

_AT_A_TIME = 8  # blobs in flight; more gains nothing on one connection pool
_PLAIN_TEXT = "text/plain; charset=utf-8"  # so that a browser shows a SAS link instead of saving it

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """A blob and the URL from which a node reads it, whose SAS permits nothing else."""

    blob_name: str
    size: int  # bytes
    output_name: str
    sas_url: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Uploads:
    """What step 2 leaves in the application and input containers."""

    node_script: UploadedFile
    inputs: Sequence[UploadedFile]


@step("2 upload files")
def upload_files(azure: Azure, run: Run, inputs: Sequence[InputFile]) -> Uploads:
    """Upload the node script and the input files; a blob that is there with the same content is not sent again."""
    script = InputFile(path=NODE_SCRIPT, blob_name=NODE_SCRIPT.name, size=NODE_SCRIPT.stat().st_size)
    with azure.blobs() as blobs:
        uploads = Uploads(
            node_script=_upload(azure, blobs, run, Role.APPLICATION, [script])[0],
            inputs=_upload(azure, blobs, run, Role.INPUT, inputs),
        )
    publish_sas_links(uploads.node_script, uploads.inputs, run.expires)
    return uploads


@step("7 download output")
def download_output(azure: Azure, run: Run, outcomes: Sequence[TaskOutcome], folder: Path) -> list[Path]:
    """Download the output of every Batch task that succeeded into the folder; returns the paths, in task order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [outcome.output_name for outcome in outcomes if outcome.succeeded]
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        paths = _in_parallel(lambda name: _download(container, name, folder / name), names)
    get_run_logger().info("%d of %d output files downloaded to %s", len(paths), len(outcomes), folder)
    return paths


def _upload(
    azure: Azure, blobs: BlobServiceClient, run: Run, role: Role, files: Sequence[InputFile]
) -> list[UploadedFile]:
    container = blobs.get_container_client(run.container(role))
    present = {blob.name: bytes(blob.content_settings.content_md5 or b"") for blob in container.list_blobs()}
    sent = _in_parallel(lambda file: _send(container, file, present.get(file.blob_name)), files)
    size = sum(file.size for file in files)
    get_run_logger().info(
        "%d of %d files (%s) uploaded to %s%s",
        sum(sent),
        len(files),
        f"{size:,} bytes",
        container.container_name,
        "" if all(sent) else "; the others are there already",
    )
    signer = azure.signer(run.expires)
    return [
        UploadedFile(
            blob_name=file.blob_name,
            size=file.size,
            output_name=file.output_name,
            sas_url=signer.read_url(container.container_name, file.blob_name),
        )
        for file in files
    ]


def _send(container: ContainerClient, file: InputFile, md5_there: bytes | None) -> bool:
    try:
        md5 = _md5(file.path)
        if md5 == md5_there:
            return False
        settings = ContentSettings(content_type=_PLAIN_TEXT, content_md5=bytearray(md5))
        with file.path.open("rb") as data:
            container.upload_blob(file.blob_name, data, overwrite=True, content_settings=settings)
    except OSError as error:
        raise InputError(f"input {str(file.path)!r} can no longer be read ({error.strerror})") from None
    return True


def _md5(path: Path) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _download(container: ContainerClient, name: str, target: Path) -> Path:
    # Written under another name first: a file that is there is a whole one.
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    try:
        with open(handle, "wb") as file:
            container.download_blob(name).readinto(file)
        return Path(partial).replace(target)
    except BaseException:
        os.unlink(partial)
        raise


def _in_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The work done on each item, several at a time; the first error ends it."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
