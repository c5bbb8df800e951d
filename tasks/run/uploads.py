"""The files that nodes fetch, as values: blobs of the run, or of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from tasks.packages.needed import WHEELS
from tasks.run.groups import Group, grouped
from tasks.run.records import record_blob


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadedFile:
    """A blob and the URL from which a node reads it, whose SAS permits nothing else.

    A file of a group has no URL: it is in the group's bundle, or that has its URL. It counts as modified when what
    processes it got its content.
    """

    name: str
    size: int  # bytes
    md5: str = ""  # hexadecimal; empty where the service does not know that of a user's blob
    etag: str = ""  # of a user's blob
    modified: datetime  # when the blob, or what processes it, got its content, by the service's clock
    task_id: str = ""  # of the Batch task that processes it, with others of its group
    container: str
    sas_url: str = field(default="", repr=False)
    uploaded: bool = True  # by the run; else a blob of the user's that is read where it is

    @property
    def content(self) -> str:
        """What is another where the content is another."""
        return self.md5 or self.etag

    @property
    def record(self) -> str:
        """The blob that says that it is processed, and names its outputs."""
        return record_blob(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The blob that a group's Batch task fetches: the list of its files, and the content of those that are uploaded.

    blob: named as people see it, with the group's id; `uploaded` unless it has URLs, so that its link is not shown.

    digest: of the list without URLs; another where the group has other files, or one has another content or place.
    """

    blob: UploadedFile
    digest: str


@dataclass(frozen=True, kw_only=True)
class Uploads:
    """What nodes fetch: the files of the application container, and the input files; bundles by the group's id."""

    application: Sequence[UploadedFile]
    inputs: Sequence[UploadedFile]
    bundles: Mapping[str, Bundle] = field(default_factory=dict)

    @property
    def groups(self) -> list[Group[UploadedFile]]:
        """The input files of each Batch task."""
        return grouped(self.inputs)

    @property
    def in_groups(self) -> list[UploadedFile]:
        """The input files that are not processed alone."""
        return [file for file in self.inputs if file.task_id in self.bundles]

    @property
    def programmed(self) -> datetime:
        """When what processes the files got its content; newer releases of packages change nothing."""
        times = [file.modified for file in self.application if file.name != WHEELS]
        return max(times, default=datetime.min.replace(tzinfo=timezone.utc))
