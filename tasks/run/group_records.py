"""The records of files in groups: what their Batch tasks have written of them, in lists, and what counts of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar
from uuid import uuid4

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.accounts.whole_blobs import WholeBlobs
from tasks.errors.codes import Code
from tasks.errors.service import ServiceError
from tasks.run.identity import Role, Run
from tasks.run.records import GROUPS, FileRecord, quoted

_NAME = re.compile(rf"{GROUPS}/([^/]+)/(?:(\d+)|void-[0-9a-f]+)\.json")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RecordList:
    """A blob with records of files of one group."""

    group: str
    number: int  # -1 where the client has written it
    blob: str
    written: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The record of a file that counts: the last one."""

    record: FileRecord
    at: datetime
    tries: int = 1  # of the script on this file


@dataclass(frozen=True, kw_only=True)
class GroupRecords:
    """What there is of a group: its files' records by name, and the number of the list that comes next."""

    files: Mapping[str, Written] = field(default_factory=dict)
    next_list: int = 0


NO_RECORDS = GroupRecords()


def list_group_records(container: ContainerClient) -> list[RecordList]:
    """The lists of records that are there; none where the container is gone."""
    try:
        found = [(blob, _NAME.fullmatch(blob.name)) for blob in container.list_blobs(name_starts_with=f"{GROUPS}/")]
    except ResourceNotFoundError:
        return []
    return [
        RecordList(group=match[1], number=int(match[2] or -1), blob=blob.name, written=blob.last_modified)
        for blob, match in found
        if match
    ]


def read_group_records(azure: Azure, run: Run, groups: Collection[str] | None = None) -> dict[str, GroupRecords]:
    """The records of these groups, or of all, by the group's id; a list that is damaged counts as none."""
    return for_each_group(azure, run, groups, lambda _, records: records)


def for_each_group(
    azure: Azure, run: Run, groups: Collection[str] | None, act: Callable[[str, GroupRecords], T]
) -> dict[str, T]:
    """What `act` makes of the records of each of these groups, or of all; no more than a few are in memory at once."""
    lists = lists_by_group(azure, run, groups)
    blobs = WholeBlobs(azure, run.container(Role.OUTPUT))

    def read(each: RecordList) -> list[FileRecord]:
        with suppress(ValueError):
            return read_list(blobs, each, contents=False)
        return []

    def read_group(group: str) -> T:
        found = combine((each, read(each)) for each in lists[group])
        return act(group, found[group])

    return dict(zip(lists, in_parallel(read_group, lists), strict=True))


def read_list(blobs: WholeBlobs, each: RecordList, *, contents: bool = True) -> list[FileRecord]:
    """The records in the list, none where it is gone. Raises ValueError where it is damaged."""
    try:
        return FileRecord.parse_list(blobs.read(each.blob), contents=contents)
    except ServiceError as error:
        if error.code != Code.BLOB_NOT_FOUND:
            raise
        return []


def lists_by_group(azure: Azure, run: Run, groups: Collection[str] | None = None) -> dict[str, list[RecordList]]:
    """The lists of these groups, or of all, in the order of their numbers."""
    with azure.blobs() as blobs:
        found = list_group_records(blobs.get_container_client(run.container(Role.OUTPUT)))
    by_group: dict[str, list[RecordList]] = {}
    for each in sorted(found, key=lambda each: each.number):
        if groups is None or each.group in groups:
            by_group.setdefault(each.group, []).append(each)
    return by_group


def combine(lists: Iterable[tuple[RecordList, Iterable[FileRecord]]]) -> dict[str, GroupRecords]:
    """The last record of each file, in the order of the lists' numbers; what is void counts as none."""
    by_group: dict[str, list[tuple[RecordList, Iterable[FileRecord]]]] = {}
    for each, records in lists:
        by_group.setdefault(each.group, []).append((each, records))
    return {group: _combine(found) for group, found in by_group.items()}


def _combine(lists: list[tuple[RecordList, Iterable[FileRecord]]]) -> GroupRecords:
    lists.sort(key=lambda pair: pair[0].number)
    voids = Voids([each for each, _ in lists])
    files: dict[str, Written] = {}
    for each, records in lists:
        for record in records:
            if voids.count(each, record):
                before = files.get(record.name)
                files[record.name] = Written(record=record, at=each.written, tries=before.tries + 1 if before else 1)
    return GroupRecords(files=files, next_list=next_number(each for each, _ in lists))


def next_number(lists: Iterable[RecordList]) -> int:
    """The number of the list that comes after these."""
    return 1 + max((each.number for each in lists), default=-1)


def last_records(
    lists: Sequence[RecordList], read: Callable[[RecordList], Sequence[FileRecord]]
) -> Iterator[FileRecord]:
    """The last record of each file of a group, if it is not void; the lists are read one at a time."""
    voids = Voids(lists)
    seen: set[str] = set()
    by_number = sorted(lists, key=lambda each: each.number)
    client, nodes = [each for each in by_number if each.number < 0], [each for each in by_number if each.number >= 0]
    for each in (*client, *reversed(nodes)):
        for record in reversed(read(each)):
            if voids.count(each, record) and record.name not in seen:
                seen.add(record.name)
                yield record


class Voids:
    """Which records of a group count, asked about them in the order of the lists: what the client has written first."""

    def __init__(self, lists: Sequence[RecordList]) -> None:
        self._lists = lists
        self._below: dict[str, int] = {}

    def count(self, each: RecordList, record: FileRecord) -> bool:
        """Whether the record, which is in that list, is one of a file, and not void."""
        if record.void:
            below = self._number_at(each.written) if record.below is None else record.below
            self._below[record.name] = max(below, self._below.get(record.name, 0))
        return not record.void and each.number >= self._below.get(record.name, 0)

    def _number_at(self, written: datetime) -> int:
        """The number of the list that came next then. Times have whole seconds."""
        return max((each.number + 1 for each in self._lists if each.written <= written), default=0)


def make_void(azure: Azure, run: Run, group: str, names: Iterable[str], below: int) -> None:
    """Let the records that these files have in the group's lists below that number count no more."""
    values = [{"name": quoted(name), "void": True, "below": below} for name in names]
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        container.upload_blob(f"{GROUPS}/{group}/void-{uuid4().hex}.json", json.dumps(values).encode())
