"""Run the live tests against the account in the environment, with one small node; `make test-live`.

The session ends after --minutes, however far it has come, and what its runs have left in the account is deleted then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tasks.accounts.clients import Azure
from tasks.accounts.environment import accounts_in
from tasks.errors import InputError
from tasks.errors.service import SERVICE_FAILURES, ServiceError
from tests.live.session import RECORD, RECORDINGS, SETTING, Session
from tests.support.paths import ROOT

_TO_SET = (
    "No account is set, and these tests need one. They create pools of one node, for less than an hour in all. Set "
    "AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT and AZURE_STORAGE_ACCOUNT, and sign in with `az login`, or set the "
    "keys too: docs/azure-account.md"
)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=__doc__)
    parser.add_argument("--minutes", type=int, default=45, metavar="N", help="end after so long (default: %(default)s)")
    parser.add_argument(
        "--record", action="store_true", help="record what Azure Batch answers, without secrets and names"
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
    print(f"Live tests on {azure.describe()}, for at most {options.minutes} minutes")
    with tempfile.TemporaryDirectory(prefix="live-tests-") as folder:
        session = Session(folder=Path(folder))
        try:
            return _pytest(session, options.minutes * 60.0, RECORDINGS if options.record else None)
        finally:
            _sweep(session, azure)


def _pytest(session: Session, seconds: float, recordings: Path | None) -> int:
    """The exit code of the tests; 1 if they took too long."""
    environment = {**os.environ, SETTING: str(session.folder)}
    if recordings:
        recordings.mkdir(exist_ok=True)
        environment[RECORD] = str(recordings)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/live"]
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"The tests have not ended after {seconds / 60:.0f} minutes, and were ended", file=sys.stderr)
        return 1


def _sweep(session: Session, azure: Azure) -> None:
    try:
        left = session.sweep(azure)
    except SERVICE_FAILURES as error:
        print(f"Not swept: {ServiceError.of(error)}\nRun `.venv/bin/python -m flows.sweep` later", file=sys.stderr)
        return
    print("\n".join(["Left by the tests:", *left]) if left else "Nothing is left of the tests")


if __name__ == "__main__":
    sys.exit(main())
