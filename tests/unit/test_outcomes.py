"""What became of a Batch task, as its exit code and its state tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from azure.batch.models import BatchTask, BatchTaskExecutionInfo, BatchTaskFailureInfo

from tasks.run.outcomes import AddedTask, Cause, TaskOutcome

ADDED = AddedTask(id="topNtask0", file="a.txt")
QUEUED = TaskOutcome.of(ADDED, None)


@pytest.mark.parametrize(
    ("exit_code", "cause"),
    [(1, Cause.EXIT_CODE), (65, Cause.NOT_TEXT), (73, Cause.FETCH), (74, Cause.UPLOAD), (137, Cause.EXIT_CODE)],
)
def test_an_exit_code_tells_the_cause(exit_code: int, cause: Cause) -> None:
    failure = BatchTaskFailureInfo(category="usererror", code="FailureExitCode", message="exited")
    task = BatchTask({"id": "topNtask0", "state": "completed"})
    task.execution_info = BatchTaskExecutionInfo(
        retry_count=0, requeue_count=0, exit_code=exit_code, failure_info=failure
    )
    assert TaskOutcome.of(ADDED, task).cause is cause


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (QUEUED, Cause.NOT_STARTED),
        (replace(QUEUED, state="running"), Cause.NOT_RUN),
        (replace(QUEUED, requeues=1), Cause.NOT_RUN),
        (replace(QUEUED, retries=1), Cause.NOT_RUN),
        (replace(QUEUED, state="completed"), None),
    ],
    ids=["queued", "running", "queued after it lost its node", "queued after it failed", "completed"],
)
def test_a_task_that_was_given_up_never_started_or_did_not_end(outcome: TaskOutcome, cause: Cause | None) -> None:
    assert outcome.unfinished().cause is cause


def test_a_success_whose_output_is_of_no_use_has_failed_for_that_reason() -> None:
    outcome = replace(QUEUED, state="completed", succeeded=True, exit_code=0, node="n")
    useless = outcome.without_output(Cause.DAMAGED, "3 of 4 bytes; sig=abc")
    assert (useless.failed, useless.why()) == (
        True,
        "left a damaged output (3 of 4 bytes; sig=***), exit code 0, node n",
    )
