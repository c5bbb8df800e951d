"""The folder on this machine in which a run leaves its results, and what an earlier try of the run has left there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect.logging import get_run_logger

from tasks.errors import InputError
from tasks.inputs import InputFile, md5_of
from tasks.outcomes import TaskOutcome

_COUNTED = ".counted.json"  # the outputs that are there, and the MD5 of the input of each


@dataclass(frozen=True, kw_only=True)
class Results:
    """The folder of one run."""

    folder: Path

    @classmethod
    def of(cls, output_folder: str, run_name: str) -> Results:
        """The run's own folder in the output folder. Raises InputError where that has no such home directory."""
        try:
            return cls(folder=Path(output_folder).expanduser() / run_name)
        except RuntimeError as error:
            raise InputError(f"output folder {output_folder!r}: {error}; name another") from None

    def path(self, name: str) -> Path:
        return self.folder / name

    def sort(self, files: Sequence[InputFile]) -> tuple[list[TaskOutcome], list[InputFile]]:
        """What became of the files that an earlier try of the run has counted, and the files still to be counted.

        A file that has changed since is counted again.
        """
        known = self._counted()
        counted = [file for file in files if file.blob_name in known and self._has(file, known[file.blob_name])]
        if counted:
            get_run_logger().info("%d of %d files have been counted by an earlier try", len(counted), len(files))
        done = [TaskOutcome.counted_before(file.task_id, file.blob_name, file.output_name) for file in counted]
        names = {file.blob_name for file in counted}
        return done, [file for file in files if file.blob_name not in names]

    def remember(self, md5s: Mapping[str, str]) -> None:
        """Note that the outputs of these files are there: the MD5 of each file by its name."""
        self._note({**self._counted(), **md5s})

    def forget(self, names: Iterable[str]) -> None:
        """The outputs of these files are about to be replaced."""
        known, going = self._counted(), set(names)
        if not going.isdisjoint(known):
            self._note({name: md5 for name, md5 in known.items() if name not in going})

    def _note(self, md5s: Mapping[str, str]) -> None:
        partial = self.path(_COUNTED + ".part")
        partial.write_text(json.dumps(md5s, indent=0), encoding="utf-8")
        partial.replace(self.path(_COUNTED))

    def _has(self, file: InputFile, md5: str) -> bool:
        try:
            return self.path(file.output_name).is_file() and md5_of(file.path).hex() == md5
        except OSError:
            return False

    def _counted(self) -> dict[str, str]:
        try:
            known = json.loads(self.path(_COUNTED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(name): str(md5) for name, md5 in known.items()} if isinstance(known, dict) else {}
