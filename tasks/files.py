"""Step 2: upload what the nodes need and the input files, with their SAS URLs; blobs are read where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from azure.storage.blob import BlobProperties, BlobServiceClient, ContainerClient
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.accounts.sas import Signer
from tasks.inputs.addresses import SourceBlob
from tasks.inputs.content import Content
from tasks.inputs.files import InputFile
from tasks.inputs.names import blob_name
from tasks.packages.needed import WHEELS
from tasks.reporting.artifacts import publish_sas_links
from tasks.resources.upload import Line, upload
from tasks.run.identity import Role, Run
from tasks.run.uploads import UploadedFile, Uploads
from tasks.step import step

_PLAIN_TEXT = "text/plain; charset=utf-8"  # so that a browser shows a SAS link instead of saving it


@dataclass(frozen=True, kw_only=True)
class _Local:
    """A file of this machine and the name of its blob."""

    name: str
    path: Path
    size: int
    task_id: str = ""


@step("2 upload files")
def upload_files(azure: Azure, run: Run, inputs: Sequence[InputFile], application: Mapping[str, Path]) -> Uploads:
    """Upload what runs on the nodes and the input files; a blob that is there with the same content is not sent again.

    application: the files that run on the nodes, by their names there.
    """
    ours = [_Local(name=name, path=path, size=path.stat().st_size) for name, path in application.items()]
    local = [
        _Local(name=file.name, path=file.source, size=file.size, task_id=file.task_id)
        for file in inputs
        if isinstance(file.source, Path)
    ]
    in_place = {file.name: (file, file.source) for file in inputs if isinstance(file.source, SourceBlob)}
    with azure.blobs() as blobs:
        sent = _upload(azure, blobs, run, Role.APPLICATION, ours)
        uploaded = {file.name: file for file in _upload(azure, blobs, run, Role.INPUT, local)} if local else {}
    signer = Signer(azure, run.expires)
    uploaded |= {name: _in_place(signer, *found) for name, found in in_place.items()}
    if in_place:
        size = sum(file.size for file, _ in in_place.values())
        get_run_logger().info("%d input files (%s bytes) are read where they are", len(in_place), f"{size:,}")
    # Outputs of another script are no outputs of this one; newer releases of packages change nothing.
    programmed = [file.modified for file in sent if file.name != WHEELS]
    files = [uploaded[file.name] for file in inputs]
    files = [replace(file, modified=max([file.modified, *programmed])) for file in files]
    uploads = Uploads(application=sent, inputs=files)
    publish_sas_links(uploads, run.expires)
    return uploads


def _in_place(signer: Signer, file: InputFile, blob: SourceBlob) -> UploadedFile:
    return UploadedFile(
        name=file.name,
        size=blob.size,
        md5=blob.md5,
        etag=blob.etag,
        modified=blob.modified,
        task_id=file.task_id,
        container=blob.container.name,
        sas_url=signer.source_url(blob.container, blob.name),
        uploaded=False,
    )


def _upload(
    azure: Azure, blobs: BlobServiceClient, run: Run, role: Role, files: Sequence[_Local]
) -> list[UploadedFile]:
    container = blobs.get_container_client(run.container(role))
    present = {blob.name: blob for blob in container.list_blobs()}
    signer = Signer(azure, run.expires)
    logger = get_run_logger()
    line = Line()
    size = sum(file.size for file in files)

    def send(file: _Local) -> tuple[bool, UploadedFile]:
        return _upload_one(container, present.get(blob_name(file.name)), signer, file, line)

    def log_progress() -> None:
        logger.info("%s of %s bytes uploaded to %s so far", f"{line.sent:,}", f"{size:,}", container.container_name)

    done = in_parallel(send, files, meanwhile=log_progress)
    sent = sum(sent for sent, _ in done)
    logger.info(
        "%d of %d files (%s bytes) uploaded to %s%s",
        sent,
        len(files),
        f"{sum(file.size for _, file in done):,}",
        container.container_name,
        "" if sent == len(files) else "; the others are there already",
    )
    return [uploaded for _, uploaded in done]


def _upload_one(
    container: ContainerClient, there: BlobProperties | None, signer: Signer, file: _Local, line: Line
) -> tuple[bool, UploadedFile]:
    """Whether the file had to be sent, and what is there now."""
    content = Content.of(file.path)
    name = blob_name(file.name)
    if there is not None and _holds(there, content):
        sent, modified = False, there.last_modified
        line.note(content.size)
    else:
        sent, modified = True, upload(container.get_blob_client(name), file.path, content, _PLAIN_TEXT, line)
    return sent, UploadedFile(
        name=file.name,
        size=content.size,
        task_id=file.task_id,
        md5=content.md5.hex(),
        modified=modified,
        container=container.container_name,
        sas_url=signer.read_url(container.container_name, name),
    )


def _holds(blob: BlobProperties, content: Content) -> bool:
    return blob.size == content.size and bytes(blob.content_settings.content_md5 or b"") == content.md5
