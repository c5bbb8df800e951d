"""What is logged of Batch tasks and files that failed."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from typing import Any, cast
from unittest.mock import Mock
from uuid import UUID

import pytest

import tasks.watching.failures
from tasks.run.identity import Run
from tasks.run.outcomes import Cause, TaskOutcome
from tasks.watching.failures import Failures

GROUP = "t0"


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> Any:
    logger = logging.getLogger("failures")
    monkeypatch.setattr(tasks.watching.failures, "get_run_logger", lambda: logger)
    monkeypatch.setattr(tasks.watching.failures, "read_stderr", lambda azure, batch, run, ids: dict.fromkeys(ids, ""))
    none = cast(Any, Mock())
    started = datetime(2026, 1, 2, tzinfo=timezone.utc)
    run = Run(workload="w", flow_run_id=str(UUID(int=1)), started=started, lifetime=timedelta(hours=1))

    def make(groups: Collection[str], of_files: bool) -> Failures:
        return Failures(none, none, run, none, groups=groups, of_files=of_files)

    return make


def outcome(file: str, cause: Cause, exit_code: int) -> TaskOutcome:
    return TaskOutcome(id=GROUP, file=file, state="completed", exit_code=exit_code, cause=cause)


@pytest.mark.parametrize(
    ("cause", "exit_code", "of_files", "groups", "why"),
    [
        (Cause.NOT_TEXT, 65, False, {GROUP}, "exited non-zero"),
        (Cause.UPLOAD, 74, False, {GROUP}, "exited non-zero"),
        (Cause.TIME_LIMIT, 1, False, {GROUP}, "timed out"),
        (Cause.NOT_TEXT, 65, True, {GROUP}, "could not read its file as text"),
        (Cause.NOT_TEXT, 65, False, set(), "could not read its file as text"),
    ],
)
def test_what_one_file_of_a_group_did_is_not_said_of_its_batch_task(
    failures: Any,
    caplog: pytest.LogCaptureFixture,
    cause: Cause,
    exit_code: int,
    of_files: bool,
    groups: set[str],
    why: str,
) -> None:
    failures(groups, of_files).report([outcome("a and 8 more", cause, exit_code)])
    assert caplog.messages == [f"Batch task t0 (a and 8 more) {why}, exit code {exit_code}"]
