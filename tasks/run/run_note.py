"""The note of a run in its results folder: what is needed to save outputs there once the run's process is gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from tasks.errors import ResultsError
from tasks.errors.local_files import at, replacing
from tasks.errors.secrets import without_secrets
from tasks.run.program import Program
from tasks.run.results import Results

_NAME = ".run.json"


@dataclass(frozen=True, kw_only=True)
class RunNote:
    """Says that a folder is that of a flow run, and how its outputs are noted.

    since: records that were written before are those of another program.
    """

    flow_run_id: str
    program: Program
    places: Mapping[str, str]
    kept: str
    since: datetime

    @classmethod
    def of(cls, flow_run_id: str, results: Results, since: datetime) -> RunNote:
        kept = without_secrets(results.kept)
        return cls(flow_run_id=flow_run_id, program=results.program, places=results.places, kept=kept, since=since)

    @classmethod
    def read(cls, folder: Path) -> RunNote | None:
        """The note in that folder; None where there is none. Raises ResultsError or ValueError where it is no note."""
        path = folder / _NAME
        try:
            with at(path):
                text = _text_of(path)
            return None if text is None else cls._of(json.loads(text))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {type(error).__name__}: {error}") from None

    @classmethod
    def _of(cls, values: dict[str, Any]) -> RunNote:
        return cls(
            flow_run_id=str(values["flow_run_id"]),
            program=Program(**values["program"]),
            places=dict(values["places"]),
            kept=str(values["kept"]),
            since=datetime.fromisoformat(values["since"]),
        )

    def same_program(self, folder: Path) -> bool:
        """Whether the note in that folder is of the same program. Raises ResultsError."""
        try:
            there = RunNote.read(folder)
        except ValueError:
            return False
        return there is not None and there.program == self.program

    def write(self, folder: Path) -> None:
        """Raises ResultsError, and leaves what was there, where it cannot be written."""
        values = {
            "flow_run_id": self.flow_run_id,
            "program": self.program.as_values(),
            "places": dict(self.places),
            "kept": self.kept,
            "since": self.since.isoformat(),
        }
        with replacing(folder / _NAME) as file:
            file.write(json.dumps(values).encode())

    def results(self, folder: Path) -> Results:
        """The results of that run in its folder."""
        return Results(folder=folder, places=self.places, program=self.program, kept=self.kept)


def note_folder(flow_run_id: str, results: Results, since: datetime, *, unless_changed: bool = False) -> None:
    """Let a clean-up download into the results folder what the run has finished when its process is gone.

    unless_changed: Batch tasks of a previous attempt may still run another program, and then nothing is to be saved.
    """
    note = RunNote.of(flow_run_id, results, since)
    try:
        if unless_changed and not note.same_program(results.folder):
            _remove(results.folder)
        else:
            note.write(results.folder)
    except ResultsError as error:  # is no reason to fail
        get_run_logger().warning("Outputs of this run cannot be saved if its process is killed: %s", error)


def _remove(folder: Path) -> None:
    path = folder / _NAME
    with at(path):
        path.unlink(missing_ok=True)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (FileNotFoundError, NotADirectoryError):
        return None
