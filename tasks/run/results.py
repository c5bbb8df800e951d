"""The folder on this machine in which a run leaves its results, and what a previous attempt has left there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefect.logging import get_run_logger

from tasks.errors import InputError, ResultsError, RunError
from tasks.run.blob_addresses import SourceBlob
from tasks.run.content import Content
from tasks.run.inputs import InputFile
from tasks.run.local_files import at
from tasks.run.outcomes import TaskOutcome, missing
from tasks.run.uploads import UploadedFile

_COUNTED = ".counted.json"  # the outputs that are there, and the MD5 of the input of each

T = TypeVar("T")


def _any_output(file: str, path: Path) -> None:
    """Of a node script whose outputs nobody reads here."""


@dataclass(frozen=True, kw_only=True)
class Outputs(Generic[T]):
    """The outputs of a run, read: that of each file that succeeded by the file's name, in the order of the files."""

    read: Mapping[str, T]
    missing: tuple[str, ...]  # the files without output
    folder: Path  # in which they are


@dataclass(frozen=True, kw_only=True)
class Results:
    """The folder of one run, and how the output of a file is read: `parse` raises where it is not one."""

    folder: Path
    parse: Callable[[str, Path], Any] = _any_output

    @classmethod
    def of(cls, output_folder: str, run_name: str, parse: Callable[[str, Path], Any] = _any_output) -> Results:
        """The run's own folder in the output folder. Raises InputError where that has no such home directory."""
        try:
            return cls(folder=Path(output_folder).expanduser() / run_name, parse=parse)
        except RuntimeError as error:
            raise InputError(f"output folder {output_folder!r}: {error}; name another") from None

    def path(self, name: str) -> Path:
        return self.folder / name

    def sort(self, files: Sequence[InputFile]) -> tuple[list[TaskOutcome], list[InputFile]]:
        """What became of the files that a previous attempt has counted, and the files still to be counted.

        A file that has changed since is counted again.
        """
        known = self._counted()
        counted = [file for file in files if file.blob_name in known and self._is_of(file, known[file.blob_name])]
        if counted:
            get_run_logger().info("%d of %d files have been counted by a previous attempt", len(counted), len(files))
        done = [TaskOutcome.counted_before(file.task_id, file.blob_name, file.output_name) for file in counted]
        names = {file.blob_name for file in counted}
        return done, [file for file in files if file.blob_name not in names]

    def outputs(self, outcomes: Sequence[TaskOutcome]) -> Outputs[Any]:
        """All that there is to join."""
        done = [outcome for outcome in outcomes if outcome.succeeded]
        return Outputs(
            read={each.file: self.parse(each.file, self.path(each.output_name)) for each in done},
            missing=tuple(outcome.file for outcome in missing(outcomes)),
            folder=self.folder,
        )

    def remember(self, md5s: Mapping[str, str]) -> None:
        """Note that the outputs of these files are there: the MD5 of each file by its name."""
        self._note({**self._counted(), **md5s})

    def forget(self, names: Iterable[str]) -> None:
        """The outputs of these files are about to be replaced."""
        known, going = self._counted(), set(names)
        if not going.isdisjoint(known):
            self._note({name: md5 for name, md5 in known.items() if name not in going})

    def downloaded(self, files: Sequence[UploadedFile]) -> dict[str, str]:
        """Those of the files whose outputs are there, and can be read: the MD5 of each by its name."""
        known = self._counted()
        return {
            file.blob_name: file.md5
            for file in files
            if known.get(file.blob_name) == file.md5 and self._is_readable(file.blob_name, file.output_name)
        }

    def unreadable(self, file: str, output_name: str) -> str:
        """Why the file's output is not one; empty where it is. Raises ResultsError where that cannot be seen."""
        path = self.path(output_name)
        try:
            with at(path):
                self.parse(file, path)
        except ResultsError:
            raise
        except Exception as error:  # of a workload's own function, which may raise anything
            return str(error) if isinstance(error, RunError) else f"{path}: {type(error).__name__}: {error}"
        return ""

    def _note(self, md5s: Mapping[str, str]) -> None:
        partial = self.path(_COUNTED + ".part")
        try:
            with at(partial):
                partial.write_text(json.dumps(md5s, indent=0), encoding="utf-8")
                partial.replace(self.path(_COUNTED))
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _is_of(self, file: InputFile, md5: str) -> bool:
        try:
            source = file.source
            known = source.md5 if isinstance(source, SourceBlob) else Content.of(source).md5.hex()
            return known == md5 and self._is_readable(file.blob_name, file.output_name)
        except (InputError, OSError):
            return False

    def _is_readable(self, name: str, output_name: str) -> bool:
        try:
            return self.path(output_name).is_file() and not self.unreadable(name, output_name)
        except ResultsError:
            return False

    def _counted(self) -> dict[str, str]:
        try:
            known = json.loads(self.path(_COUNTED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(name): str(md5) for name, md5 in known.items()} if isinstance(known, dict) else {}
