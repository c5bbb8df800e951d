"""What a run that is being stopped still does for its finished files: download their outputs in the seconds left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import within
from tasks.download import Download
from tasks.errors import ResultsError
from tasks.errors.secrets import without_secrets
from tasks.kept import save_manifest
from tasks.record import RunRecord
from tasks.resources.container import Container
from tasks.resources.ownership import hold
from tasks.run.destination import Destination
from tasks.run.identity import Role, Run
from tasks.run.outcomes import TaskOutcome
from tasks.run.previous_attempt import records_there
from tasks.run.records import record_blob
from tasks.run.uploads import UploadedFile

MANIFEST_SECONDS = 3.0
FETCH_SECONDS = 12.0  # of the 30 that Prefect leaves to a run that is cancelled; deletes and report need the others


def fetch_finished(record: RunRecord[Any], ending: BaseException | None, seconds: float = FETCH_SECONDS) -> None:
    """Download the outputs that are there and were not downloaded, the oldest first, and note which are left.

    It does nothing unless the run ends because a signal, or Prefect, stops it.
    """
    if ending is None or isinstance(ending, Exception) or record.stored or not record.uploads:
        return
    fetch = _Fetch(record.azure, record.run, record.uploads.inputs, Download(results=record.results))
    known = record.known
    within(seconds, lambda: fetch.run(known))
    fetch.download.stop.set()
    outcomes = fetch.outcomes(known)
    record.note(outcomes)
    left = fetch.left(outcomes)
    record.not_downloaded = left if left or fetch.listed else None
    try:
        record.results.remember(dict(fetch.download.stored))
    except ResultsError as error:
        fetch.problem = fetch.problem or str(error)
    if record.results.kept:
        within(MANIFEST_SECONDS, lambda: _save_manifest(record))
    _log(record, fetch)


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

    def __init__(self, azure: Azure, run: Run, files: Sequence[UploadedFile], download: Download) -> None:
        self._azure = azure
        self._run = run
        self._files = files
        self._there: Mapping[str, datetime] = {}
        self.download = download
        self.listed = False
        self.problem = ""

    def run(self, known: Mapping[str, TaskOutcome]) -> None:
        try:
            self._there = records_there(self._azure, self._run)
            self.listed = True
            done = self.download.results.downloaded(self._files)
            self.download.stored.update(done)
            wanted = [file for file in self._files if self._finished(known[file.name]) and file.name not in done]
            if not wanted:
                return
            self._hold_containers()  # whoever else cleans up, such as a worker's hook, leaves them then
            self.download.results.forget(file.name for file in wanted)
            oldest_first = sorted(wanted, key=lambda file: (file.record not in self._there, self._time(file)))
            self.download.fetch(self._azure, self._run, oldest_first)
        except Exception as error:  # whatever it is, what is not here is named, and its container held
            self.problem = without_secrets(str(error))

    def outcomes(self, known: Mapping[str, TaskOutcome]) -> list[TaskOutcome]:
        """What became of each file; a record proves a success that was not seen."""
        finished = [
            replace(each, state="completed", succeeded=True) if self._finished(each) else each.unfinished()
            for each in known.values()
        ]
        return self.download.judge(finished)

    def left(self, outcomes: Sequence[TaskOutcome]) -> list[str]:
        """The finished files whose outputs are not on this machine."""
        here = self.download.stored
        return [each.file for each in outcomes if each.succeeded and each.file not in here]

    def _finished(self, outcome: TaskOutcome) -> bool:
        return outcome.succeeded or (not outcome.completed and record_blob(outcome.file) in self._there)

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
