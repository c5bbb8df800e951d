"""The local Azure as a child of the process that needs it, and for no longer than that."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SETTINGS = 5  # lines that python -m local_azure prints when both services are ready
_STOP_LIMIT = 15.0  # seconds

_started_ahead: list[EmbeddedAzure] = []
_running: list[EmbeddedAzure] = []


class EmbeddedAzureFailed(Exception):
    """The local Azure did not come up."""


class EmbeddedAzure:
    """python -m local_azure on free ports and a temporary directory. It ends when stopped, or with this process."""

    def __init__(self) -> None:
        command = [
            sys.executable,
            "-m",
            "local_azure",
            "--batch-port=0",
            "--blob-port=0",
            "--until-stdin-closes",
        ]
        # A session of its own: Ctrl-C is for the flow, which still needs the services to clean up.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
            start_new_session=True,
        )

    def settings(self) -> dict[str, str]:
        """Where to find it, once both services are ready. Raises EmbeddedAzureFailed if they do not come up."""
        assert self._process.stdout
        lines = [line for _ in range(_SETTINGS) if (line := self._process.stdout.readline())]
        if len(lines) < _SETTINGS:
            code = self._process.wait()
            raise EmbeddedAzureFailed(f"the embedded local Azure did not start (exit code {code}); it says why above")
        self._settings = dict(line.rstrip("\n").split("=", 1) for line in lines)
        return self._settings

    def exit_code_at(self, endpoint: str) -> int | None:
        """Its exit code, if it has ended and one of its services was at that endpoint."""
        found = any(endpoint in value for value in self._settings.values())
        return self._process.poll() if found else None

    def stop(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def embedded_azure() -> Iterator[dict[str, str]]:
    """A local Azure of the caller's own: its settings, for as long as the context lasts."""
    embedded = _started_ahead.pop() if _started_ahead else EmbeddedAzure()
    try:
        settings = embedded.settings()
        _running.append(embedded)
        yield settings
    finally:
        if embedded in _running:
            _running.remove(embedded)
        embedded.stop()


def exit_code_at(endpoint: str) -> int | None:
    """The exit code of this process's local Azure that had a service at that endpoint; None while it runs."""
    codes = [embedded.exit_code_at(endpoint) for embedded in _running]
    return next((code for code in codes if code is not None), None)


@contextmanager
def starting_ahead() -> Iterator[None]:
    """Begin to start one now, for the next embedded_azure() in this process, so that both need not wait in turn."""
    _started_ahead.append(EmbeddedAzure())
    try:
        yield
    finally:
        while _started_ahead:  # nobody came for it
            _started_ahead.pop().stop()
