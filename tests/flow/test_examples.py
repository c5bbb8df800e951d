"""The examples: each by the command that its page shows, and what their scripts count."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from prefect.settings import get_current_settings

import top_words
from tests.support.paths import ROOT
from tests.support.polling import LIMIT

PAGE = (ROOT / "examples" / "README.md").read_text()
TABLE = [
    ["file", "ERROR", "WARNING", "INFO", "DEBUG", "other"],
    ["api.log", "2", "1", "6", "1", "4"],
    ["scheduler.log", "0", "1", "3", "1", "0"],
    ["worker.log", "3", "1", "3", "0", "0"],
]


def commands() -> dict[str, list[str]]:
    """The arguments of each command on the page, by the name of its script."""
    shown = re.findall(r"^ {4}.*-m (flows\.run_script (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    found = [shlex.split(command.replace("\\\n", " ")) for command in shown]
    return {Path(arguments[1]).name: arguments for arguments in found}


def run(arguments: Sequence[str], results: Path, azure_settings: dict[str, str]) -> Path:
    """The results folder of the command, on the session's local Azure and Prefect server."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    command = [sys.executable, "-m", *arguments[:at], "--output", str(results), *arguments[at:]]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        **azure_settings,
        "PREFECT_API_URL": str(get_current_settings().api.url),
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = results.iterdir()
    return folder


@pytest.mark.usefixtures("prefect_server")
def test_log_levels_are_joined_into_the_table_of_the_page(azure_settings: dict[str, str], tmp_path: Path) -> None:
    folder = run(commands()["count_levels.py"], tmp_path, azure_settings)
    assert list(csv.reader((folder / "table.csv").open())) == TABLE
    shown = [line.split() for line in PAGE.splitlines() if re.match(r" {4} *\S+\.log|.* ERROR  ", line)]
    assert shown == TABLE


@pytest.mark.usefixtures("prefect_server")
def test_thumbnails_are_made_with_a_package_that_the_script_names(
    azure_settings: dict[str, str], tmp_path: Path
) -> None:
    module, script, _, *rest = commands()["thumbnail.py"]
    folder = run([module, script, "docs/images/run.png", *rest], tmp_path, azure_settings)
    assert list(csv.reader((folder / "table.csv").open()))[1:] == [["run.png", "1280", "800", "RGB"]]
    header = (folder / "run.png" / "run.png").read_bytes()[16:24]
    assert struct.unpack(">II", header) == (200, 125)


def test_a_line_of_shell_leaves_the_checksum_of_its_file(tmp_path: Path) -> None:
    script = ROOT / commands()["checksum.sh"][1]
    text = ROOT / "data" / "clouds.txt"
    subprocess.run([script, text], env={**os.environ, "OUTPUT_DIR": str(tmp_path)}, check=True)
    assert (tmp_path / "sha256").read_text() == f"{hashlib.sha256(text.read_bytes()).hexdigest()}\n"


# What the script of the log levels counts.


@pytest.fixture(scope="module")
def levels() -> ModuleType:
    spec = spec_from_file_location("count_levels", ROOT / "examples" / "log_levels" / "count_levels.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_line_counts_for_the_first_level_that_it_holds_as_a_word(levels: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"INFO then ERROR\nERRORS\n\xff\xfe ERROR\n\nDEBUG")
    assert levels.count(str(log), ["ERROR", "INFO"]) == {"ERROR": 1, "INFO": 1, "other": 3}


def test_log_lines_in_utf_16_and_32_are_counted(levels: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    text = "\ufeffINFO naïve\nWARNING: ERROR\r\nnothing\n"
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"):
        log.write_bytes(text.encode(encoding))
        counts = levels.count(str(log), ["ERROR", "WARNING", "INFO"])
        assert counts == {"ERROR": 0, "WARNING": 1, "INFO": 1, "other": 1}


def test_a_binary_log_is_refused(levels: ModuleType, tmp_path: Path) -> None:
    assert levels.NOT_TEXT == top_words.NOT_TEXT == 65
    log = tmp_path / "a.log"
    for data in (gzip.compress(b"ERROR"), b"ERROR\0\0", "ERROR\n".encode("utf-16-le")):
        log.write_bytes(data)
        with pytest.raises(levels.NotText):
            levels.count(str(log), ["ERROR"])
    log.write_bytes(codecs.BOM_UTF16_LE)
    assert levels.count(str(log), ["ERROR"]) == {"ERROR": 0, "other": 0}


def test_the_script_names_the_file_that_is_not_text(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(codecs.BOM_UTF8 + b"\0\0")
    script = ROOT / "examples" / "log_levels" / "count_levels.py"
    environment = {**os.environ, "OUTPUT_DIR": str(tmp_path)}
    command = [sys.executable, str(script), "ERROR", str(log)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 65
    assert done.stderr.startswith(f"{str(log)!r} is not text: it holds NUL bytes")
