"""No key, token or write signature gets out: of a run with faults, failures and a retry, all is searched.

The run has a Prefect server, a home, a folder for temporary files and a local Azure of its own, so what is searched is
what it left, byte for byte. A secret counts as found in any of the forms in which it could have been written. It
signs in to Batch with tokens of Entra ID and to Blob Storage with the account's key, so that it has all kinds.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from local_azure import faults
from tasks.run.groups import LARGEST_FILE
from tests.support.accounts import accounts_of, azure_with_faults
from tests.support.deployed import Deployed
from tests.support.paths import ROOT
from tests.support.polling import LIMIT, eventually

_SIGNATURE = re.compile(rb"sig=([A-Za-z0-9%+/=_-]{20,})")
_PERMISSIONS = re.compile(rb"\bsp=([a-z]+)")
_TOKEN = re.compile(rb"\beyJ[\w-]{16,}\.eyJ[\w-]{16,}\.[\w-]{16,}")  # of Entra ID, a JSON Web Token
_URL_PART = re.compile(rb"[^\s\"'<>()|\\]+")

# A run as `python -m flows.top_words` does one, in which Batch tasks of groups and of single files fail, and whose
# second try begins anew.
RUN = """
import sys
import tasks.job
from flows.top_words import top_words
from tasks.resources.bulk import add_all
from tasks.run.settings import CleanUp, Disposal, PoolSettings, TimeLimits

def add_some_that_fail(batch, job_id, tasks):
    for task in tasks:
        if task.id[-1] in "04":
            task.command_line = "/bin/sh -c 'env; env >&2; exit 3'"
        if task.id[-1] in "2":
            task.resource_files[0].http_url += "AAAA"
        if task.id[-1] in "5":
            task.output_files[0].destination.container.container_url += "AAAA"
    add_all(batch, job_id, tasks)

tasks.job.add_all = add_some_that_fail
state = top_words.with_options(retries=1, retry_delay_seconds=0)(
    inputs=[sys.argv[1]], top_n=2, pool=PoolSettings(dedicated_nodes=1, slots_per_node=4),
    output_folder=sys.argv[2], files_per_task=2, return_state=True,
)
print(repr(state.result(raise_on_failure=False)))
print(state)
"""


class Secrets:
    """What nobody may read, in the forms in which it could be written."""

    def __init__(self, named: Mapping[str, str]) -> None:
        self._forms = {
            form.encode(): name for name, value in named.items() for form in _forms(value) if len(form) >= 16
        }

    def found_in(self, data: bytes) -> list[str]:
        """The names of the secrets in the data, tokens, and each SAS signature there that is not of a read-only SAS."""
        named = [name for form, name in self._forms.items() if form in data]
        tokens = ["token"] if _TOKEN.search(data) else []
        return sorted({*named, *tokens, *(f"SAS sp={each}" for each in write_signatures(data))})


def _forms(value: str) -> set[str]:
    quoted = {value, quote(value, safe=""), quote(value), unquote(value), json.dumps(value)[1:-1]}
    return quoted | {base64.b64encode(value.encode()).decode().rstrip("="), quote(quote(value, safe=""), safe="")}


def write_signatures(data: bytes) -> list[str]:
    """The permissions of the SAS in the data that allow more than to read; `?` where it says none."""
    found = []
    for sas in _URL_PART.findall(data.replace(b"\\u0026", b"&").replace(b"&amp;", b"&")):
        if _SIGNATURE.search(sas):
            permissions = _PERMISSIONS.search(sas)
            granted = permissions[1].decode() if permissions else "?"
            found += [] if granted == "r" else [granted]
    return found


@dataclass(frozen=True, kw_only=True)
class Searched:
    """All that a run left or showed, by the place where it was."""

    output: bytes
    logs: bytes
    commands: Sequence[bytes]
    rows: Mapping[str, Sequence[bytes]]  # of the server's database, by table
    files: Mapping[str, bytes]  # that were left, by path
    state: Mapping[str, bytes]  # the files of the local Azure, by path
    secrets: Secrets


class _Processes(threading.Thread):
    """Reads the command lines of this process's descendants, again and again, until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.03):
            parents = dict(_parents())
            ours = {os.getpid()}
            while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
                ours |= more
            for pid in ours - {os.getpid()}:
                with suppress(OSError):  # it has just ended
                    self.seen.add(Path(f"/proc/{pid}/cmdline").read_bytes())

    def end(self) -> None:
        self._ended.set()
        self.join()


def _parents() -> Iterator[tuple[int, int]]:
    """Each process with its parent."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            yield int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("secrets")
    texts, results, temporary = (folder / name for name in ("texts", "results", "tmp"))
    for each in (texts, temporary):
        each.mkdir()
    for name in "abcd":  # two groups
        (texts / f"{name}.txt").write_text(f"{name} {name} once")
    for name in "efg":  # each too large for a group
        (texts / f"{name}.txt").write_text(f"{name} " * (LARGEST_FILE // 2 + 1))
    server = Deployed.starting(PREFECT_LOGGING_LEVEL="DEBUG", TMPDIR=str(temporary))
    try:
        local = tmp_path_factory.mktemp("azure")
        options = ("--tls", "--entra=accept")
        with azure_with_faults(local, *options) as settings, pytest.MonkeyPatch.context() as patch:
            keys = json.loads(next(local.glob("*/keys.json")).read_text())
            settings["AZURE_STORAGE_KEY"] = keys["storage"]
            accounts_of(settings, patch)
            for operation, status in (("create_job", 503), ("create_pool", 500), ("get_job_task_counts", 403)):
                faults.ask("requests", {"operation": operation, "status": status})
            faults.ask("requests", {"operation": "add_task_collection", "drop": True, "after_commit": True})
            eventually("the server", server.healthy)
            processes = _Processes()
            processes.start()
            done = subprocess.run(
                [sys.executable, "-c", RUN, str(texts), str(results)],
                cwd=ROOT,
                env={**server.environment, **settings},
                capture_output=True,
                timeout=LIMIT,
            )
            processes.end()
            state = {str(path): path.read_bytes() for path in files_below(local)}
        return Searched(
            output=done.stdout + done.stderr,
            logs=server.output("server").encode(),
            commands=sorted(processes.seen),
            rows=dict(rows_of(server.home / "prefect.db")),
            files={str(path): path.read_bytes() for path in files_below(server.home, results, temporary)},
            state=state,
            secrets=Secrets({**keys, "header": settings["IDENTITY_HEADER"]}),
        )
    finally:
        server.stop()


def files_below(*folders: Path) -> Iterable[Path]:
    return (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def rows_of(database: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Each table's rows as text; its bytes are searched besides, as a file."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            yield table, [repr(row).encode() for row in connection.execute(f'SELECT * FROM "{table}"')]


def test_the_run_was_as_rich_in_trouble_as_it_was_meant_to_be(searched: Searched) -> None:
    output = searched.output.decode()
    assert "TasksFailed: " in output, output
    for told in ("exited non-zero", "could not fetch its file", "could not upload", "AwaitingRetry", "DEBUG"):
        assert told in output, told
    assert len(searched.rows["flow_run"]) == 1
    for table in ("log", "artifact", "flow_run_state", "task_run_state"):
        assert len(searched.rows[table]) >= 5, table
    assert any(path.endswith("prefect.db") for path in searched.files)
    assert any(path.endswith("/stderr.txt") for path in searched.files)
    assert any(b"top_words.py" in command for command in searched.commands)


def test_nothing_that_the_run_said_holds_a_secret(searched: Searched) -> None:
    assert searched.secrets.found_in(searched.output) == []
    assert searched.secrets.found_in(searched.logs) == []


def test_no_command_line_holds_a_secret(searched: Searched) -> None:
    found = {command: searched.secrets.found_in(command) for command in searched.commands}
    assert {command: names for command, names in found.items() if names} == {}
    assert not [command for command in searched.commands if b"sig=" in command]


def test_the_database_of_prefect_holds_no_secret(searched: Searched) -> None:
    for table, rows in searched.rows.items():
        for row in rows:
            assert searched.secrets.found_in(row) == [], f"{table}: {row[:200]!r}"


def test_read_only_signatures_are_only_in_their_artifact(searched: Searched) -> None:
    signed = {table: [row for row in rows if _SIGNATURE.search(row)] for table, rows in searched.rows.items()}
    # The server keeps an artifact twice, and tells of it in an event with all of its text.
    assert {table for table, rows in signed.items() if rows} <= {"artifact", "artifact_collection", "events"}
    assert signed["artifact"]
    assert all(re.search(rb"""['"]sas-links['"]""", row) for rows in signed.values() for row in rows)
    assert all(b"prefect.artifact-collection." in row for row in signed["events"])
    assert not _SIGNATURE.search(searched.output)


def with_secrets(searched: Searched, *, logs: bool) -> dict[str, list[str]]:
    """The files with secrets, of the downloaded logs of Batch tasks or of all others."""
    files = {path: data for path, data in searched.files.items() if ("/logs/" in path) == logs}
    assert files
    found = {path: searched.secrets.found_in(data) for path, data in files.items()}
    for path in found:  # a page of the database may end within a URL; its rows are searched as they are
        if ".db" in Path(path).name:
            found[path] = [name for name in found[path] if name != "SAS sp=?"]
    return {path: names for path, names in found.items() if names}


def test_no_file_that_the_run_left_holds_a_secret(searched: Searched) -> None:
    assert with_secrets(searched, logs=False) == {}


def test_a_token_that_a_batch_task_printed_is_not_downloaded(searched: Searched) -> None:
    assert with_secrets(searched, logs=True) == {}


def test_the_local_azure_stores_no_token(searched: Searched) -> None:
    stored = [path for path, data in searched.state.items() if _TOKEN.search(data)]
    assert (stored, any(path.endswith("/batch.db") for path in searched.state)) == ([], True)


# The search itself.


PLANTED = "bm90LXJlYWxseS1hLWtleS8rYnV0LWxvbmctZW5vdWdo/+=="
WRITE = "sv=2025&sr=c&sp=cw&sig=QUJDREVGR0hJSktMTU5PUFFSU1RVVg%3D%3D"


@pytest.mark.parametrize(
    "text",
    [
        f"key {PLANTED} in a sentence",
        quote(PLANTED, safe=""),
        json.dumps({"deep": [f"AccountKey={PLANTED};"]}),
        base64.b64encode(PLANTED.encode()).decode(),
        quote(quote(PLANTED, safe=""), safe=""),
    ],
    ids=["plain", "quoted", "json", "base64", "quoted twice"],
)
def test_a_planted_key_would_be_found(text: str) -> None:
    assert Secrets({"planted": PLANTED}).found_in(f"before {text} after".encode()) == ["planted"]


@pytest.mark.parametrize("text", [WRITE, WRITE.replace("&", "\\u0026"), f"[x](http://h/c/b?{WRITE})", f"'{WRITE}'"])
def test_a_planted_write_signature_would_be_found(text: str) -> None:
    assert Secrets({}).found_in(text.encode()) == ["SAS sp=cw"]


def test_a_planted_token_would_be_found() -> None:
    part = base64.urlsafe_b64encode(b'{"aud":"https://storage.azure.com/"}').decode().rstrip("=")
    for text in (f"Bearer {part}.{part}.{part}", json.dumps({"access_token": f"{part}.{part}.{part}"})):
        assert Secrets({}).found_in(text.encode()) == ["token"]


def test_a_signature_is_a_secret_unless_it_is_read_only() -> None:
    assert Secrets({}).found_in(WRITE.replace("sp=cw", "sp=r").encode()) == []
    assert Secrets({}).found_in(WRITE.replace("sp=cw&", "").encode()) == ["SAS sp=?"]


def test_a_secret_that_is_planted_in_a_database_row_would_be_found(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as connection:
        connection.execute("CREATE TABLE log (message TEXT, data BLOB)")
        connection.execute("INSERT INTO log VALUES (?, ?)", ("harmless", PLANTED.encode()))
        connection.commit()
    ((table, (row,)),) = rows_of(tmp_path / "prefect.db")
    assert (table, Secrets({"planted": PLANTED}).found_in(row)) == ("log", ["planted"])


def test_a_secret_in_a_command_line_would_be_seen() -> None:
    processes = _Processes()
    processes.start()
    with subprocess.Popen([sys.executable, "-c", "input()", PLANTED], stdin=subprocess.PIPE) as process:
        eventually("the process being seen", lambda: any(PLANTED.encode() in each for each in processes.seen))
        process.communicate(b"\n")
    processes.end()
