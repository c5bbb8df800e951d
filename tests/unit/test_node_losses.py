"""A Batch task that begins again without a retry or a requeue has lost its node."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from tasks.run.outcomes import TaskOutcome
from tasks.watching.node_losses import LostNode, NodeLosses

FIRST = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
QUEUED = TaskOutcome(id="topNtask0", file="a.txt", state="active")
RUNNING = replace(QUEUED, state="running", started=FIRST)


def again(outcome: TaskOutcome, minutes: int = 5) -> TaskOutcome:
    return replace(outcome, started=FIRST + timedelta(minutes=minutes))


def requeues(*seen: TaskOutcome) -> list[int]:
    losses, counted = NodeLosses(short=timedelta()), []
    for outcome in seen:
        losses, now, _ = losses.after([outcome], FIRST)
        counted.append(now[outcome.id].requeues)
    return counted


def test_a_task_that_is_queued_again_has_lost_its_node_once() -> None:
    assert requeues(QUEUED, RUNNING, QUEUED, QUEUED, again(RUNNING)) == [0, 0, 1, 1, 1]


def test_a_task_that_started_again_has_lost_its_node() -> None:
    done = replace(again(RUNNING, 10), state="completed", succeeded=True)
    assert requeues(RUNNING, again(RUNNING), again(RUNNING), done) == [0, 1, 1, 2]


def test_a_retry_after_a_failure_is_no_loss_of_the_node() -> None:
    assert requeues(RUNNING, replace(again(RUNNING), retries=1)) == [0, 0]


def test_a_requeue_that_the_service_counts_is_not_counted_twice() -> None:
    assert requeues(RUNNING, replace(again(RUNNING), requeues=1), replace(again(RUNNING), requeues=1)) == [0, 1, 1]


def test_tasks_are_told_apart() -> None:
    assert requeues(RUNNING, replace(again(RUNNING), id="topNtask1")) == [0, 0]


def test_lost_nodes_are_named_once() -> None:
    losses, _, none = NodeLosses(short=timedelta()).after([replace(RUNNING, node="a_p")], FIRST)
    other = replace(again(RUNNING), node="b_p")
    losses, _, lost = losses.after([other], FIRST + timedelta(minutes=5))
    _, _, no_more = losses.after([other], FIRST + timedelta(minutes=6))
    assert (none, lost, no_more) == ([], [LostNode(id="a_p", seen=FIRST)], [])


SHORT = timedelta(minutes=30)


class Looks:
    """The losses of a task, minute by minute."""

    def __init__(self) -> None:
        self.losses = NodeLosses(short=SHORT)

    def progress(self, outcome: TaskOutcome, minute: int) -> bool:
        now = FIRST + timedelta(minutes=minute)
        self.losses, _, _ = self.losses.after([outcome], now)
        return self.losses.makes_progress(outcome, now)


def test_short_executions_are_no_progress_until_one_outlasts_them() -> None:
    looks = Looks()
    assert looks.progress(RUNNING, 0)
    assert not looks.progress(QUEUED, 7)
    assert looks.progress(again(RUNNING, 8), 8)  # once may be bad luck
    assert not looks.losses.keeps_losing_nodes
    assert not looks.progress(again(RUNNING, 12), 12)
    assert looks.losses.keeps_losing_nodes
    assert [looks.progress(again(RUNNING, 12), minute) for minute in (18, 19, 20)] == [False, False, True]


def test_a_long_execution_that_lost_its_node_was_progress() -> None:
    looks = Looks()
    looks.progress(RUNNING, 0)
    looks.progress(again(RUNNING, 5), 5)
    looks.progress(again(RUNNING, 10), 10)
    assert looks.losses.keeps_losing_nodes
    assert looks.progress(again(RUNNING, 50), 50)
    assert not looks.losses.keeps_losing_nodes


def test_requeues_that_the_service_counts_are_losses_too() -> None:
    looks = Looks()
    for requeues in range(3):
        looks.progress(replace(again(RUNNING, requeues), requeues=requeues), requeues)
    assert looks.losses.keeps_losing_nodes


def test_retries_after_failures_are_no_losses() -> None:
    looks = Looks()
    for retries in range(5):
        looks.progress(replace(again(RUNNING, retries), retries=retries), retries)
    assert not looks.losses.keeps_losing_nodes
