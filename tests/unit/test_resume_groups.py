"""What a retry does about files in groups, given their records and Batch tasks of a previous attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from tasks.job import what_is_added
from tasks.run.group_records import GroupRecords, RecordList, combine
from tasks.run.identity import Run
from tasks.run.previous_attempt import PreviousAttempt, PreviousTask, Progress
from tasks.run.records import FileRecord, Record, record_blob
from tasks.run.resume import Decision, Plan, plan
from tasks.run.uploads import Bundle, UploadedFile, Uploads

PROGRAMMED = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)
DONE_AT = PROGRAMMED + timedelta(seconds=10)
STARTED = PROGRAMMED + timedelta(minutes=30)
RUN = Run(workload="top-words", flow_run_id="0" * 32, started=STARTED, lifetime=timedelta(hours=2))
PREVIOUS_EXPIRES = PROGRAMMED + timedelta(hours=2)
DONE, RECORD_ONLY, PENDING, ADD = Decision.DONE, Decision.RECORD_ONLY, Decision.PENDING, Decision.ADD


def blob(name: str, modified: datetime = PROGRAMMED, task_id: str = "", md5: str = "") -> UploadedFile:
    return UploadedFile(name=name, size=1, md5=md5, modified=modified, task_id=task_id, container="c")


def uploads(*groups: str, programmed: datetime = PROGRAMMED, md5: Mapping[str, str] | None = None) -> Uploads:
    """Groups of files a, b, ... with the ids topNtask0, topNtask1, ...; a group of one file has no bundle."""
    md5 = md5 or {}
    ids = {f"topNtask{at}": group for at, group in enumerate(groups)}
    return Uploads(
        application=[blob("script.py", programmed)],
        inputs=[
            blob(name, programmed, id, md5.get(name, f"md5-{name}")) for id, group in ids.items() for name in group
        ],
        bundles={
            id: Bundle(blob=blob(id), digest=f"{group} {[md5.get(each) for each in group]}")
            for id, group in ids.items()
            if len(group) > 1
        },
    )


def record(name: str, *, exit_code: int = 0, md5: str = "", size: int = 1, **more: object) -> FileRecord:
    made = Record(outputs=(), exit_code=exit_code)
    return FileRecord(name=name, size=size, md5=md5 or f"md5-{name}", record=made, **more)  # type: ignore[arg-type]


def records(*of: FileRecord | str, at: datetime = DONE_AT, next_list: int = 3) -> GroupRecords:
    """The last records of files of a group; of a name, a record of success."""
    all = [record(each) if isinstance(each, str) else each for each in of]
    written = RecordList(group="", number=next_list - 1, blob="", written=at)
    return combine([(written, all)])[""]


def task(
    of: Uploads,
    members: Sequence[int],
    progress: Progress = Progress.COMPLETED,
    *,
    id: str = "topNtask0",
    created: datetime = PROGRAMMED + timedelta(seconds=5),
    sas_expires: datetime = PREVIOUS_EXPIRES,
    succeeded: bool | None = None,
) -> PreviousTask:
    """The Batch task of a group of those uploads."""
    return PreviousTask(
        id=id,
        digest=of.bundles[id].digest,
        members=frozenset(members),
        progress=progress,
        succeeded=progress is Progress.COMPLETED if succeeded is None else succeeded,
        created=created,
        sas_expires=sas_expires,
    )


def left(*tasks: PreviousTask, job_has_ended: bool = False, **groups: GroupRecords) -> PreviousAttempt:
    """Groups by their ids without the beginning: t0=records(...)."""
    return PreviousAttempt(
        tasks={task.id: task for task in tasks},
        groups={f"topNtask{id[1:]}": found for id, found in groups.items()},
        job_has_ended=job_has_ended,
    )


def decisions(found: Plan) -> dict[str, Decision]:
    return {file.name: decision for file, decision in found.decisions}


def members(found: Plan) -> list[tuple[int, ...]]:
    return [group.members for group in found.groups]


ABC = uploads("abc")
RUNNING = task(ABC, [0, 1, 2], Progress.RUNNING)
FAILED = task(ABC, [0, 1, 2], succeeded=False)
SUCCEEDED = task(ABC, [0, 1, 2])


# The first attempt.


def test_a_first_attempt_adds_a_task_with_all_files_of_each_group() -> None:
    found = plan(uploads("abc", "d", "ef"), PreviousAttempt(), RUN)
    assert members(found) == [(0, 1, 2), (0,), (0, 1)]
    assert [each.adds for each in found.groups] == [True, True, True]
    assert (found.drop_tasks, found.drop_records, found.void, found.next_lists) == (set(), set(), {}, {})
    assert not found.all_done


# Done


def test_files_with_records_of_success_are_done_whether_their_task_is_there_or_not() -> None:
    found = plan(ABC, left(SUCCEEDED, t0=records("a", "b", "c")), RUN)
    assert (decisions(found), members(found)) == ({"a": DONE, "b": DONE, "c": DONE}, [(0, 1, 2)])
    assert (found.all_done, found.drop_tasks) == (True, set())
    found = plan(ABC, left(t0=records("a", "b", "c")), RUN)
    assert (decisions(found), members(found)) == ({"a": RECORD_ONLY, "b": RECORD_ONLY, "c": RECORD_ONLY}, [()])
    assert found.all_done


def test_a_task_that_processed_some_of_the_files_is_kept_with_these() -> None:
    found = plan(ABC, left(task(ABC, [1]), t0=records("a", "b", "c")), RUN)
    assert (decisions(found), members(found)) == ({"a": RECORD_ONLY, "b": DONE, "c": RECORD_ONLY}, [(1,)])


def test_where_all_is_done_a_task_that_failed_is_dropped() -> None:
    found = plan(ABC, left(FAILED, t0=records("a", "b", "c")), RUN)
    assert (set(decisions(found).values()), members(found)) == ({RECORD_ONLY}, [()])
    assert (found.all_done, found.drop_tasks, found.void) == (True, {"topNtask0"}, {})


# Processed again


def test_only_the_failed_file_of_a_group_is_processed_again() -> None:
    found = plan(ABC, left(FAILED, t0=records("a", record("b", exit_code=3), "c")), RUN)
    assert (decisions(found), members(found)) == ({"a": RECORD_ONLY, "b": ADD, "c": RECORD_ONLY}, [(1,)])
    assert found.drop_tasks == {"topNtask0"}
    assert (found.void, found.next_lists) == ({"topNtask0": {"b"}}, {"topNtask0": 3})
    assert [file.name for file in found.add] == ["b"]


@pytest.mark.parametrize(
    "last",
    [
        record("b", problem="timed out"),
        record("b", problem="killed by signal 11", exit_code=139),
        record("b", md5="other"),
        record("b", size=2),
    ],
    ids=["timed out", "killed", "another content", "another size"],
)
def test_a_record_that_is_of_no_success_with_the_present_content_is_void(last: FileRecord) -> None:
    found = plan(ABC, left(SUCCEEDED, t0=records("a", last, "c")), RUN)
    assert (members(found), found.void) == ([(1,)], {"topNtask0": {"b"}})


def test_a_file_without_record_is_processed_again_also_where_its_task_succeeded() -> None:
    found = plan(ABC, left(SUCCEEDED, t0=records("a", "c")), RUN)
    assert (members(found), found.drop_tasks, found.void) == ([(1,)], {"topNtask0"}, {})


def test_a_record_that_was_made_void_does_not_count_and_is_not_made_void_again() -> None:
    void = FileRecord(name="b", void=True)
    found = plan(ABC, left(SUCCEEDED, t0=records("a", void, "c")), RUN)
    assert (members(found), found.void) == ([(1,)], {})


def test_a_changed_file_is_processed_again_alone() -> None:
    """Its group has another digest, so the Batch task that goes on is not of the present group."""
    changed = uploads("abc", md5={"b": "new"})
    found = plan(changed, left(RUNNING, t0=records("a", "b")), RUN)
    assert (decisions(found), members(found)) == ({"a": RECORD_ONLY, "b": ADD, "c": ADD}, [(1, 2)])
    assert (found.drop_tasks, found.void) == ({"topNtask0"}, {"topNtask0": {"b"}})


def test_after_a_change_of_the_script_all_files_are_processed_again() -> None:
    changed = uploads("abc", programmed=DONE_AT + timedelta(seconds=1))
    found = plan(changed, left(SUCCEEDED, t0=records("a", "b", "c")), RUN)
    assert (members(found), found.drop_tasks) == ([(0, 1, 2)], {"topNtask0"})
    assert found.void == {"topNtask0": {"a", "b", "c"}}


def test_what_a_task_of_the_old_script_writes_after_the_change_does_not_count() -> None:
    changed = uploads("abc", programmed=DONE_AT - timedelta(seconds=1))
    for before in (RUNNING, SUCCEEDED):
        found = plan(changed, left(before, t0=records("a", "b")), RUN)
        assert (members(found), found.void) == ([(0, 1, 2)], {"topNtask0": {"a", "b"}})


def test_a_task_of_this_attempt_is_of_the_present_script_whatever_the_clocks_say() -> None:
    own = replace(RUNNING, sas_expires=RUN.expires, created=PROGRAMMED - timedelta(seconds=3))
    found = plan(ABC, left(own, t0=records("a")), RUN)
    assert decisions(found) == {"a": DONE, "b": PENDING, "c": PENDING}


# About to be done


def test_files_that_a_running_task_has_not_done_are_pending() -> None:
    found = plan(ABC, left(RUNNING, t0=records("a", record("b", exit_code=1))), RUN)
    assert (decisions(found), members(found)) == ({"a": DONE, "b": PENDING, "c": PENDING}, [(0, 1, 2)])
    assert (found.drop_tasks, found.void, found.add) == (set(), {}, [])


@pytest.mark.parametrize(("seconds", "decision"), [(3600, PENDING), (3599, ADD)])
def test_a_waiting_task_is_kept_if_its_sas_urls_last_for_half_of_the_run(seconds: int, decision: Decision) -> None:
    waiting = task(ABC, [0, 1, 2], Progress.WAITING, sas_expires=STARTED + timedelta(seconds=seconds))
    found = plan(ABC, left(waiting), RUN)
    assert set(decisions(found).values()) == {decision}
    assert found.drop_tasks == (set() if decision is PENDING else {"topNtask0"})


def test_a_failed_task_of_this_attempt_is_kept() -> None:
    found = plan(ABC, left(replace(FAILED, sas_expires=RUN.expires), t0=records("a")), RUN)
    assert (decisions(found), found.drop_tasks) == ({"a": DONE, "b": PENDING, "c": PENDING}, set())


def test_a_running_task_with_other_files_is_replaced_by_one_with_all_that_are_left() -> None:
    running = task(ABC, [2], Progress.RUNNING)
    found = plan(ABC, left(running, t0=records("a", FileRecord(name="b", void=True))), RUN)
    assert (decisions(found), members(found)) == ({"a": RECORD_ONLY, "b": ADD, "c": ADD}, [(1, 2)])
    assert found.drop_tasks == {"topNtask0"}


def test_a_running_task_is_kept_where_the_files_it_does_not_have_are_done() -> None:
    found = plan(ABC, left(task(ABC, [2], Progress.RUNNING), t0=records("a", "b")), RUN)
    assert (decisions(found), members(found)) == ({"a": RECORD_ONLY, "b": RECORD_ONLY, "c": PENDING}, [(2,)])
    assert found.drop_tasks == set()


# The list of files has changed in between.


def test_where_a_file_came_before_the_others_what_is_done_stays_done() -> None:
    before = uploads("abc", "def")
    now = uploads("0ab", "cde", "f")
    running = task(before, [0, 1, 2], Progress.RUNNING, id="topNtask1")
    found = plan(now, left(task(before, [0, 1, 2]), running, t0=records("a", "b", "c"), t1=records("d")), RUN)
    assert decisions(found) == {"0": ADD, "a": RECORD_ONLY, "b": RECORD_ONLY, "c": RECORD_ONLY, "d": RECORD_ONLY,
                                "e": ADD, "f": ADD}  # fmt: skip
    assert (members(found), found.drop_tasks, found.void) == ([(0,), (2,), (0,)], {"topNtask0", "topNtask1"}, {})


def test_where_files_are_gone_their_tasks_and_records_are_left_alone() -> None:
    before = uploads("abc", "def")
    tasks = [task(before, [0, 1, 2], id=id) for id in before.bundles]
    found = plan(uploads("abc"), left(*tasks, t0=records("a", "b", "c"), t1=records("d", "e", "f")), RUN)
    assert (found.all_done, found.drop_tasks, found.void) == (True, {"topNtask1"}, {})
    found = plan(uploads("ac"), left(*tasks, t0=records("a", "b", "c")), RUN)
    assert (found.all_done, found.drop_tasks, found.void) == (True, {"topNtask0", "topNtask1"}, {})


def test_a_file_is_made_void_in_each_group_that_has_had_it() -> None:
    now = uploads("ab", md5={"b": "new"})
    found = plan(now, left(t0=records("a", "b"), t1=records("b", "z"), t5=records("z")), RUN)
    assert (members(found), found.void) == ([(1,)], {"topNtask0": {"b"}, "topNtask1": {"b"}})


def test_of_records_in_several_groups_the_last_counts() -> None:
    failed = record("b", exit_code=1)
    later = DONE_AT + timedelta(seconds=1)
    assert plan(uploads("ab"), left(t0=records("a", failed), t4=records("b", at=later)), RUN).all_done
    assert members(plan(uploads("ab"), left(t0=records("a", "b"), t4=records(failed, at=later)), RUN)) == [(1,)]


# Files alone, now or before


def test_a_file_that_was_in_a_group_and_is_alone_now_is_done() -> None:
    """Its blob is newer than its record, which says itself what content it is of."""
    now = uploads("a")
    later = replace(now, inputs=[replace(now.inputs[0], modified=DONE_AT + timedelta(minutes=1))])
    found = plan(later, left(RUNNING, t0=records("a", "b")), RUN)
    assert (decisions(found), members(found), found.drop_tasks) == ({"a": RECORD_ONLY}, [()], {"topNtask0"})


def test_a_file_that_was_in_a_group_and_is_alone_and_another_now_is_not_done() -> None:
    found = plan(uploads("a", md5={"a": "new"}), left(RUNNING, t0=records("a", "b")), RUN)
    assert (decisions(found), members(found), found.void) == ({"a": ADD}, [(0,)], {"topNtask0": {"a"}})


def alone(name: str, *, of: FileRecord | None = None, at: datetime = DONE_AT, **more: object) -> PreviousAttempt:
    """A file with a record of its own."""
    return PreviousAttempt(
        records={record_blob(name): at},
        alone={name: of or record(name)},
        **more,  # type: ignore[arg-type]
    )


def test_a_file_that_was_alone_and_is_in_a_group_now_is_done() -> None:
    found = plan(uploads("ab"), alone("b"), RUN)
    assert (decisions(found), members(found), found.drop_records) == ({"a": ADD, "b": RECORD_ONLY}, [(0,)], set())


@pytest.mark.parametrize(
    "before",
    [
        alone("b", of=record("b", md5="old")),
        alone("b", at=PROGRAMMED - timedelta(seconds=1)),
        PreviousAttempt(records={record_blob("b"): DONE_AT}),
    ],
    ids=["another content", "another script", "damaged"],
)
def test_a_file_that_was_alone_and_another_is_processed_again(before: PreviousAttempt) -> None:
    found = plan(uploads("ab"), before, RUN)
    assert (members(found), found.drop_records) == ([(0, 1)], {record_blob("b")})


def test_a_task_of_a_file_alone_that_is_in_a_group_now_is_dropped() -> None:
    one = PreviousTask(
        id="topNtask0",
        input="a",
        progress=Progress.RUNNING,
        succeeded=False,
        created=DONE_AT,
        sas_expires=PREVIOUS_EXPIRES,
    )
    found = plan(uploads("ab"), left(one), RUN)
    assert (members(found), found.drop_tasks) == ([(0, 1)], {"topNtask0"})


def test_groups_and_files_alone_are_decided_beside_each_other() -> None:
    now = uploads("ab", "c", "de")
    own = PreviousTask(
        id="topNtask1", input="c", progress=Progress.RUNNING, succeeded=False, created=DONE_AT,
        sas_expires=PREVIOUS_EXPIRES,
    )  # fmt: skip
    found = plan(now, left(task(now, [0, 1]), own, t0=records("a", "b"), t2=records("d")), RUN)
    assert decisions(found) == {"a": DONE, "b": DONE, "c": PENDING, "d": RECORD_ONLY, "e": ADD}
    assert (members(found), found.drop_tasks) == ([(0, 1), (0,), (1,)], set())


# A job that has ended


def test_a_job_that_has_ended_runs_nothing_more_and_is_replaced() -> None:
    running = replace(RUNNING, sas_expires=RUN.expires)
    found = plan(ABC, left(running, t0=records("a"), job_has_ended=True), RUN)
    assert (decisions(found), members(found)) == ({"a": RECORD_ONLY, "b": ADD, "c": ADD}, [(1, 2)])
    assert (found.replace_job, found.drop_tasks) == (True, set())


def test_the_tasks_of_other_groups_go_with_a_job_that_is_replaced() -> None:
    now = uploads("ab", "cd")
    done = task(now, [0, 1])
    found = plan(now, left(done, t0=records("a", "b"), t1=records("c"), job_has_ended=True), RUN)
    assert decisions(found) == {"a": RECORD_ONLY, "b": RECORD_ONLY, "c": RECORD_ONLY, "d": ADD}
    assert (members(found), found.replace_job) == ([(), (1,)], True)


def test_a_job_that_has_ended_stays_where_all_is_done() -> None:
    found = plan(ABC, left(SUCCEEDED, t0=records("a", "b", "c"), job_has_ended=True), RUN)
    assert (found.replace_job, members(found), found.all_done) == (False, [(0, 1, 2)], True)


def test_files_whose_outdated_tasks_are_deleted_are_processed_anew() -> None:
    again = [file for file in ABC.inputs if file.name == "b"]
    found = plan(ABC, left(t0=records("a", "b", "c"), job_has_ended=True), RUN, again=again)
    assert (members(found), found.void) == ([(1,)], {"topNtask0": {"b"}})


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((3, 3, 0), "3 Batch tasks added, one per input file"),
        ((2, 1100, 0), "2 Batch tasks added, for 1,100 input files"),
        (
            (1, 3, 4),
            "1 Batch tasks added, for 3 input files; 4 input files are done, or have one, from a previous attempt",
        ),
        ((0, 0, 100), "no Batch tasks added; 100 input files are done, or have one, from a previous attempt"),
    ],
)
def test_the_log_says_how_many_batch_tasks_are_added_for_what(counts: tuple[int, int, int], text: str) -> None:
    assert what_is_added(*counts) == text
