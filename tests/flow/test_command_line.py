"""python -m flows.top_words as a person uses it: a process of its own, and nothing left of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from tasks.accounts.clients import Azure
from tests.support.accounts import list_leftovers
from tests.support.deployed import migrated_database
from tests.support.paths import DATA, ROOT
from tests.support.polling import LIMIT, wait_until


@pytest.fixture
def environment(no_azure: None, tmp_path: Path) -> dict[str, str]:
    """A home for Prefect and a directory for temporary files, both empty."""
    (tmp_path / "tmp").mkdir()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
    }


@pytest.fixture
def served(environment: dict[str, str], prefect_server: None) -> dict[str, str]:
    """The same, reporting to a Prefect server that runs already."""
    return {**environment, "PREFECT_API_URL": str(get_current_settings().api.url)}


def start(environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.top_words", *arguments],
        cwd=Path(environment["TMPDIR"]).parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(command: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = command.communicate(timeout=LIMIT)
    return command.returncode, output


def processes_using(path: str) -> list[str]:
    """The processes that have the path in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if path.encode() in text and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def read_until(command: subprocess.Popen[str], text: str) -> str:
    assert command.stdout
    read = ""
    for line in command.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"ended without {text!r}:\n{read}")


def test_without_an_account_it_runs_locally_and_leaves_only_results(
    environment: dict[str, str], tmp_path: Path
) -> None:
    # Nothing answers at the proxy: what runs on this machine is not to be asked through it.
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9")
    code, output = finished(start({**environment, **proxies}, str(DATA), "--top-n", "1"))
    assert code == 0, output
    assert output.startswith("Input: 3 files; starting Prefect and the embedded local Azure\n")
    assert "running on the embedded local Azure" in output
    assert re.search(r"^ *clouds\.txt +1 +the +16 +topNtask0 +tvmps_", output, re.MULTILINE)
    assert re.search(r"^ *1 +the +64 +64 +3$", output, re.MULTILINE)
    assert re.search(r"^Elapsed time: [\d.]+ s\. Results: results/top-words-[0-9a-f]{12}$", output, re.MULTILINE)
    assert re.search(r"make ui, then http://127\.0\.0\.1:4200/v2/runs/flow-run/[0-9a-f-]{36}$", output, re.MULTILINE)
    assert re.search(
        r"^Report: make ui, then http://127\.0\.0\.1:4200/v2/artifacts/artifact/[0-9a-f-]{36}$", output, re.MULTILINE
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prefect", "results", "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_using(str(tmp_path)) == []


def test_ctrl_c_stops_the_run_and_leaves_nothing_running(served: dict[str, str], tmp_path: Path) -> None:
    command = start(served, str(DATA), "--delay", "600")
    read_until(command, "2 running")
    command.send_signal(signal.SIGINT)
    code, output = finished(command)
    assert code != 0
    for said in ("output: deleted", "Job top-words-", "Pool top-words-"):
        assert said in output, output
    wait_until(lambda: not processes_using(str(tmp_path)))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_closed_terminal_ends_the_run_and_all_that_it_started(
    environment: dict[str, str], azure: Azure, tmp_path: Path
) -> None:
    before = {each.name for each in list_leftovers(azure)}
    (tmp_path / "prefect").mkdir()
    shutil.copy(migrated_database(), tmp_path / "prefect" / "prefect.db")
    accounts = {name: value for name, value in os.environ.items() if name.startswith("AZURE_")}
    command = start({**environment, **accounts}, str(DATA), "--delay", "600")
    read_until(command, "2 running")
    assert {each.name for each in list_leftovers(azure)} > before
    assert command.stdout
    command.stdout.close()
    os.killpg(command.pid, signal.SIGHUP)  # the terminal sends it to each of its processes
    assert command.wait(LIMIT) == 128 + signal.SIGTERM
    assert {each.name for each in list_leftovers(azure)} == before
    assert processes_using(str(tmp_path)) == []


def test_the_local_azure_does_not_outlive_a_flow_that_is_killed(served: dict[str, str], tmp_path: Path) -> None:
    command = start(served, str(DATA), "--delay", "600")
    read_until(command, "2 running")
    command.kill()
    command.wait()
    local = "local_azure"
    wait_until(lambda: not [line for line in processes_using(str(tmp_path)) if local in line or "sleep" in line])


def test_a_dead_prefect_server_is_named_with_the_fix(environment: dict[str, str]) -> None:
    code, output = finished(start({**environment, "PREFECT_API_URL": "http://127.0.0.1:9/api"}, str(DATA)))
    assert code == 1
    assert output.splitlines()[-1] == (
        "Error: no Prefect server answers at http://127.0.0.1:9/api (PREFECT_API_URL): [Errno 111] Connection refused. "
        "Start it (`make ui` starts one on this machine), or run without it after `unset PREFECT_API_URL`"
    )


def test_a_home_that_cannot_be_written_is_named_with_the_fix(environment: dict[str, str]) -> None:
    code, output = finished(start({**environment, "PREFECT_HOME": "/proc/home"}, str(DATA)))
    assert (code, output.splitlines()[-1]) == (
        1,
        "Error: Prefect cannot write its database in /proc/home (No such file or directory); set PREFECT_HOME to a "
        "writable folder",
    )


def test_bad_input_ends_the_command_at_once_with_one_readable_message(environment: dict[str, str]) -> None:
    code, output = finished(start(environment, "no/such/*.txt"))
    assert code == 1
    assert output.strip().startswith("Error: input 'no/such/*.txt': no file matches")
    assert "Traceback" not in output


def test_a_wrong_option_is_named(environment: dict[str, str]) -> None:
    code, output = finished(start(environment, str(DATA), "--nodes", "-1"))
    assert (code, output.strip()) == (1, "Error: --nodes: Input should be greater than or equal to 0")


def test_help_says_what_it_does_and_where_it_runs(environment: dict[str, str]) -> None:
    code, output = finished(start(environment, "--help"))
    assert code == 0
    for said in ("one Batch task per file", "AZURE_BATCH_ACCOUNT", "embedded local Azure", "--keep-pool", "--nodes"):
        assert said in output
