"""python -m local_azure: both services in the foreground, for as long as they are wanted."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from azure.batch.models import BatchTaskContainerSettings
from azure.core.pipeline.transport import HttpTransport

from local_azure import embedded
from local_azure.__main__ import BATCH_PORT, BLOB_PORT
from local_azure.data import data_directory, remove_abandoned
from local_azure.embedded import embedded_azure
from local_azure.installation import node
from local_azure.loopback import TRUST
from tasks.accounts.clients import Azure
from tasks.errors.service import EmbeddedAzureEnded
from tasks.resources.clean_up import clean_up_after
from tasks.run.identity import Run
from tasks.run.settings import CleanUp, TimeLimits
from tests.support.batch_service import create_job, create_pool, pool_options, run_task, wait_for_nodes
from tests.support.containers import IMAGE, machine
from tests.support.paths import ROOT
from tests.support.polling import LIMIT, wait_until

NAMES = [
    "AZURE_BATCH_ACCOUNT",
    "AZURE_BATCH_ENDPOINT",
    "AZURE_BATCH_ACCESS_KEY",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_CONNECTION_STRING",
]


class LocalAzure:
    """The command, once it has printed its settings."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "local_azure", "--port=0", *arguments]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.lines = [line.rstrip("\n") for line in (self.process.stdout.readline() for _ in NAMES) if line]
        self.settings = dict(line.split("=", 1) for line in self.lines)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=LIMIT)
        return self.process.returncode


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LocalAzure]]:
    started: list[LocalAzure] = []
    (tmp_path / "tmp").mkdir()

    def start_one(*arguments: str) -> LocalAzure:
        started.append(LocalAzure(tmp_path / "tmp", *arguments))
        return started[-1]

    yield start_one
    for each in started:
        if each.process.poll() is None:
            each.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAzure]:
    """One for the tests that only look at it."""
    local = LocalAzure(tmp_path_factory.mktemp("running"))
    yield local
    local.stop()


def containers(settings: dict[str, str]) -> list[str]:
    azure = Azure.from_environment(settings)
    assert azure is not None
    with azure.blobs() as blobs:
        return [container.name for container in blobs.list_containers()]


def pools(settings: dict[str, str]) -> list[str]:
    azure = Azure.from_environment(settings)
    assert azure is not None
    with azure.batch() as batch:
        return [pool.id for pool in batch.list_pools()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_prints_five_working_settings_and_a_signal_ends_it_all(
    number: int, start: Callable[..., LocalAzure], tmp_path: Path
) -> None:
    local = start()
    assert list(local.settings) == NAMES
    assert (containers(local.settings), pools(local.settings)) == ([], [])
    assert local.stop(number) == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_settings_file_is_private_and_deleted_with_the_services(
    start: Callable[..., LocalAzure], tmp_path: Path
) -> None:
    file = tmp_path / "local.env"
    file.write_text("AZURE_BATCH_ACCOUNT=of an earlier one\n")
    file.chmod(0o644)
    local = start("--env-file", str(file))
    assert file.read_text().splitlines() == local.lines
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    local.stop()
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--env-file", "{}/mine.env"],
            "local Azure: --env-file {}/mine.env: the file exists and was not written by a local",
        ),
        (["--env-file", "{}/none/x.env"], "local Azure: --env-file {}/none/x.env: the folder {}/none does not exist"),
        (["--data", "{}/broken"], "local Azure: {}/broken/keys.json does not contain account keys: delete it"),
        (["--data", "{}/damaged"], "local Azure: {}/damaged/batch/batch.db cannot be used: file is not a database."),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    arguments: list[str], said: str, start: Callable[..., LocalAzure], tmp_path: Path
) -> None:
    (tmp_path / "mine.env").write_text("MY=1\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "keys.json").write_text("{}")
    (tmp_path / "damaged" / "batch").mkdir(parents=True)
    (tmp_path / "damaged" / "batch" / "batch.db").write_bytes(b"\xff" * 8192)
    local = start(*(argument.format(tmp_path) for argument in arguments))
    _, error = local.process.communicate(timeout=LIMIT)
    assert (local.process.returncode, error[: len(said.format(*[tmp_path] * 2))]) == (1, said.format(*[tmp_path] * 2))
    assert (tmp_path / "mine.env").read_text() == "MY=1\n"


@pytest.mark.parametrize("option", ["--batch-port", "--blob-port"])
def test_a_port_that_is_taken_is_named_with_its_option(option: str, start: Callable[..., LocalAzure]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        _, error = start(f"{option}={port}").process.communicate(timeout=LIMIT)
    free = "or take free ones with --port 0"
    assert error == f"local Azure: port {port} is in use: give another with {option}; {free}\n"


def test_without_options_each_default_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for port in (BATCH_PORT, BLOB_PORT):
            with suppress(OSError):  # taken by something else
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        done = subprocess.run([sys.executable, "-m", "local_azure"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "local Azure: port 10100 is in use: give another with --batch-port; "
        "port 10000 is in use: give another with --blob-port; or take free ones with --port 0\n"
    )


def test_one_port_for_both_services_is_refused(start: Callable[..., LocalAzure]) -> None:
    _, error = start("--batch-port=10100", "--blob-port=10100").process.communicate(timeout=LIMIT)
    assert error == "local Azure: --batch-port and --blob-port are both 10100; give two different ports\n"


def test_with_tls_its_settings_make_clients_trust_it(
    start: Callable[..., LocalAzure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "local.env"
    start("--tls", "--env-file", str(file))
    settings = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert list(settings) == [*NAMES, *TRUST]
    endpoint = settings["AZURE_BATCH_ENDPOINT"]
    assert endpoint.startswith("https://127.0.0.1:")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert (containers(settings), pools(settings)) == ([], [])
    with pytest.raises(urllib.error.HTTPError, match="403"):  # the standard library, and the other name
        urllib.request.urlopen(endpoint.replace("127.0.0.1", "localhost"), timeout=LIMIT)
    program = f"fetch('{endpoint}').then(answer => console.log(answer.status))"
    assert subprocess.run([node(), "-e", program], capture_output=True, text=True, check=True).stdout == "403\n"


def test_tokens_without_tls_are_refused_at_the_start(start: Callable[..., LocalAzure]) -> None:
    _, error = start("--entra=accept").process.communicate(timeout=LIMIT)
    assert error == "local Azure: --entra needs --tls: clients send no token over plain http\n"


def test_containers_on_the_host_are_warned_of_at_the_start_and_for_each_task(start: Callable[..., LocalAzure]) -> None:
    local = start("--containers=host")
    azure = Azure.from_environment(local.settings)
    assert azure is not None
    with azure.batch() as client:
        create_pool(client, virtual_machine_configuration=machine())
        create_job(client)
        ended = run_task(client, "/bin/true", container_settings=BatchTaskContainerSettings(image_name=IMAGE))
    assert (ended.execution_info.exit_code, ended.execution_info.result) == (0, "success")
    local.process.send_signal(signal.SIGTERM)
    assert local.process.communicate(timeout=LIMIT)[1].splitlines() == [
        "local Azure: --containers host: tasks with containerSettings run on this machine, with its programs and "
        "without isolation, not in their images",
        f"Task task: runs on this machine, not in a container of {IMAGE}",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_data_directory_keeps_keys_and_blobs_over_a_restart(
    number: int, start: Callable[..., LocalAzure], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    first = start("--data", str(data))
    azure = Azure.from_environment(first.settings)
    assert azure is not None
    with azure.blobs() as blobs:
        blobs.create_container("kept")
    first.stop(number)
    second = start("--data", str(data))
    assert second.settings["AZURE_BATCH_ACCESS_KEY"] == first.settings["AZURE_BATCH_ACCESS_KEY"]
    assert containers(second.settings) == ["kept"]
    files = {path for path in data.rglob("*") if path.is_file() and not path.is_relative_to(data / "batch" / "python")}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in {data, *data.rglob("*")} if path.is_dir()} == {0o700}
    second.stop()
    assert not (data / "blob" / "azurite.killed").exists()


def test_blob_storage_that_was_killed_is_named_by_the_next_start(
    start: Callable[..., LocalAzure], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    first = start("--data", str(data))
    (azurite,) = (path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if f"{data}/blob" in read(path))
    os.kill(int(azurite.name), signal.SIGKILL)
    _, said = first.process.communicate(timeout=LIMIT)
    assert (first.process.returncode, said.split(":")[:2]) == (1, ["local Azure", " Azurite exited unexpectedly"])
    with socket.create_server(("127.0.0.1", 0)) as taken:  # a start that fails must not take the message with it
        failed = start("--data", str(data), f"--blob-port={taken.getsockname()[1]}")
        message = "is in use: give another with --blob-port"
        assert message in failed.process.communicate(timeout=LIMIT)[1]
    second = start("--data", str(data))
    second.process.terminate()
    _, said = second.process.communicate(timeout=LIMIT)
    assert said == (
        f"local Azure: {data}/blob: Blob Storage was killed before it could save; changes of its last 5 seconds "
        "to containers and blobs may be lost\n"
    )
    third = start("--data", str(data))
    third.process.terminate()
    assert third.process.communicate(timeout=LIMIT)[1] == ""


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # that process has ended
        return ""


def test_two_data_directories_have_different_keys(running: LocalAzure, azure_settings: dict[str, str]) -> None:
    keys = {settings["AZURE_BATCH_ACCESS_KEY"] for settings in (running.settings, azure_settings)}
    assert len(keys) == 2


def test_a_second_one_on_the_same_data_directory_is_refused(start: Callable[..., LocalAzure], tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    start("--data", data)
    second = start("--data", data)
    _, said = second.process.communicate(timeout=LIMIT)
    assert (second.process.returncode, second.lines) == (1, [])
    assert said == f"local Azure: {data} is in use by another local Azure: stop it, or give another --data\n"


def test_keys_are_on_no_command_line(running: LocalAzure) -> None:
    settings = running.settings
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    for secret in (settings["AZURE_BATCH_ACCESS_KEY"], settings["AZURE_STORAGE_CONNECTION_STRING"].split(";")[3]):
        assert not any(secret.encode() in line for line in lines)


def test_azurite_does_not_survive_a_service_that_is_killed(start: Callable[..., LocalAzure], tmp_path: Path) -> None:
    local = start()

    def left() -> list[str]:
        lines = [path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        return [line for line in lines if str(tmp_path) in line]

    assert len(left()) == 1
    (abandoned,) = (tmp_path / "tmp").glob("local-azure-*")
    local.stop(signal.SIGKILL)
    wait_until(lambda: not left())
    assert abandoned.exists()
    start()  # removes it
    assert not abandoned.exists()


def test_only_abandoned_directories_of_a_local_azure_are_removed(tmp_path: Path) -> None:
    names = ["local-azure-abandoned", "local-azure-used", "local-azure-without-lock", "other-abandoned"]
    for name in names:
        (tmp_path / name / "nodes" / "read-only").mkdir(parents=True)
        (tmp_path / name / "nodes" / "read-only" / "file").touch()
        (tmp_path / name / "nodes" / "read-only").chmod(0o500)
        if name != "local-azure-without-lock":
            (tmp_path / name / "lock").touch()
    (tmp_path / "local-azure-link").symlink_to(tmp_path / "other-abandoned")
    with (tmp_path / "local-azure-used" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local-azure-link", *names[1:]]
    assert all((tmp_path / name / "nodes" / "read-only" / "file").exists() for name in names[1:])


def test_a_temporary_directory_is_marked_as_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with data_directory(None) as mine:
        remove_abandoned(tmp_path)
        assert [path.name for path in mine.iterdir()] == ["lock"]
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_one_ends_with_its_last_reference(tmp_path: Path) -> None:
    azure = embedded.LocalAzure("--data", str(tmp_path / "data"))
    assert list(azure.settings) == NAMES
    del azure
    with data_directory(tmp_path / "data"):  # raises DataDirectoryInUse as long as it runs
        pass


@pytest.mark.parametrize(("options", "code"), [(["--nonsense"], 2), ([], 0)])
def test_an_embedded_one_without_settings_raises(options: list[str], code: int) -> None:
    azure = embedded.LocalAzure(*options)
    if code == 0:
        azure.stop()
    for _ in range(2):
        with pytest.raises(embedded.LocalAzureFailed, match=rf"did not start \(exit code {code}\)"):
            azure.settings  # noqa: B018


def test_nobody_waits_for_an_embedded_one_that_was_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, duration: pytest.fail("it waits"))
    with embedded_azure() as settings:
        azure = Azure.from_environment(settings)
        assert azure is not None
        process = embedded._running[-1]._process
        process.kill()
        process.wait()
        with azure.batch() as batch, pytest.raises(EmbeddedAzureEnded, match=r"ended \(exit code -9\)") as error:
            batch.get_pool("any")
        assert not error.value.transient
        with caplog.at_level(logging.INFO):
            clean_up_after(
                azure,
                Run.start("0190f3e2-7c5b-7a30-9d1c-2b8f0e6a4d11", "top-words", TimeLimits()),
                CleanUp(),
                logging.getLogger("tests"),
            )
        assert [
            record.message for record in caplog.records if record.name == "tests"
        ] == []  # nothing is left that a warning could tell of


def ask(settings: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "local_azure.faults", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_faults_are_refused_unless_asked_for_at_the_start(running: LocalAzure) -> None:
    code, said = ask(running.settings, "clock", "advance=PT1H")
    assert code == 1
    assert "InvalidUri" in said


def test_minutes_of_azure_pass_when_the_clock_is_moved(start: Callable[..., LocalAzure]) -> None:
    settings = start("--timings", "azure", "--faults").settings
    azure = Azure.from_environment(settings)
    assert azure is not None
    with azure.batch() as batch:
        batch.create_pool(pool_options())
        (creating,) = wait_for_nodes(batch, "pool", "creating")
        assert ask(settings, "clock", "advance=PT10M")[0] == 0
        (idle,) = wait_for_nodes(batch, "pool", "idle")
    assert creating.allocation_time is not None
    assert idle.state_transition_time is not None
    assert idle.state_transition_time - creating.allocation_time == timedelta(minutes=4)


def test_faults_come_from_the_command_line_and_the_sdk_gets_over_them(start: Callable[..., LocalAzure]) -> None:
    settings = start("--faults").settings
    assert ask(settings, "requests", "operation=list_pools", "status=503", "times=2")[0] == 0
    assert pools(settings) == []  # at the third try
    code, said = ask(settings, "clock", "advance=sometime")
    assert code == 1
    assert "InvalidPropertyValue" in said
