"""Runs Azurite, the Blob Storage of the local Azure, on the Node.js from PyPI."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from local_azure.batch.node.command import Command, Outcome
from local_azure.batch.node.runner import Runner
from local_azure.batch.state.access import TENANT
from local_azure.installation import PACKAGE, AzuriteFailed, ensure_installed, node

ACCESS = PACKAGE / "access.js"  # what Azure checks, and Azurite does not

# Azurite saves its list of containers and blobs every 5 seconds, without a setting for it, and on SIGTERM. It gets the
# time to do so also when this process is killed.
AUTOSAVE = 5  # seconds
_SAVE_LIMIT = 10.0  # seconds
_START_LIMIT = 60.0  # seconds; it usually takes half a second
_POLL_INTERVAL = 0.02  # seconds, while it starts
_LISTENING = re.compile(r"successfully listens on (https?://127\.0\.0\.1:\d+)")


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
    program = ensure_installed() / "dist" / "src" / "blob"
    return Command(
        command_line=shlex.join([str(node()), "--require", str(ACCESS), str(program / "main.js"), *words]),
        working_directory=data,
        stdout=_output(data),
        stderr=_output(data).with_suffix(".err"),
        environment={
            "AZURITE_ACCOUNTS": f"{account}:{key}",
            "LOCAL_AZURE_BLOB": str(program),
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
