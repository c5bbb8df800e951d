"""What a run that is being stopped still does for its finished files: download their outputs in the seconds left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import within
from tasks.errors import ResultsError
from tasks.errors.secrets import without_secrets
from tasks.kept import save_manifest
from tasks.record import RunRecord
from tasks.resources.container import Container
from tasks.resources.job import JobResource, wait_until_over
from tasks.resources.ownership import hold
from tasks.run.destination import Destination
from tasks.run.downloads import Download
from tasks.run.file_outcomes import outcome_of_file
from tasks.run.group_records import GroupRecords, for_each_group
from tasks.run.identity import Role, Run
from tasks.run.outcomes import TaskOutcome
from tasks.run.previous_attempt import next_lists_there, records_there
from tasks.run.records import record_blob
from tasks.run.uploads import UploadedFile, Uploads

MANIFEST_SECONDS = 3.0
FETCH_SECONDS = 12.0  # of the 30 that Prefect leaves to a run that is cancelled; deletes and report need the others
END_SECONDS = 6.0  # of these, in which a job that is being deleted may end its Batch tasks


def fetch_finished(record: RunRecord[Any], ending: BaseException | None, seconds: float = FETCH_SECONDS) -> None:
    """Download the outputs that are there and were not downloaded, the oldest first, and note which are left.

    It does nothing unless the run ends because a signal, or Prefect, stops it.
    """
    if ending is None or isinstance(ending, Exception) or record.stored or not record.uploads:
        return
    fetch = _Fetch(record.azure, record.run, record.uploads, Download(results=record.results))
    known = record.known
    within(seconds, lambda: fetch.run(known))
    fetch.download.stop.set()
    outcomes = fetch.outcomes(known)
    record.note(outcomes)
    left = fetch.left(outcomes)
    record.not_downloaded = left if left or fetch.complete else None
    try:
        record.results.remember(dict(fetch.download.stored))
    except ResultsError as error:
        fetch.problem = fetch.problem or str(error)
    if record.results.kept:
        within(MANIFEST_SECONDS, lambda: _save_manifest(record))
    _log(record, fetch)


def note_ended(record: RunRecord[Any]) -> None:
    """Note what the Batch tasks of a job that is being deleted have still recorded, so that it is downloaded too."""
    if not record.uploads:
        return
    fetch = _Fetch(record.azure, record.run, record.uploads, Download(results=record.results))
    known = record.known
    within(FETCH_SECONDS, lambda: fetch.look(known))
    fetch.download.stop.set()
    record.note(fetch.outcomes(known))


def _save_manifest(record: RunRecord[Any]) -> None:
    """What is stored at the user's place is then known to later runs."""
    try:
        destination = Destination.of(record.azure, record.run, record.results.kept)
        save_manifest(record.azure, record.outcomes, record.results, destination)
    except Exception as error:  # whatever it is, the run ends, and only its outputs are made again
        reason = without_secrets(str(error))
        get_run_logger().warning("Manifest not written; --skip-done will not skip the outputs of this run: %s", reason)


class _Fetch:
    """The download of a stopped run's finished outputs, in a thread that may be left behind."""

    def __init__(self, azure: Azure, run: Run, uploads: Uploads, download: Download) -> None:
        self._azure = azure
        self._run = run
        self._uploads = uploads
        self._there: Mapping[str, datetime] = {}
        self._lists: Mapping[str, int] = {}  # the numbers of the groups' next lists of records
        self._in_groups: dict[str, TaskOutcome] = {}  # the files of groups that have a record
        self.download = download
        self.complete = False  # whether all records are read, and no Batch task can write another
        self.problem = ""

    def run(self, known: Mapping[str, TaskOutcome]) -> None:
        """Download what is there, then what Batch tasks record while their job ends."""
        self._guarded(lambda: self._fetch(known), known)

    def look(self, known: Mapping[str, TaskOutcome]) -> None:
        """Read what Batch tasks record until their job has ended."""
        self._guarded(lambda: self._read_records(known), known)

    def _guarded(self, act: Callable[[], None], known: Mapping[str, TaskOutcome]) -> None:
        try:
            over = self._is_over(known)
            act()
            if not over:
                over = wait_until_over(lambda: self._is_over(known), self.download.stop, END_SECONDS)
                act()
            self.complete = over
        except Exception as error:  # whatever it is, what is not here is named, and its container held
            self.problem = without_secrets(str(error))

    def _is_over(self, known: Mapping[str, TaskOutcome]) -> bool:
        if all(self._outcome(each).completed for each in known.values()):
            return True
        with self._azure.batch() as batch:
            return JobResource(batch, self._run.job_id).is_over()

    def _fetch(self, known: Mapping[str, TaskOutcome]) -> None:
        self._read_records(known)
        files = self._uploads.inputs
        done = self.download.results.downloaded([file for file in files if file.name not in self.download.stored])
        self.download.stored.update(done)
        stored, useless = self.download.stored, self.download.useless
        wanted = [
            file
            for file in files
            if file.name not in stored and file.name not in useless and self._outcome(known[file.name]).succeeded
        ]
        if not wanted:
            return
        self._hold_containers()  # whoever else cleans up, such as a worker's hook, leaves them then
        self.download.results.forget(file.name for file in wanted)
        oldest_first = sorted(wanted, key=lambda file: (file.record not in self._there, self._time(file)))
        self.download.fetch(self._azure, self._run, oldest_first, self._uploads.bundles)

    def _read_records(self, known: Mapping[str, TaskOutcome]) -> None:
        """Read what has been recorded since the last look."""
        self._there = records_there(self._azure, self._run)
        groups: dict[str, list[TaskOutcome]] = {}
        if self._uploads.bundles:
            lists = next_lists_there(self._azure, self._run)
            new = {id for id, number in lists.items() if number != self._lists.get(id)} & self._uploads.bundles.keys()
            for file in self._uploads.inputs:
                if file.task_id in new:
                    groups.setdefault(file.task_id, []).append(known[file.name])
            self._lists = lists

        def recorded(group: str, records: GroupRecords) -> list[TaskOutcome]:
            found = [(each, records.files.get(each.file)) for each in groups[group]]
            return [outcome_of_file(each, each.file, written) for each, written in found if written]

        if groups:
            for outcomes in for_each_group(self._azure, self._run, groups, recorded).values():
                self._in_groups |= {outcome.file: outcome for outcome in outcomes}

    def outcomes(self, known: Mapping[str, TaskOutcome]) -> list[TaskOutcome]:
        """What became of each file; a record proves a success that was not seen."""
        return self.download.judge([self._outcome(each).unfinished() for each in known.values()])

    def left(self, outcomes: Sequence[TaskOutcome]) -> list[str]:
        """The finished files whose outputs are not on this machine."""
        here = self.download.stored
        return [each.file for each in outcomes if each.succeeded and each.file not in here]

    def _outcome(self, outcome: TaskOutcome) -> TaskOutcome:
        """The outcome by the file's record, if that says more."""
        if outcome.succeeded:
            return outcome
        if (recorded := self._in_groups.get(outcome.file)) is not None:
            return recorded
        if outcome.completed or record_blob(outcome.file) not in self._there:
            return outcome
        return replace(outcome, state="completed", succeeded=True)

    def _time(self, file: UploadedFile) -> datetime:
        return self._there.get(file.record, file.modified)

    def _hold_containers(self) -> None:
        with self._azure.blobs() as blobs:
            for role in Role:
                hold(self._run, Container(blobs, self._run, role))


def _log(record: RunRecord[Any], fetch: _Fetch) -> None:
    logger = get_run_logger()
    if fetch.download.stored:
        stored, kept = len(fetch.download.stored), record.results.kept
        where = f"stay in {kept}" if kept else f"downloaded to {record.results.folder} before the run ends"
        logger.info("%d finished outputs %s", stored, where)
    if text := record.left_text():
        logger.error("%s%s", text, f"\n  reason: {fetch.problem}" if fetch.problem else "")
