"""The note of a run in its results folder, and the lock of who works there."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

import tasks.run.run_note
from tasks.errors import ResultsError
from tasks.run.folder_lock import working_in
from tasks.run.program import Program
from tasks.run.results import Results
from tasks.run.run_note import RunNote, note_folder
from tests.support.paths import ROOT

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
PROGRAM = Program(script="s", arguments="a")


def note(folder: Path, program: Program = PROGRAM, kept: str = "") -> RunNote:
    places = {"a\udcff.txt": "b%FF", "é.txt": "é"}
    return RunNote.of("a run", Results(folder=folder, places=places, program=program, kept=kept), SINCE)


def test_what_is_read_is_what_was_written_whatever_names_files_have(tmp_path: Path) -> None:
    written = note(tmp_path, kept="az://account/container/there")
    written.write(tmp_path)
    assert RunNote.read(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == [".run.json"]
    results = written.results(tmp_path)
    assert (results.folder_of("a\udcff.txt"), results.program, results.kept) == (
        tmp_path / "b%FF",
        PROGRAM,
        "az://account/container/there",
    )


def test_no_note_is_no_error_and_a_damaged_one_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert RunNote.read(tmp_path) is RunNote.read(tmp_path / "none") is RunNote.read(tmp_path / "file") is None
    (tmp_path / ".run.json").write_text('{"flow_run_id": "a run"}')
    with pytest.raises(ValueError, match=r"\.run\.json: KeyError"):
        RunNote.read(tmp_path)
    (tmp_path / ".run.json").unlink()
    (tmp_path / ".run.json").mkdir()
    with pytest.raises(ResultsError, match="Is a directory"):
        RunNote.read(tmp_path)


def test_a_note_is_of_the_same_program_or_not(tmp_path: Path) -> None:
    assert not note(tmp_path).same_program(tmp_path)
    note(tmp_path).write(tmp_path)
    assert note(tmp_path).same_program(tmp_path)
    assert not note(tmp_path, Program(script="another", arguments="a")).same_program(tmp_path)


def test_while_tasks_of_another_program_may_run_there_is_no_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.run.run_note, "get_run_logger", lambda: logging.getLogger("tests.run_note"))
    results = Results(folder=tmp_path, program=PROGRAM)
    note(tmp_path, Program(script="another")).write(tmp_path)
    note_folder("a run", results, SINCE, unless_changed=True)  # a retry, before it drops what the last attempt left
    assert RunNote.read(tmp_path) is None
    note_folder("a run", results, SINCE)
    note_folder("a run", results, SINCE, unless_changed=True)
    assert RunNote.read(tmp_path) == RunNote.of("a run", results, SINCE)
    (tmp_path / ".run.json").write_text("{")
    note_folder("a run", results, SINCE, unless_changed=True)
    assert RunNote.read(tmp_path) is None
    (tmp_path / ".run.json.part").mkdir()
    note_folder("a run", results, SINCE)
    assert "Outputs of this run cannot be saved if its process is killed" in caplog.text


def test_a_note_has_no_signature(tmp_path: Path) -> None:
    note(tmp_path, kept="https://a.blob.core.windows.net/c?sv=2021&sig=c2VjcmV0c2VjcmV0").write(tmp_path)
    assert "c2VjcmV0" not in (tmp_path / ".run.json").read_text()


def test_one_process_works_in_a_folder_until_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tasks.run.folder_lock import working_in\n"
        "with working_in(Path(sys.argv[1])) as alone: print(alone, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "True\n"
        with working_in(tmp_path) as alone:
            assert not alone
        with working_in(tmp_path / "another") as alone:
            assert alone  # there is nothing to work in
        other.send_signal(signal.SIGKILL)
        with working_in(tmp_path, 60) as alone:
            assert alone
    with working_in(tmp_path) as alone:
        assert alone
