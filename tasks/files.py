"""Step 2: upload the node script and the input files, with their SAS URLs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from azure.storage.blob import BlobProperties, BlobServiceClient, ContainerClient
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.sas import Signer
from tasks.reporting.artifacts import publish_sas_links
from tasks.resources.upload import Line, upload
from tasks.run.blob_addresses import SourceBlob
from tasks.run.content import Content
from tasks.run.identity import Role, Run
from tasks.run.inputs import InputFile
from tasks.run.parallel import in_parallel
from tasks.run.uploads import UploadedFile, Uploads
from tasks.step import step

_PLAIN_TEXT = "text/plain; charset=utf-8"  # so that a browser shows a SAS link instead of saving it


@step("2 upload files")
def upload_files(azure: Azure, run: Run, inputs: Sequence[InputFile], node_script: Path) -> Uploads:
    """Upload the node script and the input files; a blob that is there with the same content is not sent again."""
    script = InputFile(name=node_script.name, size=node_script.stat().st_size, source=node_script)
    with azure.blobs() as blobs:
        uploads = Uploads(
            node_script=_upload(azure, blobs, run, Role.APPLICATION, [script])[0],
            inputs=_upload(azure, blobs, run, Role.INPUT, inputs),
        )
    # Not of blobs that are read where they are: the SAS of an address may be for all of a container.
    sent = [upload for file, upload in zip(inputs, uploads.inputs, strict=True) if isinstance(file.source, Path)]
    publish_sas_links(uploads.node_script, sent, run.expires)
    return uploads


def _upload(
    azure: Azure, blobs: BlobServiceClient, run: Run, role: Role, files: Sequence[InputFile]
) -> list[UploadedFile]:
    container = blobs.get_container_client(run.container(role))
    present = {blob.name: blob for blob in container.list_blobs()}
    signer = Signer(azure, run.expires)
    logger = get_run_logger()
    line = Line()
    size = sum(file.size for file in files)

    def send(file: InputFile) -> tuple[bool, UploadedFile]:
        return _upload_one(container, present.get(file.blob_name), signer, file, line)

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
    container: ContainerClient, there: BlobProperties | None, signer: Signer, file: InputFile, line: Line
) -> tuple[bool, UploadedFile]:
    """Whether the file had to be sent, and what is there now; a blob is read where it is."""
    if isinstance(file.source, SourceBlob):
        return False, _in_place(signer, file, file.source)
    content = Content.of(file.source)
    if there is not None and _holds(there, content):
        sent, modified = False, there.last_modified
        line.note(content.size)
    else:
        blob = container.get_blob_client(file.blob_name)
        sent, modified = True, upload(blob, file.source, content, _PLAIN_TEXT, line)
    return sent, UploadedFile(
        blob_name=file.blob_name,
        size=content.size,
        output_name=file.output_name,
        task_id=file.task_id,
        md5=content.md5.hex(),
        modified=modified,
        sas_url=signer.read_url(container.container_name, file.blob_name),
    )


def _holds(blob: BlobProperties, content: Content) -> bool:
    return blob.size == content.size and bytes(blob.content_settings.content_md5 or b"") == content.md5


def _in_place(signer: Signer, file: InputFile, blob: SourceBlob) -> UploadedFile:
    return UploadedFile(
        blob_name=file.blob_name,
        size=blob.size,
        output_name=file.output_name,
        task_id=file.task_id,
        md5=blob.md5,
        modified=blob.modified,
        sas_url=signer.source_url(blob.container, blob.name),
    )
