"""The Prefect server that a command reports to: the user's own, or a temporary one that ends with the command."""

from __future__ import annotations

import logging
import os
import signal
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from sqlalchemy.engine import make_url

from tasks.errors import RunError

_HEALTH_LIMIT = 10.0  # seconds
_TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}  # sent to each process of the terminal, not just to the command


def ensure_prefect_server() -> None:
    """Raises RunError if the user's server does not respond, or a temporary one cannot run."""
    settings = get_current_settings()
    if settings.api.url:
        _refuse_silent_server(settings.api.url)
    elif settings.server.ephemeral.enabled:
        _refuse_unwritable_database(settings.server.database.connection_url)
        _start_temporary_server()


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


def _start_temporary_server() -> None:
    """Start it as Prefect itself would, but without Ctrl-C and SIGHUP: the clean-up after them still needs it."""
    from prefect.server.api.server import SubprocessASGIServer

    logging.getLogger("prefect").addFilter(_hides_stop_line)

    def start() -> None:
        # In a thread, since the mask is inherited by the server and must not be the command's own.
        signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)
        try:
            SubprocessASGIServer().start()
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(None)

    started: Future[None] = Future()
    Thread(target=start, daemon=True).start()
    try:
        started.result()
    except RuntimeError as error:
        raise RunError(f"Prefect's temporary server did not start: {error} Its own log is above") from None


def _hides_stop_line(record: logging.LogRecord) -> bool:
    """Hide Prefect's line that its server stops: the last line is to be the address of the report."""
    return not str(record.msg).startswith("Stopping temporary server")
