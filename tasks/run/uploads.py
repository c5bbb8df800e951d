"""The files that nodes fetch, as values: blobs of the run, or of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tasks.run.records import record_blob


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """A blob and the URL from which a node reads it, whose SAS permits nothing else."""

    name: str
    size: int  # bytes
    md5: str = ""  # hexadecimal; empty where the service does not know that of a user's blob
    etag: str = ""  # of a user's blob
    modified: datetime  # when the blob, or what processes it, got its content, by the service's clock
    task_id: str = ""  # of the Batch task that processes it, with others of its group
    container: str
    sas_url: str = field(repr=False)
    uploaded: bool = True  # by the run; else a blob of the user's that is read where it is

    @property
    def content(self) -> str:
        """What is another where the content is another."""
        return self.md5 or self.etag

    @property
    def record(self) -> str:
        """The blob that says that it is processed, and names its outputs."""
        return record_blob(self.name)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The blob that a group's Batch task fetches: the list of its files, and the content of those that are uploaded.

    digest: of the list without URLs; another where the group has other files, or one has another content.
    """

    blob: UploadedFile
    digest: str


@dataclass(frozen=True, kw_only=True)
class Uploads:
    """What nodes fetch: the files of the application container, and the input files; bundles by the group's id."""

    application: Sequence[UploadedFile]
    inputs: Sequence[UploadedFile]
    bundles: Mapping[str, Bundle] = field(default_factory=dict)
