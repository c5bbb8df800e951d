"""The command of run_script: what goes to the flow, what goes to the script, and what is refused before Prefect."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows import cli as command_line
from flows import command_run
from flows.run_script import run_script
from tasks.errors import ConflictError
from tasks.tables.joins import Join, JoinFormat
from tests.support.paths import DATA

BLOCKED = "import sys; sys.modules['prefect'] = None; from flows.cli import main_of_run_script; main_of_run_script()"


class Recorder:
    """Stands where the flow is called; keeps the flow's parameters as the flow would see them."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(run_script.fn).bind(*args, **kwargs)
        bound.apply_defaults()
        self.calls.append(bound.arguments)
        raise ConflictError("that is all")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, no_azure: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    (tmp_path / "ok.sh").write_text("#!/bin/sh\n")
    (tmp_path / "crlf.sh").write_bytes(b"#!/bin/sh\r\n")
    (tmp_path / "list.txt").write_text("in/a.txt\nin/absent.txt\n")
    return tmp_path


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr("flows.run_script.run_script", recorder)
    monkeypatch.setattr("flows.prefect_server.start_server_ahead", lambda: None)
    monkeypatch.setattr(command_run, "ensure_prefect_server", lambda: None)
    monkeypatch.setenv("AZURE_BATCH_ACCOUNT", "batch")
    monkeypatch.setenv("AZURE_BATCH_ENDPOINT", "https://batch.region.batch.azure.com")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account")
    return recorder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command_line.script_app, arguments)


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        (["ok.sh", "in"], []),
        (["ok.sh", "in", "--"], []),
        (
            ["ok.sh", "in", "--", "--level", "ERROR", "--nodes", "0", "-x", ""],
            ["--level", "ERROR", "--nodes", "0", "-x", ""],
        ),
        (["ok.sh", "in", "--", "--help"], ["--help"]),
        (["ok.sh", "in", "--", "a", "--", "b"], ["a", "--", "b"]),
        (["ok.sh", "in", "--", "{input}", "{{name}}"], ["{input}", "{{name}}"]),
        (["--nodes", "2", "ok.sh", "in", "--", "x"], ["x"]),
    ],
)
def test_all_after_the_dashes_goes_to_the_script(typed: list[str], arguments: list[str], flow: Recorder) -> None:
    result = run(*typed)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("\nError: that is all\n")
    (call,) = flow.calls
    assert (call["script"], call["inputs"], call["arguments"]) == ("ok.sh", ["in"], arguments)


def test_options_of_its_own_reach_the_flow(flow: Recorder, folder: Path) -> None:
    (folder / "requirements.txt").write_text("rich\n")
    (folder / "more.py").write_text("")
    options = ["--requirements", "requirements.txt", "--with", "more.py", "--with", "in", "--join", "jsonl", "*.jsonl"]
    assert run("ok.sh", "in", "in/*.txt", *options, "--output", "out", "--skip-done").exit_code == 1
    (call,) = flow.calls
    assert call["inputs"] == ["in", "in/*.txt"]
    assert (call["requirements"], call["modules"]) == ("requirements.txt", ["more.py", "in"])
    assert call["join"] == Join(format=JoinFormat.JSONL, pattern="*.jsonl")
    assert (call["output_folder"], call["skip_done"]) == ("out", True)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "Missing argument 'script'."),
        (["ok.sh"], "Missing argument 'inputs'."),
        (["ok.sh", "--", "in"], "Missing argument 'inputs'."),
        (["--", "ok.sh", "in"], "Missing argument 'script'."),
        (["ok.sh", "in", "--join", "csv"], "Option '--join' requires 2 arguments."),
        (["ok.sh", "in", "--level", "x"], "No such option: --level; what the script is given comes after --"),
        (["ok.sh", "in", "--level", "--", "x"], "No such option: --level"),
        (["ok.sh", "in", "--nodes", "many"], "Invalid value for '--nodes': "),
    ],
)
def test_what_is_typed_wrongly_ends_with_2(typed: list[str], said: str, flow: Recorder) -> None:
    result = run(*typed)
    assert (result.exit_code, result.stdout, flow.calls) == (2, "", [])
    assert f"Error: {said}" in result.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["absent.sh", "in"], "script 'absent.sh': does not exist, seen from "),
        (["crlf.sh", "in"], "script 'crlf.sh': its first line ends with CRLF"),
        (["~nobody-here/x.sh", "in"], "script '~nobody-here/x.sh': there is no such home directory"),
        (["ok.sh", "absent/*"], "input 'absent/*': no file matches"),
        (["ok.sh", "@list.txt"], "@list.txt, line 2: input 'in/absent.txt': no file matches"),
        (["ok.sh", "@absent.txt"], "list of inputs '@absent.txt': cannot be read"),
        (["ok.sh", "gs://bucket/x"], "input gs://bucket/x: gs:// is no address of Blob Storage"),
        (["ok.sh", "in", "--", "{inptu}"], "argument '{inptu}': there is no placeholder {inptu}"),
        (["ok.sh", "in", "--", "x" * 25_000], "the script's arguments have 25,003 bytes"),
        (["ok.sh", "in", "--requirements", "no.txt"], "--requirements 'no.txt': cannot be read (No such file"),
        (["ok.sh", "in", "--requirements", "~nobody-here/r"], "--requirements '~nobody-here/r': there is no such home"),
        (["ok.sh", "in", "--with", "no.py"], "there is no such file or folder; check the path of --with"),
        (["ok.sh", "in", "--with", "in", "--pool-id", "p"], "pool 'p' exists already"),
        (["ok.sh", "in", "--join", "xml", "*"], "--join format 'xml': does not exist; use one of csv, json, jsonl"),
        (["ok.sh", "in", "--join", "csv", "/x"], "--join pattern '/x': "),
        (["ok.sh", "in", "--join", "csv", "*", "--output", "az://acc/con/x"], "--output az://acc/con/x: outputs stay"),
        (["ok.sh", "in", "--output", "az://acc/con/*"], "--output az://acc/con/*: a place for outputs has no"),
        (["ok.sh", "in", "--output", "~nobody-here/x"], "--output folder '~nobody-here/x': there is no such home"),
        (["ok.sh", "**/*.txt", "--output", "in"], "--output in: it lies inside the inputs ("),
        (
            ["ok.sh", "az://acc/con/", "--output", "az://acc/con/x"],
            "--output az://acc/con/x: it lies inside the inputs",
        ),
        (["ok.sh", "in", "--nodes", "0"], "--nodes and --spot-nodes are both 0"),
        (["ok.sh", "in", "--allow-failures", "-1"], "--allow-failures is -1"),
        (["ok.sh", "in", "--files-per-task", "0"], "--files-per-task is 0; give a Batch task 1 to 1,000 files"),
    ],
)
def test_what_cannot_work_is_named_with_its_option_and_ends_with_1(typed: list[str], said: str, flow: Recorder) -> None:
    result = run(*typed)
    assert (result.exit_code, result.stdout, flow.calls) == (1, "", [])
    assert result.stderr.startswith("\nError: ")
    assert said in result.stderr
    assert not re.search(r"Traceback|--\w+ --", result.stderr)


def test_a_sas_in_the_output_is_refused_and_not_shown(flow: Recorder) -> None:
    url = "https://account.blob.core.windows.net/results/x?sv=2024-01-01&se=2030-01-01&sr=c&sp=rwl&sig=c2VjcmV0"
    result = run("ok.sh", "in", "--output", url)
    assert (result.exit_code, flow.calls) == (1, [])
    assert result.stderr.startswith("\nError: --output https://account.blob.core.windows.net/results/x: ")
    assert "c2VjcmV0" not in result.output


def test_a_pipe_as_script_is_refused_at_once(folder: Path, flow: Recorder) -> None:
    os.mkfifo(folder / "pipe.sh")
    assert "is not a regular file" in run("pipe.sh", "in").stderr


@pytest.mark.parametrize(
    ("typed", "code"),
    [(["ok.sh", "in", "--output", "az://acc/con/*"], 1), (["crlf.sh", "in"], 1), (["ok.sh", "in", "--levle"], 2)],
)
def test_no_prefect_is_needed_to_refuse(typed: list[str], code: int, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(DATA.parent)}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *typed],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("Error: ")) == (code, "", 1), done.stderr
