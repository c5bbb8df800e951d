"""What a benchmark runs against: a local Azure and a Prefect server, as processes of their own, and their memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT = 120.0  # seconds
NOT_INHERITED = ("AZURE_", "PREFECT_")


def environment(**values: str) -> dict[str, str]:
    """This process's environment without its own accounts and Prefect settings, and with these values."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    loopback = "127.0.0.1,localhost"  # requests to it go through no proxy
    return {**inherited, "NO_PROXY": loopback, "no_proxy": loopback, **values}


@dataclass(frozen=True, kw_only=True)
class LocalAzure:
    """A running local Azure: its settings and its two processes."""

    settings: dict[str, str] = field(repr=False)  # with the keys
    batch: int  # process id
    azurite: int  # process id

    @property
    def blob_endpoint(self) -> str:
        return self.settings["AZURE_STORAGE_CONNECTION_STRING"].partition("BlobEndpoint=")[2].partition(";")[0]

    def through(self, endpoint: str) -> dict[str, str]:
        """The settings with another endpoint for Blob Storage."""
        return {name: value.replace(self.blob_endpoint, endpoint) for name, value in self.settings.items()}


@contextmanager
def local_azure(folder: Path) -> Iterator[LocalAzure]:
    """Run a local Azure on free ports, with its data in the folder, while the context lasts."""
    command = [sys.executable, "-m", "local_azure", "--batch-port=0", "--blob-port=0", "--until-stdin-closes"]
    with subprocess.Popen(
        [*command, "--data", str(folder)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            settings = dict(process.stdout.readline().rstrip("\n").split("=", 1) for _ in range(5))
            azurite = next(pid for pid in process_tree(process.pid) if _program(pid) == "node")
            yield LocalAzure(settings=settings, batch=process.pid, azurite=azurite)
        finally:
            process.stdin.close()


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server, with its database in the folder, while the context lasts; yields its clients' settings."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"PREFECT_HOME": str(folder), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    own = {**settings, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, env=environment(**own), stdout=log, stderr=log) as process,
    ):
        try:
            _wait_until_healthy(settings["PREFECT_API_URL"], process)
            yield settings
        finally:
            process.terminate()


def _wait_until_healthy(api: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < limit:
        with suppress(httpx.TransportError):
            if httpx.get(f"{api}/health", trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise SystemExit("the Prefect server did not start")


# --- processes --------------------------------------------------------------------------------------------


def process_tree(pid: int) -> Iterator[int]:
    """The process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            for child in children.read_text().split():
                yield from process_tree(int(child))


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/exe").resolve().name


def peak_kb(pid: int) -> int:
    """The most resident memory of the process until now, or since forget_peak(), in kB."""
    return _memory(pid, "VmHWM")


def resident_kb(pid: int) -> int:
    return _memory(pid, "VmRSS")


def _memory(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
