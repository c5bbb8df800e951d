"""A Batch task that begins again without a retry or a requeue has lost its node."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from tasks.run.outcomes import TaskOutcome
from tasks.watching.attempts import Attempts

FIRST = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
QUEUED = TaskOutcome(id="topNtask0", file="a.txt", output_name="a_OUTPUT.txt", state="active")
RUNNING = replace(QUEUED, state="running", started=FIRST)


def again(outcome: TaskOutcome, minutes: int = 5) -> TaskOutcome:
    return replace(outcome, started=FIRST + timedelta(minutes=minutes))


def requeues(*seen: TaskOutcome) -> list[int]:
    attempts = Attempts(soon=timedelta())
    return [attempts.seen(outcome, FIRST).requeues for outcome in seen]


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


def test_the_nodes_that_attempts_have_lost_are_named_once() -> None:
    attempts = Attempts(soon=timedelta())
    attempts.seen(replace(RUNNING, node="a_p"), FIRST)
    attempts.seen(replace(again(RUNNING), node="b_p"), FIRST + timedelta(minutes=5))
    assert attempts.take_lost() == [("a_p", FIRST)]
    assert attempts.take_lost() == []


SOON = timedelta(minutes=30)


class Looks:
    """What is made of a task's attempts, minute by minute."""

    def __init__(self) -> None:
        self.attempts = Attempts(soon=SOON)

    def further(self, outcome: TaskOutcome, minute: int) -> bool:
        now = FIRST + timedelta(minutes=minute)
        return self.attempts.gets_further(self.attempts.seen(outcome, now), now)


def test_a_task_that_is_lost_soon_after_it_began_gets_no_further_until_it_outlasts_what_was_lost() -> None:
    looks = Looks()
    assert looks.further(RUNNING, 0)
    assert not looks.further(QUEUED, 7)
    assert looks.further(again(RUNNING, 8), 8)  # once may be bad luck
    assert not looks.attempts.in_vain
    assert not looks.further(again(RUNNING, 12), 12)
    assert looks.attempts.in_vain
    assert [looks.further(again(RUNNING, 12), minute) for minute in (18, 19, 20)] == [False, False, True]


def test_a_task_that_ran_for_long_before_it_was_lost_is_not_in_vain() -> None:
    looks = Looks()
    looks.further(RUNNING, 0)
    looks.further(again(RUNNING, 5), 5)
    looks.further(again(RUNNING, 10), 10)
    assert looks.attempts.in_vain
    assert looks.further(again(RUNNING, 50), 50)
    assert not looks.attempts.in_vain


def test_attempts_that_the_service_counts_as_requeued_are_lost_too() -> None:
    looks = Looks()
    for requeues in range(3):
        looks.further(replace(again(RUNNING, requeues), requeues=requeues), requeues)
    assert looks.attempts.in_vain


def test_a_retry_after_a_failure_is_not_in_vain() -> None:
    looks = Looks()
    for retries in range(5):
        looks.further(replace(again(RUNNING, retries), retries=retries), retries)
    assert not looks.attempts.in_vain
