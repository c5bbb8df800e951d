"""What became of each file of a group, from its Batch task and its record."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from tasks.run.file_outcomes import all_succeeded, by_batch_task, outcomes_of_files
from tasks.run.group_records import GroupRecords, Written
from tasks.run.outcomes import AddedTask, Cause, Failure, TaskOutcome
from tasks.run.records import FileRecord, Record

NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
GROUP = AddedTask(id="t0", file="a.txt and 1 more", members=("a.txt", "b.txt"))
SUCCEEDED = TaskOutcome(
    id="t0",
    file=GROUP.file,
    state="completed",
    exit_code=0,
    node="n1",
    started=NOON,
    seconds=120,
    requeues=1,
    succeeded=True,
)
FAILED = replace(
    SUCCEEDED,
    exit_code=3,
    succeeded=False,
    failure=Failure(category="UserError", code="FailureExitCode", message="exited"),
    cause=Cause.EXIT_CODE,
    stderr="of both",
)
RUNNING = TaskOutcome(id="t0", file=GROUP.file, state="running", node="n1", started=NOON)


def written(name: str, exit_code: int = 0, problem: str = "", tries: int = 1, stderr: str = "") -> Written:
    record = Record(outputs=(), exit_code=exit_code, node="n2", task="t0", seconds=1.5)
    found = FileRecord(name=name, record=record, began=NOON, problem=problem, stderr_end=stderr)
    return Written(record=found, at=NOON, tries=tries)


def of_files(outcome: TaskOutcome, *records: Written) -> list[TaskOutcome]:
    return outcomes_of_files(GROUP, outcome, GroupRecords(files={each.record.name: each for each in records}))


def test_a_batch_task_with_one_file_keeps_its_outcome() -> None:
    assert outcomes_of_files(AddedTask(id="t0", file="a.txt"), FAILED) == [FAILED]


def test_each_file_has_the_outcome_of_its_record() -> None:
    good, bad = of_files(FAILED, written("a.txt"), written("b.txt", 4, tries=3, stderr="no such word\n"))
    assert good == TaskOutcome(
        id="t0",
        file="a.txt",
        state="completed",
        exit_code=0,
        node="n2",
        started=NOON,
        seconds=1.5,
        requeues=1,
        succeeded=True,
    )
    assert bad == replace(
        good, file="b.txt", exit_code=4, retries=2, succeeded=False, cause=Cause.EXIT_CODE, stderr="no such word"
    )
    assert bad.why() == "exited non-zero, exit code 4, node n2, 2 retries, 1 requeue"


@pytest.mark.parametrize(
    ("exit_code", "problem", "cause", "detail"),
    [
        (65, "", Cause.NOT_TEXT, ""),
        (124, "timed out", Cause.TIME_LIMIT, ""),
        (139, "killed by signal 11", Cause.KILLED, "SIGSEGV"),
        (255, "killed by signal 127", Cause.KILLED, "127"),
        (126, "could not start", Cause.START, ""),
        (73, "could not fetch", Cause.FETCH, ""),
        (74, "could not upload", Cause.UPLOAD, ""),
        (1, "something new", Cause.OTHER, "something new"),
    ],
)
def test_the_problem_of_a_record_is_the_cause(exit_code: int, problem: str, cause: Cause, detail: str) -> None:
    found = of_files(FAILED, written("a.txt", exit_code, problem))[0]
    assert (found.cause, found.detail, found.exit_code, found.succeeded) == (cause, detail, exit_code, False)


def test_secrets_and_all_but_the_end_of_stderr_are_left_out() -> None:
    found = of_files(FAILED, written("a.txt", 1, stderr=f"sig=abc {'x' * 1995} &sig=def"))[0]
    assert (len(found.stderr), found.stderr[:3], found.stderr[-9:]) == (2000, "xxx", " &sig=***")


def test_without_record_a_file_ends_as_its_batch_task() -> None:
    lost = replace(FAILED, cause=Cause.TIME_LIMIT, exit_code=None)
    one, two = of_files(lost, written("a.txt"))
    assert (one.succeeded, two.succeeded, two.cause, two.failure) == (True, False, Cause.TIME_LIMIT, FAILED.failure)
    assert (two.started, two.seconds, two.stderr) == (None, None, "of both")


def test_the_exit_code_of_another_file_is_not_that_of_one_without_record() -> None:
    _, lost = of_files(FAILED, written("a.txt", 3))
    assert (lost.cause, lost.exit_code, lost.failure, lost.stderr) == (Cause.NOT_RUN, None, None, "")
    assert [each.exit_code for each in of_files(FAILED)] == [3, 3]  # none has: so it is that of the Batch task itself


def test_a_file_of_a_running_batch_task_is_done_once_it_has_a_record() -> None:
    done, going = of_files(RUNNING, written("a.txt"))
    assert (done.completed, done.succeeded, going.completed) == (True, True, False)
    assert going.unfinished().cause is Cause.NOT_RUN
    queued = of_files(replace(RUNNING, state="active", started=None))
    assert [each.unfinished().cause for each in queued] == [Cause.NOT_STARTED] * 2


def test_a_success_without_record_is_left_to_the_download() -> None:
    assert [each.succeeded for each in of_files(SUCCEEDED)] == [True, True]


def test_files_together_are_their_batch_task_again() -> None:
    late = replace(written("b.txt", 4).record, began=NOON + timedelta(seconds=8))
    files = of_files(FAILED, written("a.txt"), Written(record=late, at=NOON))
    other = TaskOutcome(id="t1", file="c.txt", state="active")
    earlier = TaskOutcome.done_before("t0", "d.txt")
    group, *others = by_batch_task([*files, other, earlier])
    assert (group.started, group.seconds, group.succeeded, group.requeues) == (NOON, 9.5, False, 1)
    assert others == [other, earlier]


def test_a_batch_task_is_proven_by_records_of_all_its_files() -> None:
    records = GroupRecords(files={"a.txt": written("a.txt"), "b.txt": written("b.txt", 1)})
    assert all_succeeded(["a.txt"], records)
    assert not all_succeeded(["a.txt", "b.txt"], records)
    assert not all_succeeded(["a.txt", "c.txt"], records)
