"""Run the live tests against the account in the environment, with one small node; `make test-live`.

The session ends after --minutes, however far it has come, and what its runs have left in the account is deleted then.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tasks.accounts.clients import Azure
from tasks.accounts.environment import accounts_in
from tasks.errors import InputError
from tasks.errors.service import SERVICE_FAILURES, ServiceError
from tests.live.session import RECORD, RECORDINGS, SETTING, VM_SIZE, Session
from tests.support.paths import ROOT

_TO_SET = (
    "No account is set, and these tests need one. They create pools of one node, for less than an hour in all. Set "
    "AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT and AZURE_STORAGE_ACCOUNT, and sign in with `az login`, or set the "
    "keys too: docs/azure-account.md"
)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=45, metavar="N", help="end after so long (default: %(default)s)"
    )
    parser.add_argument(
        "--record", action="store_true", help="record what Azure Batch answers, without secrets and names"
    )
    parser.add_argument(
        "--vm-size",
        metavar="SIZES",
        help="VM sizes of the node, with commas, in the order in which they are tried (default: those of the flows)",
    )
    return parser


def main() -> int:
    options = arguments().parse_args()
    try:
        configured = accounts_in(os.environ)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    if configured is None:
        print(_TO_SET, file=sys.stderr)
        return 2
    azure = Azure(batch_account=configured[0], storage_account=configured[1])
    print(f"Live tests on {azure.describe()}, for at most {options.minutes:g} minutes")
    with tempfile.TemporaryDirectory(prefix="live-tests-") as folder:
        session = Session(folder=Path(folder))
        _end_as_on_interrupt()
        try:
            return _pytest(_environment(session, options), options.minutes * 60.0)
        finally:
            _sweep(session, azure)


def _end_as_on_interrupt() -> None:
    """Also when it is told to terminate, or its terminal is gone, sweep before the end."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, end)


def _environment(session: Session, options: argparse.Namespace) -> dict[str, str]:
    environment = {**os.environ, SETTING: str(session.folder)}
    if options.vm_size:
        environment[VM_SIZE] = options.vm_size
    if options.record:
        RECORDINGS.mkdir(exist_ok=True)
        environment[RECORD] = str(RECORDINGS)
    return environment


def _pytest(environment: dict[str, str], seconds: float) -> int:
    """The exit code of the tests; 1 if they took too long. They and what they started end with it."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/live"]
    tests = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return tests.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"The tests have not ended after {seconds / 60:g} minutes, and were ended", file=sys.stderr)
        return 1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(tests.pid, signal.SIGKILL)
        tests.wait()


def _sweep(session: Session, azure: Azure) -> None:
    try:
        left = session.sweep(azure)
    except SERVICE_FAILURES as error:
        print(f"Not swept: {ServiceError.of(error)}\nRun `.venv/bin/python -m flows.sweep` later", file=sys.stderr)
        return
    print("\n".join(["Left by the tests:", *left]) if left else "Nothing is left of the tests")


if __name__ == "__main__":
    sys.exit(main())
