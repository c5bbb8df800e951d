"""The bundle of a group: one blob with the list of its files and the content of those on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from azure.storage.blob import BlobServiceClient

from tasks.accounts.clients import Azure
from tasks.accounts.sas import Signer
from tasks.errors import InputError
from tasks.inputs.addresses import SourceBlob
from tasks.inputs.content import Content, new_md5, open_input, read_input
from tasks.inputs.files import InputFile
from tasks.resources.batch_task import Work
from tasks.resources.upload import Line, holds, upload_data
from tasks.run.destination import Destination
from tasks.run.groups import LARGEST_FILE, Group
from tasks.run.identity import Role, Run
from tasks.run.records import quoted
from tasks.run.uploads import Bundle, UploadedFile

# No input's blob has a name that begins so: in those a % is followed by two digits.
_FOLDER = "%bundles"
_BYTES = "application/octet-stream"


class Bundler:
    """Uploads the bundles of a run; one is in memory only while it is made and sent."""

    def __init__(self, azure: Azure, run: Run, blobs: BlobServiceClient, work: Work, programmed: datetime) -> None:
        """programmed: when what processes the files got its content."""
        self.container = blobs.get_container_client(run.container(Role.INPUT))
        self.line = Line()
        self._present = {blob.name: blob for blob in self.container.list_blobs(name_starts_with=f"{_FOLDER}/")}
        self._signer = Signer(azure, run.expires)
        self._destination = work.destination or Destination.of(azure, run, "")
        self._work = work
        self._programmed = programmed

    def upload(self, group: Group[InputFile]) -> tuple[bool, Bundle, list[UploadedFile]]:
        """Whether the bundle had to be sent, what is there now, and the files in it."""
        packed = pack(group.files, self._prefix, lambda blob: self._signer.source_url(blob.container, blob.name))
        name, content = f"{_FOLDER}/{group.id}", packed.content
        there = self._present.get(name)
        if there is not None and holds(there, content):
            sent, modified = False, there.last_modified
            self.line.note(content.size)
        else:
            blob = self.container.get_blob_client(name)
            sent, modified = True, upload_data(blob, packed.data, content, _BYTES, self.line)
        uploaded = UploadedFile(
            name=f"{len(group.files):,} files: {group.label}",
            size=content.size,
            md5=content.md5.hex(),
            modified=modified,
            task_id=group.id,
            container=self.container.container_name,
            sas_url=self._signer.read_url(self.container.container_name, name),
            # With URLs it has SAS of the user's blobs, which outlive the run's containers: its link is not shown.
            uploaded=not any(entry.url for entry in packed.entries),
        )
        return sent, Bundle(blob=uploaded, digest=packed.digest), self._files(group, packed.entries)

    def _files(self, group: Group[InputFile], entries: Sequence[Entry]) -> list[UploadedFile]:
        return [
            UploadedFile(
                name=file.name,
                size=entry.size,
                md5=entry.md5,
                etag=entry.etag,
                modified=self._programmed,
                task_id=group.id,
                container=self.container.container_name,
                uploaded=not entry.url,
            )
            for file, entry in zip(group.files, entries, strict=True)
        ]

    def _prefix(self, name: str) -> str:
        return self._destination.folder(self._work.place_of(name))


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file in the list: what run_file.py gets of it."""

    name: str  # percent-encoded
    size: int  # bytes
    md5: str  # hexadecimal; empty where it is not known
    etag: str = ""  # of a blob that is read where it is
    url: str = ""  # from which a node reads such a blob; the content of another file is in the bundle
    prefix: str  # of its outputs


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A bundle in memory; its entries are in the order of the files."""

    entries: Sequence[Entry]
    data: bytes
    digest: str

    @property
    def content(self) -> Content:
        return Content(md5=new_md5(self.data).digest(), size=len(self.data))


def pack(files: Sequence[InputFile], prefix_of: Callable[[str], str], url_of: Callable[[SourceBlob], str]) -> Packed:
    """Read the files into a bundle. Raises InputError where one can no longer be read, or has grown too large."""
    entries: list[Entry] = []
    contents: list[bytes] = []
    for file in files:
        name, prefix = quoted(file.name), prefix_of(file.name)
        if isinstance(file.source, str):
            data = _read(Path(file.source))
            contents.append(data)
            entries.append(Entry(name=name, size=len(data), md5=new_md5(data).hexdigest(), prefix=prefix))
        else:
            url = url_of(file.source)
            blob = file.source
            entries.append(Entry(name=name, size=blob.size, md5=blob.md5, etag=blob.etag, url=url, prefix=prefix))
    head = json.dumps({"files": [asdict(entry) for entry in entries]}, separators=(",", ":")).encode() + b"\n"
    return Packed(entries=entries, data=b"".join([head, *contents]), digest=digest(entries))


def digest(entries: Sequence[Entry]) -> str:
    """MD5 of the list without URLs, hexadecimal: their SAS differ from attempt to attempt."""
    values = [[entry.name, entry.size, entry.md5, entry.etag, entry.prefix] for entry in entries]
    return new_md5(json.dumps(values).encode()).hexdigest()


def _read(path: Path) -> bytes:
    with open_input(path) as file:
        data = read_input(path, file, LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:  # it was smaller when groups were formed
        raise InputError(f"input {str(path)!r} grows while it is uploaded; run again when nothing writes to it")
    return data
