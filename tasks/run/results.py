"""The folder on this machine in which a run leaves its results, and what a previous attempt has left there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefect.logging import get_run_logger

from tasks.errors import InputError, ResultsError, RunError
from tasks.errors.local_files import at, expanded
from tasks.errors.secrets import without_secrets
from tasks.inputs.addresses import is_blob_address
from tasks.inputs.content import Content
from tasks.inputs.files import InputFile
from tasks.inputs.names import blob_name, local_paths
from tasks.run.notes import Notes
from tasks.run.outcomes import LOGS, TaskOutcome, missing
from tasks.run.output_address import MANIFEST
from tasks.run.program import NO_PROGRAM, Done, Program
from tasks.run.records import Output, Record
from tasks.run.uploads import UploadedFile

_DONE = ".done.json"  # the files whose outputs are there: the content of each, and its record

T = TypeVar("T")


def _any_output(file: str, folder: Path) -> None:
    """Of a script whose outputs nobody reads here."""


@dataclass(frozen=True, kw_only=True)
class Outputs(Generic[T]):
    """The outputs of a run: of each file that succeeded, by the file's name and in the order of the files.

    read: what the workload reads of them, each time that it is asked for, so that not all need be in memory; nothing
    where the outputs stay in Blob Storage.
    """

    read: Mapping[str, T]
    records: Mapping[str, Record]
    outcomes: Sequence[TaskOutcome]
    folder: Path  # in which they are
    why: Mapping[str, str] | None = None  # see Results

    @property
    def missing(self) -> tuple[str, ...]:
        """The files without output."""
        return tuple(outcome.file for outcome in missing(self.outcomes))


class _Reading(Mapping[str, T]):
    """What is read of each name when it is asked for."""

    def __init__(self, names: Mapping[str, object], read: Callable[[str], T]) -> None:
        self._names = names
        self._read = read

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The folder of one run, and how the outputs of a file are read: `parse` gets their folder, and may raise.

    places: the folder of an input file below that of the run, by the file's name, where it is not its blob name.

    kept: the address where outputs stay in Blob Storage, so that this folder has only tables and logs; else empty.

    why: where only what is new was asked for, why each input is processed, by name.
    """

    folder: Path
    parse: Callable[[str, Path], Any] = _any_output
    places: Mapping[str, str] = field(default_factory=dict, repr=False)
    program: Program = NO_PROGRAM
    kept: str = ""
    why: Mapping[str, str] | None = field(default=None, repr=False)
    _notes: Notes = field(default_factory=Notes, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        output_folder: str,
        run_name: str,
        files: Sequence[InputFile],
        parse: Callable[[str, Path], Any] = _any_output,
        tables: Collection[str] = (),
        program: Program = NO_PROGRAM,
    ) -> Results:
        """The run's own folder in the output folder; `tables` are the names of the tables beside the outputs.

        Where the output is the address of blobs, the folder is one of `results`. Raises InputError where the output
        folder has no such home directory.
        """
        kept = output_folder if is_blob_address(output_folder) else ""
        folder = folder_of_run(output_folder, run_name)
        reserved = {LOGS, *(f"{table}{suffix}" for table in (MANIFEST, *tables) for suffix in (".csv", ".parquet"))}
        local = local_paths([file.name for file in files], reserved)
        places = {name: place for name, place in local.items() if place != blob_name(name)}
        return cls(folder=folder, parse=parse, places=places, program=program, kept=kept)

    def place_of(self, name: str) -> str:
        """The folder of the input file of that name, below that of the run or of kept outputs."""
        return self.places.get(name, blob_name(name))

    def folder_of(self, name: str) -> Path:
        """Where the outputs of the input file of that name are."""
        return self.folder / self.place_of(name)

    def logs_of(self, name: str) -> Path:
        """Where what its Batch task wrote to stdout and stderr is."""
        return self.folder / LOGS / self.place_of(name)

    def write_log(self, name: str, stream: str, text: str) -> None:
        """Put what was written for the file to stdout or stderr there, without signatures. Raises ResultsError."""
        target = self.logs_of(name) / stream
        with at(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(without_secrets(text), encoding="utf-8", errors="surrogateescape")

    def paths(self, name: str, record: Record) -> list[tuple[Output, Path]]:
        """Each output of the file with its place on this machine."""
        folder = self.folder_of(name)
        places = local_paths([output.path for output in record.outputs])
        return [(output, folder / places[output.path]) for output in record.outputs]

    def sort(self, files: Sequence[InputFile]) -> tuple[list[TaskOutcome], list[InputFile]]:
        """What became of the files that a previous attempt has processed, and the files still to be processed.

        A file that has changed since is processed again. Where `why` has been decided, no file is read again for that.
        """
        known = self.done()
        there = [file for file in files if file.name in known and self._is_done(file, known[file.name])]
        if there:
            get_run_logger().info("%d of %d files are done already", len(there), len(files))
        names = {file.name for file in there}
        outcomes = [TaskOutcome.done_before(file.task_id, file.name) for file in there]
        return outcomes, [file for file in files if file.name not in names]

    def outputs(self, outcomes: Sequence[TaskOutcome]) -> Outputs[Any]:
        """All that there is to join."""
        succeeded = [outcome.file for outcome in outcomes if outcome.succeeded]
        done = self.done()
        records = {file: done[file].record for file in succeeded if file in done}
        names = records if len(records) == len(succeeded) else dict.fromkeys(succeeded)  # of very many, one dict
        read = {} if self.kept else _Reading(names, lambda file: self.parse(file, self.folder_of(file)))
        return Outputs(read=read, records=records, outcomes=tuple(outcomes), folder=self.folder, why=self.why)

    def remember(self, done: Mapping[str, Done]) -> None:
        """Note that the outputs of these files are there, by the file's name."""
        known = self.done()
        self._note({**known, **done} if known else done)  # of very many, no more dicts than must be

    def forget(self, names: Iterable[str]) -> None:
        """The outputs of these files are about to be replaced."""
        known, going = self.done(), set(names)
        if not going.isdisjoint(known):
            self._note({name: done for name, done in known.items() if name not in going})

    def downloaded(self, files: Sequence[UploadedFile]) -> dict[str, Done]:
        """Those of the files whose outputs are there, and can be read, by name."""
        known = self.done()
        return {file.name: known[file.name] for file in files if self.is_here(known, file.name, file.content)}

    def is_here(self, known: Mapping[str, Done], name: str, content: str) -> bool:
        """Whether the outputs of the file with that content are among the known ones, and can be read."""
        done = known.get(name)
        return (
            done is not None and (done.content, done.program) == (content, self.program) and self._is_whole(name, done)
        )

    def unreadable(self, name: str) -> str:
        """Why the file's outputs are none; empty where they are. Raises ResultsError where that cannot be seen."""
        folder = self.folder_of(name)
        try:
            with at(folder):
                self.parse(name, folder)
        except ResultsError:
            raise
        except Exception as error:  # of a workload's own function, which may raise anything
            return str(error) if isinstance(error, RunError) else f"{folder}: {type(error).__name__}: {error}"
        return ""

    def done(self) -> Mapping[str, Done]:
        """The files whose outputs were there, by name."""
        return self._noted() or {}

    def notes_unreadable(self) -> bool:
        """Whether the folder has notes of finished files, and these cannot be read."""
        return self._noted() is None

    def _noted(self) -> Mapping[str, Done] | None:
        return self._notes.read(self.folder / _DONE)

    def _note(self, done: Mapping[str, Done]) -> None:
        self._notes.write(self.folder / _DONE, done)

    def _is_done(self, file: InputFile, done: Done) -> bool:
        try:
            if self.why is not None:  # decided already
                same = file.name not in self.why
            else:
                same = (content_of(file), self.program) == (done.content, done.program)
            return same and self._is_whole(file.name, done)
        except (InputError, OSError):
            return False

    def _is_whole(self, name: str, done: Done) -> bool:
        if self.kept:
            return True
        try:
            sizes = [(path.stat().st_size, output.size) for output, path in self.paths(name, done.record)]
            return all(there == size for there, size in sizes) and not self.unreadable(name)
        except (OSError, ResultsError):
            return False


def folder_of_run(output_folder: str, run_name: str) -> Path:
    """The run's own folder on this machine. Raises InputError where the output folder has no such home directory."""
    output_folder = "results" if is_blob_address(output_folder) else output_folder
    return expanded("output folder", output_folder) / run_name


def content_of(file: InputFile) -> str:
    """What is another where the file's content is another. Raises InputError where the file cannot be read."""
    if isinstance(file.source, str):
        return Content.of(Path(file.source)).md5.hex()
    return file.source.md5 or file.source.etag
