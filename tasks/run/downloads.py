"""Downloads the outputs of input files, each checked before it counts: those of groups from their lists of records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TypeAlias, TypeVar

from azure.core.exceptions import ResourceNotFoundError

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.accounts.whole_blobs import WholeBlobs
from tasks.errors import ResultsError
from tasks.run.fetch import Fetcher, Useless
from tasks.run.group_records import RecordList, last_records, lists_by_group, make_void, next_number, read_list
from tasks.run.identity import Role, Run
from tasks.run.outcomes import STREAMS, Cause, TaskOutcome
from tasks.run.previous_attempt import records_there
from tasks.run.program import Done
from tasks.run.records import GROUPS, FileRecord, Output, Record, record_blob
from tasks.run.results import Results
from tasks.run.uploads import UploadedFile

T = TypeVar("T")
R = TypeVar("R")
# The content of the input that a record is noted for; None where its outputs are not to be downloaded.
Wanted: TypeAlias = Callable[[FileRecord], str | None]

_GROUPS_AT_A_TIME = 3  # each with a list of records, and outputs in it, in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A file whose record is found, and what of its outputs is still to be fetched."""

    name: str
    content: str  # of the input file
    record: Record
    left: Sequence[tuple[Output, Path]]
    group: str
    below: int  # see FileRecord


@dataclass(frozen=True, kw_only=True)
class Download:
    """The outputs that are being downloaded, as far as they have come: those of each input file by its name.

    failed: the files of groups, by the group's id, of which only what they wrote to stdout and stderr is downloaded.

    logged: how many logs there are here of a file of a group.
    """

    results: Results
    failed: Mapping[str, Collection[str]] = field(default_factory=dict)
    stored: dict[str, Done] = field(default_factory=dict)
    useless: dict[str, tuple[Cause, str]] = field(default_factory=dict)  # why, and the details
    logged: dict[str, int] = field(default_factory=dict)
    stop: Event = field(default_factory=Event)  # set: no further one begins

    def fetch(
        self,
        azure: Azure,
        run: Run,
        files: Sequence[UploadedFile],
        groups: Collection[str] = (),
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Download the outputs of these files in their order, those of groups first.

        Raises one of SERVICE_FAILURES, or ResultsError.
        """
        with self._fetching(azure, run, meanwhile) as fetching:
            fetching.fetch(files, groups)

    def fetch_recorded(self, azure: Azure, run: Run, wanted: Wanted, since: datetime) -> None:
        """Download the outputs of all files that have a record of success, written since then, and are wanted.

        Raises one of SERVICE_FAILURES, or ResultsError.
        """
        with self._fetching(azure, run) as fetching:
            fetching.fetch_recorded(wanted, since)

    @contextmanager
    def _fetching(self, azure: Azure, run: Run, meanwhile: Callable[[], None] | None = None) -> Iterator[_Fetching]:
        container = run.container(Role.OUTPUT)
        with azure.blobs() as blobs:
            client = blobs.get_container_client(container)
            fetcher = Fetcher(results=self.results, blobs=WholeBlobs(azure, container), container=client)
            yield _Fetching(self, azure, run, fetcher, meanwhile)

    def judge(self, outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
        """The outcomes, those whose output is of no use without success."""
        useless = self.useless
        return [each.without_output(*useless[each.file]) if each.file in useless else each for each in outcomes]


class _Fetching:
    """One call of Download.fetch, or of fetch_recorded."""

    def __init__(
        self, download: Download, azure: Azure, run: Run, fetcher: Fetcher, meanwhile: Callable[[], None] | None
    ) -> None:
        self._download = download
        self._azure = azure
        self._run = run
        self._fetcher = fetcher
        self._meanwhile = meanwhile
        self._lists: Mapping[str, Sequence[RecordList]] = {}
        self._since: datetime | None = None
        self._damaged: dict[str, str] = {}  # lists of records by their group, and why
        self._void: dict[tuple[str, int], list[str]] = {}  # the files of a group whose outputs are of no use

    def fetch(self, files: Sequence[UploadedFile], groups: Collection[str]) -> None:
        of_groups: dict[str, dict[str, str]] = {id: {} for id in self._download.failed}
        for file in files:
            if file.task_id in groups:
                of_groups.setdefault(file.task_id, {})[file.name] = file.content
        if of_groups:
            self._lists = lists_by_group(self._azure, self._run)
        seen = (
            self._in_groups({id: _among(files) for id, files in of_groups.items()}),
            self._download.stored,
            self._download.useless,
        )
        alone = [file for file in files if not any(file.name in names for names in seen)]
        lost = {file.name: file for file in self._in_parallel(self._fetch_alone, alone) if file}
        if lost:  # or a previous attempt had them in other groups
            self._lists = self._lists or lists_by_group(self._azure, self._run)
            contents = {file.name: file.content for file in lost.values()}
            self._in_groups(dict.fromkeys(self._lists, _among(contents)))
        for file in lost.values() if not self._download.stop.is_set() else ():
            if file.name not in self._download.stored:
                self._download.useless.setdefault(file.name, self._why_lost(file, groups))
        self._make_void()

    def fetch_recorded(self, wanted: Wanted, since: datetime) -> None:
        self._since = since
        self._lists = lists_by_group(self._azure, self._run)
        self._in_groups(dict.fromkeys(self._lists, wanted))
        records = records_there(self._azure, self._run)
        blobs = [blob for blob, written in records.items() if written >= since]
        self._in_parallel(lambda blob: self._fetch_recorded(blob, wanted), blobs)
        self._make_void()

    def _make_void(self) -> None:
        """Let the records of outputs of no use count no more, so that a retry of the run processes the files again."""
        for (group, below), names in self._void.items():
            make_void(self._azure, self._run, group, names, below)

    def _in_parallel(self, work: Callable[[T], R], items: Sequence[T], **more: int) -> list[R]:
        return in_parallel(work, items, meanwhile=self._meanwhile, **more)

    def _in_groups(self, wanted: Mapping[str, Wanted]) -> set[str]:
        """Download what is wanted of the groups; returns the names of files with outputs beside their records."""

        def fetch(group: str) -> list[_Part]:
            return list(self._in_group(group, wanted[group]))

        found = self._in_parallel(fetch, list(wanted), at_a_time=_GROUPS_AT_A_TIME)
        parts = [part for of_group in found for part in of_group]
        self._in_parallel(self._complete, parts)
        return {part.name for part in parts}

    def _in_group(self, group: str, wanted: Wanted) -> Iterator[_Part]:
        """Store the outputs that are in the records of the group's files; returns those with further outputs."""
        lists = self._lists.get(group, ())
        below = next_number(lists)
        failed = self._download.failed.get(group, ())
        for record in last_records(lists, self._read):
            if self._download.stop.is_set():
                return
            name = record.name
            if name in failed and not record.succeeded:
                self._log(record)
            elif record.succeeded and name not in self._download.stored and (content := wanted(record)) is not None:
                part = _Part(name=name, content=content, record=record.record, left=(), group=group, below=below)
                with self._judging(part):
                    self._log(record)
                    if left := self._fetcher.store(name, record):
                        yield replace(part, left=left)
                    else:
                        self._finish(part)

    def _read(self, each: RecordList) -> list[FileRecord]:
        if self._since and each.number >= 0 and each.written < self._since:
            return []
        try:
            return read_list(self._fetcher.blobs, each)
        except ValueError as error:
            self._damaged[each.group] = f"{each.blob}: {error}"
            return []

    def _log(self, record: FileRecord) -> None:
        texts = dict(zip(STREAMS, (record.stdout_end, record.stderr_end), strict=True))
        if record.succeeded:
            texts = {stream: text for stream, text in texts.items() if text}
        with suppress(ResultsError):  # which is no reason to download nothing, and is seen again
            for stream, text in texts.items():
                self._download.results.write_log(record.name, stream, text)
            self._download.logged[record.name] = len(texts)

    def _complete(self, part: _Part) -> None:
        if self._download.stop.is_set():
            return
        with self._judging(part):
            self._fetcher.fetch(part.left)
            self._finish(part)

    def _fetch_alone(self, file: UploadedFile) -> UploadedFile | None:
        """Download the outputs of a file that had a Batch task of its own; returns it where it has no such record."""
        if self._download.stop.is_set():
            return None
        part = _alone(file.name, file.content)
        with self._judging(part):
            found = self._fetcher.record(file.name)
            if found is None:
                return file
            self._store_alone(part, found)
        return None

    def _fetch_recorded(self, blob: str, wanted: Wanted) -> None:
        """Download the outputs of the file whose record is in the blob; a record that is damaged counts as none."""
        if self._download.stop.is_set():
            return
        with suppress(Useless):
            found = self._fetcher.record_in(blob)
            if found is None or found.name in self._download.stored or (content := wanted(found)) is None:
                return
            part = _alone(found.name, content)
            with self._judging(part):
                self._store_alone(part, found)

    def _store_alone(self, part: _Part, found: FileRecord) -> None:
        self._fetcher.fetch(self._fetcher.store(part.name, found))
        self._finish(replace(part, record=found.record))

    def _finish(self, part: _Part) -> None:
        self._fetcher.check(part.name)
        program = self._download.results.program
        self._download.stored[part.name] = Done(content=part.content, program=program, record=part.record)

    @contextmanager
    def _judging(self, part: _Part) -> Iterator[None]:
        """Note a file whose outputs are of no use."""
        try:
            yield
        except Useless as problem:
            self._download.useless[part.name] = problem.cause, problem.detail
            if part.group:
                self._void.setdefault((part.group, part.below), []).append(part.name)
                return
            with suppress(ResourceNotFoundError):
                self._fetcher.container.delete_blob(record_blob(part.name))

    def _why_lost(self, file: UploadedFile, groups: Collection[str]) -> tuple[Cause, str]:
        if damaged := self._damaged.get(file.task_id):
            return Cause.DAMAGED, damaged
        where = f"record of it in {GROUPS}/{file.task_id}" if file.task_id in groups else f"blob {file.record}"
        return Cause.NO_OUTPUT, f"no {where}"


def _among(contents: Mapping[str, str]) -> Wanted:
    """These files are wanted, by their names, whatever content their records are of."""
    return lambda record: contents.get(record.name)


def _alone(name: str, content: str) -> _Part:
    return _Part(name=name, content=content, record=Record(outputs=()), left=(), group="", below=0)
