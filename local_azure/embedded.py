"""A local Azure as a child process, which ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from local_azure.loopback import bypass_proxies

_STOP_LIMIT = 15.0  # seconds

# Runs this package in the current folder, as the command does. With `-m` a module there, such as a queue.py, would be
# imported in place of the one that is meant.
_PROGRAM = "import sys; sys.path[0] = {folder!r}; from local_azure.__main__ import main; sys.exit(main())"

_started_ahead: list[LocalAzure] = []
_running: list[LocalAzure] = []


class LocalAzureFailed(Exception):
    """The local Azure did not start."""


class LocalAzure:
    """The command `local-azure` on free ports, until it is stopped, its context is left, or this process ends.

    The options are those of the command; without `--data` it keeps its state in a temporary directory. It begins to
    start at once.
    """

    def __init__(self, *options: str) -> None:
        bypass_proxies(os.environ)  # here, so that it precedes any HTTP client of this process
        program = _PROGRAM.format(folder=str(Path(__file__).resolve().parents[1]))
        command = [sys.executable, "-c", program, "--port=0", "--until-stdin-closes", *options]
        # In a session of its own, so that Ctrl-C reaches only this process, which may need the services to clean up.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _stop, self._process)  # at the latest when this process exits

    @cached_property
    def settings(self) -> dict[str, str]:
        """The environment variables for clients, once both services are ready. Raises LocalAzureFailed."""
        output = self._process.stdout
        assert output
        settings = dict(line.rstrip("\n").split("=", 1) for line in output) if self._end.alive else {}
        if not settings:
            self.stop()
            code = self._process.returncode
            raise LocalAzureFailed(f"the embedded local Azure did not start (exit code {code}); its error is on stderr")
        return settings

    def faults(self, fault: str, /, **properties: Any) -> Any:
        """Inject a fault, as `python -m local_azure.faults` does; it needs the option `--faults`."""
        from local_azure.faults import ask

        return ask(fault, properties, self.settings)

    def exit_code_at(self, endpoint: str) -> int | None:
        """Its exit code, if it has ended and one of its services had that endpoint."""
        found = any(endpoint in value for value in self.settings.values())
        return self._process.poll() if found else None

    def stop(self) -> None:
        """Stop both services, and delete the temporary directory. Idempotent."""
        self._end()

    def __enter__(self) -> LocalAzure:
        try:
            self.settings  # noqa: B018  # waits until it is ready
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    try:
        process.wait(_STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@contextmanager
def embedded_azure() -> Iterator[dict[str, str]]:
    """Run a local Azure while the context lasts; yields its settings."""
    with _started_ahead.pop() if _started_ahead else LocalAzure() as embedded:
        _running.append(embedded)
        try:
            yield embedded.settings
        finally:
            _running.remove(embedded)


def exit_code_at(endpoint: str) -> int | None:
    """The exit code of the embedded local Azure with that endpoint; None while it runs, or if there is none."""
    codes = [embedded.exit_code_at(endpoint) for embedded in _running]
    return next((code for code in codes if code is not None), None)


@contextmanager
def starting_ahead() -> Iterator[None]:
    """Start one in the background, which the next embedded_azure() in this process uses."""
    _started_ahead.append(LocalAzure())
    try:
        yield
    finally:
        while _started_ahead:  # unused
            _started_ahead.pop().stop()
