"""A local Azure as a child process, which ends with its parent."""

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
    """The local Azure did not start."""


class EmbeddedAzure:
    """python -m local_azure on free ports and a temporary directory, until it is stopped or this process ends."""

    def __init__(self) -> None:
        command = [
            sys.executable,
            "-m",
            "local_azure",
            "--batch-port=0",
            "--blob-port=0",
            "--until-stdin-closes",
        ]
        # In a session of its own, so that Ctrl-C reaches only the flow, which needs the services to clean up.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
            start_new_session=True,
        )

    def settings(self) -> dict[str, str]:
        """Wait until both services are ready; returns their settings. Raises EmbeddedAzureFailed."""
        assert self._process.stdout
        lines = [line for _ in range(_SETTINGS) if (line := self._process.stdout.readline())]
        if len(lines) < _SETTINGS:
            code = self._process.wait()
            raise EmbeddedAzureFailed(f"the embedded local Azure did not start (exit code {code}); its error is above")
        self._settings = dict(line.rstrip("\n").split("=", 1) for line in lines)
        return self._settings

    def exit_code_at(self, endpoint: str) -> int | None:
        """Its exit code, if it has ended and one of its services had that endpoint."""
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
    """Run a local Azure while the context lasts; yields its settings."""
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
    """The exit code of the embedded local Azure with that endpoint; None while it runs, or if there is none."""
    codes = [embedded.exit_code_at(endpoint) for embedded in _running]
    return next((code for code in codes if code is not None), None)


@contextmanager
def starting_ahead() -> Iterator[None]:
    """Start one in the background, which the next embedded_azure() in this process uses."""
    _started_ahead.append(EmbeddedAzure())
    try:
        yield
    finally:
        while _started_ahead:  # unused
            _started_ahead.pop().stop()
