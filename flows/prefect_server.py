"""The Prefect server that a command reports to: the user's own, or a temporary one that ends with the command."""

from __future__ import annotations

import atexit
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import prefect
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from sqlalchemy.engine import make_url

from tasks.errors import RunError

_HEALTH_LIMIT = 10.0  # seconds
_TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}  # sent to each process of the terminal, not just to the command

# uvicorn, which ends when its stdin does: a command that was killed cannot end it.
_UVICORN = """
import os, signal, threading
from uvicorn.main import main

def end_with_command():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_with_command, daemon=True).start()
main()
"""

_ahead: list[tuple[int, subprocess.Popen[bytes]]] = []  # started, with their ports, and not yet used


def ensure_prefect_server() -> None:
    """Raises RunError if the user's server does not respond, or a temporary one cannot run."""
    settings = get_current_settings()
    if settings.api.url:
        _refuse_silent_server(settings.api.url)
    elif settings.server.ephemeral.enabled:
        _wait_for_temporary_server()


def start_server_ahead() -> None:
    """Start a temporary server, if one is needed, for ensure_prefect_server(): it takes seconds, as imports do.

    Raises RunError if it could not write its database.
    """
    settings = get_current_settings()
    if settings.api.url or not settings.server.ephemeral.enabled:
        return
    _refuse_unwritable_database(settings.server.database.connection_url)
    port = _free_port()
    _ahead.append((port, _temporary_server(port)))


def _free_port() -> int:
    """One of those that Prefect's temporary servers have: the system gives none of them to outgoing connections."""
    for port in random.sample(range(8000, 9000), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RunError("Prefect's temporary server cannot start: ports 8000 to 8999 are in use on this machine")


def _refuse_silent_server(url: str) -> None:
    with get_client(sync_client=True, httpx_settings={"timeout": _HEALTH_LIMIT}) as client:
        error = client.api_healthcheck()
    if error is None or isinstance(error, httpx.ReadTimeout):  # it may be busy
        return
    reason = str(error).partition("\n")[0] or type(error).__name__
    command = "unset" if "PREFECT_API_URL" in os.environ else ".venv/bin/prefect config unset"  # it is in a profile
    raise RunError(
        f"no Prefect server answers at {url} (PREFECT_API_URL): {reason}. Start it (`make ui` starts one on this "
        f"machine), or run without it after `{command} PREFECT_API_URL`"
    )


def _refuse_unwritable_database(url: Any) -> None:
    database = make_url(url.get_secret_value()) if url else None
    if database is None or not database.drivername.startswith("sqlite") or not database.database:
        return
    folder = Path(database.database).parent
    reason = "no write permission"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    if not os.access(folder, os.W_OK):
        raise RunError(
            f"Prefect cannot write its database in {folder} ({reason}); set PREFECT_HOME to a writable folder"
        )


def _temporary_server(port: int) -> subprocess.Popen[bytes]:
    """Start it as Prefect itself would, but so that it ends with this process, however that ends.

    Ctrl-C and SIGHUP do not end it: the clean-up after them still needs it.
    """
    app = ["--app-dir", str(prefect.__module_path__.parent), "--factory", "prefect.server.api.server:create_app"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    environment = {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        **get_current_settings().to_environment_variables(exclude_unset=True),
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)  # the server inherits it
    try:
        command = [sys.executable, "-c", _UVICORN, *app, *options]
        server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    atexit.register(server.terminate)  # also when Prefect never got to know it
    return server


def _wait_for_temporary_server() -> None:
    """Give Prefect the server that was started ahead, or start one, and wait until it responds."""
    from prefect.server.api.server import SubprocessASGIServer  # takes a second

    server = SubprocessASGIServer()
    if server.running:
        return
    logging.getLogger("prefect").addFilter(_hides_stop_line)
    if not _ahead:
        start_server_ahead()
    server.port, process = _ahead.pop()
    first = iter([process])
    # It starts another on another port if this one was taken meanwhile.
    server._run_uvicorn_command = lambda: next(first, None) or _temporary_server(server.port)  # type: ignore[method-assign, arg-type]
    try:
        server.start()
    except RuntimeError as error:
        raise RunError(f"Prefect's temporary server did not start: {error} Its own log is above") from None


def _hides_stop_line(record: logging.LogRecord) -> bool:
    """Hide Prefect's line that its server stops: the last line is to be the address of the report."""
    return not str(record.msg).startswith("Stopping temporary server")
