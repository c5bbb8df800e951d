"""A Batch task that begins again without a retry or a requeue has lost its node."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from tasks.attempts import Attempts
from tasks.outcomes import TaskOutcome

FIRST = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
QUEUED = TaskOutcome(id="topNtask0", file="a.txt", output_name="a_OUTPUT.txt", state="active")
RUNNING = replace(QUEUED, state="running", started=FIRST)


def again(outcome: TaskOutcome, minutes: int = 5) -> TaskOutcome:
    return replace(outcome, started=FIRST + timedelta(minutes=minutes))


def requeues(*seen: TaskOutcome) -> list[int]:
    attempts = Attempts()
    return [attempts.seen(outcome).requeues for outcome in seen]


def test_a_task_that_is_queued_again_has_lost_its_node_once() -> None:
    assert requeues(QUEUED, RUNNING, QUEUED, QUEUED, again(RUNNING)) == [0, 0, 1, 1, 1]


def test_a_task_that_began_again_between_two_looks_has_lost_its_node() -> None:
    done = replace(again(RUNNING, 10), state="completed", succeeded=True)
    assert requeues(RUNNING, again(RUNNING), again(RUNNING), done) == [0, 1, 1, 2]


def test_a_retry_after_a_failure_is_no_loss_of_the_node() -> None:
    assert requeues(RUNNING, replace(again(RUNNING), retries=1)) == [0, 0]


def test_a_requeue_that_the_service_counts_is_not_counted_twice() -> None:
    assert requeues(RUNNING, replace(again(RUNNING), requeues=1), replace(again(RUNNING), requeues=1)) == [0, 1, 1]


def test_tasks_are_told_apart() -> None:
    assert requeues(RUNNING, replace(again(RUNNING), id="topNtask1")) == [0, 0]
