"""Saves what a run has finished whose process is gone: downloads its outputs before its containers are deleted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from logging import Logger, LoggerAdapter
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypeAlias

from azure.storage.blob import BlobServiceClient

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import within
from tasks.errors import InputError
from tasks.errors.secrets import without_secrets
from tasks.resources.container import ContainerResource
from tasks.resources.job import JobResource, wait_until_over
from tasks.resources.ownership import find, hold
from tasks.run.downloads import Download
from tasks.run.folder_lock import working_in
from tasks.run.identity import Role, Run
from tasks.run.records import FileRecord
from tasks.run.results import folder_of_run
from tasks.run.run_note import RunNote

Log: TypeAlias = Logger | LoggerAdapter[Any]

_END_SHARE = 0.2  # of the time: the most to wait for the job to end
_STOP_SECONDS = 10.0  # for downloads that are under way when the time is up


class Saved(Enum):
    """What may become of the containers of a run whose process is gone."""

    NOTHING = "their tags say whether they are needed"
    ALL = "all that is needed of them is on this machine"
    PART = "they hold outputs that are nowhere else"
    BUSY = "another process works in the results folder"


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Where a clean-up finds the results folder of a run, and how long it may take.

    output_folder: of the run's parameters; a relative one is below the working directory, which is the run's.
    """

    output_folder: str
    seconds: float
    logger: Log


@contextmanager
def finished_saved(azure: Azure, blobs: BlobServiceClient, run: Run, saving: Saving | None) -> Iterator[Saved]:
    """A context in which the containers may be deleted, if what it gives says so; no retry works in the folder then.

    Without `saving`, where the folder is not on this machine, and where the containers stay anyway, nothing is saved.
    Never raises.
    """
    with ExitStack() as contexts:
        yield _save(azure, blobs, run, saving, contexts) if saving else Saved.NOTHING


def _save(azure: Azure, blobs: BlobServiceClient, run: Run, saving: Saving, contexts: ExitStack) -> Saved:
    try:
        folder = folder_of_run(saving.output_folder, run.name)
        note = RunNote.read(folder)
        output = ContainerResource(blobs, run.container(Role.OUTPUT))
        found = find(run, output) if note and note.flow_run_id == run.flow_run_id else None
        if note is None or found is None or found.tags.kept or found.tags.held:
            return Saved.NOTHING
        if not contexts.enter_context(working_in(folder)):
            saving.logger.info("Containers of %s: left, another process works in %s", run.name, folder)
            return Saved.BUSY
        hold(run, output)  # a sweep on another machine, where the folder is not, leaves it then
        complete = _Finished(azure=azure, run=run, note=note, folder=folder).save(saving)
        present = find(run, output)
        if present and not present.tags.same_claim(found.tags):  # a retry has begun where no lock keeps it waiting
            return Saved.BUSY
        return Saved.ALL if complete else Saved.PART
    except InputError:  # there is no such home directory on this machine
        return Saved.NOTHING
    except Exception as error:  # whatever it is, what may be nowhere else stays
        reason = f"{type(error).__name__}: {without_secrets(str(error))}"
        saving.logger.warning("Outputs of %s: not downloaded, their containers stay: %s", run.name, reason)
        return Saved.PART


@dataclass(kw_only=True)
class _Finished:
    """The finished files of one run, and what of their outputs is downloaded."""

    azure: Azure
    run: Run
    note: RunNote
    folder: Path
    complete: bool = False
    problem: str = ""
    _ended: Event = field(default_factory=Event)
    _taken: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.results = self.note.results(self.folder)
        self.download = Download(results=self.results)

    def save(self, saving: Saving) -> bool:
        """Download what is not here; whether nothing is left that is nowhere else."""
        if not within(saving.seconds, lambda: self._guarded(saving.seconds * _END_SHARE)):
            self.download.stop.set()
            self._ended.wait(_STOP_SECONDS)
        stored = dict(self.download.stored)
        if stored:
            self.results.remember(stored)
        where = f"stay in {self.note.kept}" if self.note.kept else f"downloaded to {self.folder}"
        before = len(self.results.done()) - len(stored)
        text = "Outputs of %d finished files of %s: %s; those of %d were there already"
        saving.logger.info(text, len(stored), self.run.name, where, before)
        if not self.complete:
            reason = self.problem or "the time was up, or Batch tasks had not ended"
            saving.logger.warning("Outputs of %s: not all downloaded, their containers stay: %s", self.run.name, reason)
        return self.complete

    def _guarded(self, seconds: float) -> None:
        try:
            over = self._is_over()
            known = self.results.done()  # of another program all outputs are replaced
            self.results.forget([name for name, done in known.items() if done.program != self.note.program])
            self._fetch()
            if not over:
                over = wait_until_over(self._is_over, self.download.stop, seconds)
                self._fetch()
            self.complete = over and not self.download.stop.is_set()
        except Exception as error:  # whatever it is, what is not here is held
            self.problem = f"{type(error).__name__}: {without_secrets(str(error))}"
        finally:
            self._ended.set()

    def _fetch(self) -> None:
        self._taken.clear()
        self.download.fetch_recorded(self.azure, self.run, self._wanted, self.note.since)

    def _wanted(self, record: FileRecord) -> str | None:
        """The content of the file unless its outputs are here; what is noted of another is about to be replaced."""
        name, content = record.name, record.content
        with self._lock:
            if name in self._taken:
                return None
            self._taken.add(name)
            known = self.results.done()
            if self.results.is_here(known, name, content):
                return None
            self.results.forget([name])
        return content

    def _is_over(self) -> bool:
        with self.azure.batch() as batch:
            job = JobResource(batch, self.run.job_id)
            if job.is_over():
                return True
            found = find(self.run, job)  # none: it is being deleted
            return found is not None and found.tags.kept  # nobody ends it
