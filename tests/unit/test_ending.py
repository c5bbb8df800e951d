"""Why a run fails whose Batch tasks have several files: what fails are files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from tasks.ending import failure_of
from tasks.inputs.files import InputFile
from tasks.record import RunRecord
from tasks.run.outcomes import Cause, TaskOutcome
from tasks.run.results import Results
from tasks.run.uploads import Bundle, Uploads
from tests.support.downloads import file
from tests.support.service_codes import AZURE

NAMES = ("a.txt", "b.txt", "c.txt")


@pytest.fixture(autouse=True)
def no_run() -> Iterator[None]:
    with disable_run_logger():
        yield


def ended(allowed: int) -> RunRecord[Any]:
    """Of one group, of which two files have failed."""
    missing: Any = None
    record: RunRecord[Any] = RunRecord(
        azure=AZURE,
        run=missing,
        results=Results(folder=Path("r")),
        files=[InputFile(source=name, name=name, size=1, task_id=f"t{at}") for at, name in enumerate(NAMES)],
        done=[],
        allowed=allowed,
        steps=[],
        report_joined=lambda joined: "",
    )
    record.uploads = Uploads(
        application=[], inputs=list(map(file, NAMES)), bundles={"t0": Bundle(blob=file("x"), digest="")}
    )
    failed: dict[str, Any] = {"state": "completed", "cause": Cause.EXIT_CODE, "node": "n1"}
    record.note(
        [
            TaskOutcome(id="t0", file="a.txt", state="completed", succeeded=True),
            TaskOutcome(id="t0", file="b.txt", exit_code=3, stderr="no such word", **failed),
            TaskOutcome(id="t0", file="c.txt", exit_code=4, retries=1, **failed),
        ]
    )
    return record


def test_failures_of_one_group_are_counted_by_file() -> None:
    assert failure_of(ended(allowed=2), "") is None
    assert str(failure_of(ended(allowed=1), "")) == (
        "2 of 3 files failed; the summary in r lacks b.txt, c.txt\n"
        "b.txt: Batch task t0 exited non-zero, exit code 3, node n1\n"
        "  stderr: no such word\n"
        "c.txt: Batch task t0 exited non-zero, exit code 4, node n1, 1 retry"
    )
