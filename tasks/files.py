"""Step 2: upload what the nodes need and the input files, with their SAS URLs; blobs are read where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from tasks.reporting.artifacts import publish_sas_links
from tasks.resources.batch_task import Work
from tasks.resources.bundle import Bundler
from tasks.resources.upload import Line, holds, upload
from tasks.run.groups import Group, form
from tasks.run.identity import Role, Run
from tasks.run.uploads import Bundle, UploadedFile, Uploads
from tasks.step import step

_PLAIN_TEXT = "text/plain; charset=utf-8"  # so that a browser shows a SAS link instead of saving it


@dataclass(frozen=True, kw_only=True, slots=True)
class _Local:
    """A file of this machine and the name of its blob."""

    name: str
    path: Path
    size: int
    task_id: str = ""


@step("2 upload files")
def upload_files(
    azure: Azure,
    run: Run,
    inputs: Sequence[InputFile],
    application: Mapping[str, Path],
    slots: int = 1,
    work: Work | None = None,
) -> Uploads:
    """Upload what runs on the nodes and the input files; a blob that is there with the same content is not sent again.

    application: the files that run on the nodes, by their names there.

    slots: how many Batch tasks can run at once, by which small files are grouped; without work each is alone.
    """
    ours = [_Local(name=name, path=path, size=path.stat().st_size) for name, path in application.items()]
    groups = form(inputs, slots=slots, files_per_task=work.files_per_task if work else 1)
    _log_in_place(inputs)
    with azure.blobs() as blobs:
        uploads = Uploads(application=_upload(azure, blobs, run, Role.APPLICATION, ours), inputs=())
        uploaded = _upload_alone(azure, blobs, run, [group.files[0] for group in groups if len(group.files) == 1])
        # Outputs of another script are no outputs of this one.
        uploaded = [replace(file, modified=max(file.modified, uploads.programmed)) for file in uploaded]
        bundles: dict[str, Bundle] = {}
        if work and len(uploaded) < len(inputs):
            bundler = Bundler(azure, run, blobs, work, uploads.programmed)
            bundles, members = _upload_bundles(bundler, [group for group in groups if len(group.files) > 1])
            uploaded += members
    by_name = {file.name: file for file in uploaded}
    uploads = replace(uploads, inputs=[by_name[file.name] for file in inputs], bundles=bundles)
    publish_sas_links(uploads, None if azure.node_identity else run.expires)
    return uploads


def _log_in_place(inputs: Sequence[InputFile]) -> None:
    sizes = [file.size for file in inputs if isinstance(file.source, SourceBlob)]
    if sizes:
        get_run_logger().info("%d input files (%s bytes) are read where they are", len(sizes), f"{sum(sizes):,}")


def _upload_alone(azure: Azure, blobs: BlobServiceClient, run: Run, files: Sequence[InputFile]) -> list[UploadedFile]:
    """Upload the files that are processed alone, those that are blobs apart."""
    local = [
        _Local(name=file.name, path=Path(file.source), size=file.size, task_id=file.task_id)
        for file in files
        if isinstance(file.source, str)
    ]
    uploaded = _upload(azure, blobs, run, Role.INPUT, local) if local else []
    signer = Signer(azure, run.expires)
    return uploaded + [_in_place(signer, file, file.source) for file in files if isinstance(file.source, SourceBlob)]


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
    line = Line()

    def send(file: _Local) -> tuple[bool, UploadedFile]:
        return _upload_one(container, present.get(blob_name(file.name)), signer, file, line)

    done = in_parallel(send, files, meanwhile=_progress(container, line, sum(file.size for file in files)))
    sent = sum(sent for sent, _ in done)
    get_run_logger().info(
        "%d of %d files (%s bytes) uploaded to %s%s",
        sent,
        len(files),
        f"{sum(file.size for _, file in done):,}",
        container.container_name,
        "" if sent == len(files) else "; the others are there already",
    )
    return [uploaded for _, uploaded in done]


def _upload_bundles(
    bundler: Bundler, groups: Sequence[Group[InputFile]]
) -> tuple[dict[str, Bundle], list[UploadedFile]]:
    """The bundles by the groups' ids, and the files that are in them."""
    size = sum(group.size for group in groups)
    done = in_parallel(bundler.upload, groups, meanwhile=_progress(bundler.container, bundler.line, size))
    files = [file for _, _, files in done for file in files]
    sent = sum(sent for sent, _, _ in done)
    get_run_logger().info(
        "%s small files (%s bytes) in %d groups: %d of the %d bundles uploaded to %s%s",
        f"{len(files):,}",
        f"{size:,}",
        len(groups),
        sent,
        len(groups),
        bundler.container.container_name,
        "" if sent == len(groups) else "; the others are there already",
    )
    return {bundle.blob.task_id: bundle for _, bundle, _ in done}, files


def _progress(container: ContainerClient, line: Line, size: int) -> Callable[[], None]:
    logger = get_run_logger()

    def log() -> None:
        logger.info("%s of %s bytes uploaded to %s so far", f"{line.sent:,}", f"{size:,}", container.container_name)

    return log


def _upload_one(
    container: ContainerClient, there: BlobProperties | None, signer: Signer, file: _Local, line: Line
) -> tuple[bool, UploadedFile]:
    """Whether the file had to be sent, and what is there now."""
    content = Content.of(file.path)
    name = blob_name(file.name)
    if there is not None and holds(there, content):
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
