"""The records of files in groups: what their Batch tasks have written of them, in lists, and what counts of it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.run.identity import Role, Run
from tasks.run.records import GROUPS, FileRecord, quoted

_NAME = re.compile(rf"{GROUPS}/([^/]+)/(?:(\d+)|void-[0-9a-f]+)\.json")


@dataclass(frozen=True, kw_only=True)
class RecordList:
    """A blob with records of files of one group."""

    group: str
    number: int  # -1 where the client has written it
    blob: str
    written: datetime


@dataclass(frozen=True, kw_only=True)
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
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        lists = [each for each in list_group_records(container) if groups is None or each.group in groups]

        def read(each: RecordList) -> list[FileRecord]:
            try:
                return FileRecord.parse_list(container.download_blob(each.blob).readall())
            except (ResourceNotFoundError, ValueError):
                return []

        return combine(zip(lists, in_parallel(read, lists), strict=True))


def combine(lists: Iterable[tuple[RecordList, Iterable[FileRecord]]]) -> dict[str, GroupRecords]:
    """The last record of each file that is not void, in the order in which the lists were written."""
    found: dict[str, dict[str, Written]] = {}
    numbers: dict[str, dict[str, int]] = {}  # of the list with the record that counts
    next_list: dict[str, int] = {}
    for each, records in sorted(lists, key=lambda pair: _order(pair[0])):
        files, number = found.setdefault(each.group, {}), numbers.setdefault(each.group, {})
        next_list[each.group] = max(next_list.get(each.group, 0), each.number + 1)
        for record in records:
            before = files.get(record.name)
            if record.void and before and record.below is not None and number[record.name] >= record.below:
                continue  # written since, as their numbers show; the times of both may be the same
            tries = 0 if before is None or before.record.void else before.tries
            files[record.name] = Written(record=record, at=each.written, tries=tries + (not record.void))
            number[record.name] = each.number
    return {id: GroupRecords(files=files, next_list=next_list[id]) for id, files in found.items()}


def make_void(azure: Azure, run: Run, group: str, names: Iterable[str], below: int) -> None:
    """Let the records that these files have in the group's lists below that number count no more."""
    values = [{"name": quoted(name), "void": True, "below": below} for name in names]
    with azure.blobs() as blobs:
        container = blobs.get_container_client(run.container(Role.OUTPUT))
        container.upload_blob(f"{GROUPS}/{group}/void-{uuid4().hex}.json", json.dumps(values).encode())


def _order(each: RecordList) -> tuple[datetime, bool, int]:
    """Times have whole seconds; within one, what the client has written comes last."""
    return each.written, each.number < 0, each.number
