"""local-azure: run Blob Storage and the Batch service in the foreground, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import itertools
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_azure import accounts
from local_azure.azurite import AUTOSAVE, Azurite, azurite
from local_azure.batch.http.server import (
    Account,
    AutoStorage,
    Containers,
    DataDirectoryInUse,
    Profile,
    UnusableState,
    serve,
)
from local_azure.batch.state.paths import write_private
from local_azure.data import data_directory
from local_azure.installation import AzuriteFailed, ensure_installed
from local_azure.loopback import bypass_proxies, past_proxies
from local_azure.security import Security, SignIn

BLOB_PORT = 10000  # Azurite's usual one
BATCH_PORT = 10100
_PORTS = {"--batch-port": BATCH_PORT, "--blob-port": BLOB_PORT, "--identity-port": 0}
_ON_HOST = (
    "--containers host: tasks with containerSettings run on this machine, with its programs and without isolation, "
    "not in their images"
)
_LOSS = (
    "Blob Storage was killed before it could save; changes of its last "
    f"{AUTOSAVE} seconds to containers and blobs may be lost"
)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="local-azure", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="directory for all state (default: a temporary one)")
    parser.add_argument(
        "--port", type=_any_port, metavar="0", help="take free ports, where an option does not name another"
    )
    parser.add_argument("--batch-port", type=_port, metavar="N", help=f"0 for a free one (default: {BATCH_PORT})")
    parser.add_argument("--blob-port", type=_port, metavar="N", help=f"0 for a free one (default: {BLOB_PORT})")
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="also write the settings to this file (mode 0600); it is removed at exit",
    )
    parser.add_argument("--tls", action="store_true", help="serve over https, with a certificate made for loopback")
    parser.add_argument(
        "--entra",
        choices=[mode.value for mode in SignIn],
        help="take tokens of an identity endpoint, which DefaultAzureCredential finds, beside the keys (accept) or "
        "instead of them (only); needs --tls",
    )
    parser.add_argument(
        "--identity-port",
        type=_port,
        metavar="N",
        help="of the identity endpoint, which is http (default: a free one)",
    )
    parser.add_argument(
        "--containers",
        choices=[where.value for where in Containers],
        default=Containers.ENGINE.value,
        help="run tasks with containerSettings by the container engine of this machine, or on this machine itself "
        "(host), with its programs instead of their images (default: %(default)s)",
    )
    parser.add_argument(
        "--timings",
        choices=[profile.value for profile in Profile],
        default=Profile.FAST.value,
        help="how long nodes take to start and things to be deleted: some hundredths of a second (fast), or minutes as "
        "in Azure (azure), through which `local_azure.faults clock` moves (default: %(default)s)",
    )
    parser.add_argument("--faults", action="store_true", help="let clients inject faults; see local_azure.faults")
    parser.add_argument("--until-stdin-closes", action="store_true", help="exit when stdin closes, as the parent ends")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 0 to 65535")
    return int(text)


def _any_port(text: str) -> int:
    if text != "0":
        raise argparse.ArgumentTypeError(f"{text!r} is not 0: give a port with --batch-port or --blob-port")
    return 0


def main() -> int:
    options = arguments().parse_args()
    bypass_proxies(os.environ)  # before any HTTP client
    try:
        _check_env_file(options.env_file)
        if options.entra and not options.tls:
            raise accounts.Unusable("--entra needs --tls: clients send no token over plain http")
        _choose_ports(options)
        ensure_installed()
        with data_directory(options.data) as data:
            return asyncio.run(_run(options, data))
    except (AzuriteFailed, DataDirectoryInUse, UnusableState, accounts.Unusable, OSError) as error:
        print(f"local Azure: {error}", file=sys.stderr)
        return 1


def _choose_ports(options: argparse.Namespace) -> None:
    """Check the ports first: an error raised later, when listening, could not name the option to change."""
    ports: dict[str, int] = {}
    for option, default in _PORTS.items():
        name = option.strip("-").replace("-", "_")
        given = getattr(options, name)
        ports[option] = given if given is not None else default if options.port is None else options.port
        setattr(options, name, ports[option])
    for (one, port), (other, same) in itertools.combinations(ports.items(), 2):
        if port == same != 0:
            raise accounts.Unusable(f"{one} and {other} are both {port}; give two different ports")
    if refused := [reason for option, port in ports.items() if (reason := _refusal(option, port))]:
        raise accounts.Unusable(f"{'; '.join(refused)}; or take free ones with --port 0")


def _refusal(option: str, port: int) -> str:
    """Why the port cannot be listened on; empty if it can."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        return f"port {port} {reason}: give another with {option}"
    return ""


def _check_env_file(env_file: Path | None) -> None:
    """Refuse to overwrite, and later remove, a file that no local Azure has written."""
    if env_file is None:
        return
    if not env_file.parent.is_dir():
        raise accounts.Unusable(f"--env-file {env_file}: the folder {env_file.parent} does not exist")
    if env_file.exists() and not accounts.is_settings_file(env_file):
        raise accounts.Unusable(
            f"--env-file {env_file}: the file exists and was not written by a local Azure; give another name"
        )


async def _run(options: argparse.Namespace, data: Path) -> int:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    if options.until_stdin_closes:
        _stop_when_stdin_closes(stop)
    keys = accounts.keys_of(data)
    security = Security.of(
        data,
        keys,
        tls=options.tls,
        sign_in=SignIn(options.entra) if options.entra else None,
        identity_port=options.identity_port,
        administered=options.faults,
    )
    if security.certificate:
        print(security.certificate.advice(), file=sys.stderr, flush=True)
    if options.containers == Containers.HOST.value:
        print(f"local Azure: {_ON_HOST}", file=sys.stderr, flush=True)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    account = Account(name=accounts.NAME, key=keys.batch)
    linked: asyncio.Future[AutoStorage] = asyncio.get_running_loop().create_future()
    batch = asyncio.ensure_future(
        serve(
            data / "batch",
            account,
            port=options.batch_port,
            ready=ready.set_result,
            stop=stop,
            administered=options.faults,
            auto_storage=linked,
            timings=Profile(options.timings).timings(),
            security=security.batch,
            containers=Containers(options.containers),
        )
    )
    try:
        async with azurite(data / "blob", accounts.NAME, keys.storage, options.blob_port, security.blob) as blob:
            if blob.killed_now:
                print(f"local Azure: {data / 'blob'}: {_LOSS}", file=sys.stderr, flush=True)
            linked.set_result(_auto_storage(blob, keys))
            await _first_of(batch, ready)
            if ready.done() and not stop.is_set():  # else the parent may have ended, and reads no settings
                settings = security.settings(keys, ready.result(), blob.endpoint) | past_proxies(os.environ)
                with _settings_published(settings, options):
                    await _first_of(batch, blob.ended)
            if blob.ended.done():
                raise AzuriteFailed(f"Azurite exited unexpectedly: {blob.ended.result()}")
            await batch
    finally:
        stop.set()
        await asyncio.wait([batch])
    return 0


def _auto_storage(blob: Azurite, keys: accounts.Keys) -> AutoStorage:
    return AutoStorage(account=accounts.NAME, blob_endpoint=blob.endpoint, key=keys.storage, killed_at=blob.killed_at)


@contextlib.contextmanager
def _settings_published(settings: dict[str, str], options: argparse.Namespace) -> Iterator[None]:
    """Print the settings, and keep them in the file while the services run."""
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    if options.env_file:
        write_private(options.env_file, lines)
    print(lines, end="", flush=True)
    if options.until_stdin_closes:
        _close_stdout()
    try:
        yield
    finally:
        if options.env_file:
            options.env_file.unlink(missing_ok=True)


def _close_stdout() -> None:
    """Let the parent read to the end: how many settings there are depends on the options."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is signal.SIG_DFL:  # ignored under nohup
            asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _stop_when_stdin_closes(stop: asyncio.Event) -> None:
    """Stop when the parent process has ended: the kernel then closes its end of our stdin."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), read)


if __name__ == "__main__":
    sys.exit(main())
