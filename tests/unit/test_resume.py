"""What a retry keeps, adds and drops, given the files and what a previous attempt has left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from azure.batch.models import BatchTask

from tasks.run import resume
from tasks.run.identity import Run
from tasks.run.previous_attempt import PreviousAttempt, PreviousTask, Progress, previous_task
from tasks.run.records import record_blob
from tasks.run.resume import Decision, Plan
from tasks.run.uploads import UploadedFile, Uploads

UPLOADED = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)
DONE_AT = UPLOADED + timedelta(seconds=10)
STARTED = UPLOADED + timedelta(minutes=30)
RUN = Run(workload="top-words", flow_run_id="0" * 32, started=STARTED, lifetime=timedelta(hours=2))
PREVIOUS_EXPIRES = UPLOADED + timedelta(hours=2)


def file(name: str = "a.txt", index: int = 0, modified: datetime = UPLOADED) -> UploadedFile:
    return UploadedFile(
        name=name,
        size=1,
        task_id=f"topNtask{index}",
        modified=modified,
        container="input",
        sas_url="",
    )


def task(
    name: str = "a.txt",
    progress: Progress = Progress.COMPLETED,
    succeeded: bool | None = None,
    sas_expires: datetime | None = PREVIOUS_EXPIRES,
    created: datetime = UPLOADED + timedelta(seconds=5),
) -> PreviousTask:
    if succeeded is None:
        succeeded = progress is Progress.COMPLETED
    return PreviousTask(
        id="",
        input=name,
        progress=progress,
        succeeded=succeeded,
        created=created,
        sas_expires=sas_expires,
    )


FAILED = task(succeeded=False)
RUNNING = task(progress=Progress.RUNNING)
WAITING = task(progress=Progress.WAITING)
A, B, C = file("a.txt", 0), file("b.txt", 1), file("c.txt", 2)


def left(*tasks: PreviousTask | None, records: Sequence[str] = (), job_has_ended: bool = False) -> PreviousAttempt:
    """The tasks under the ids topNtask0, topNtask1, ..., and records written after them."""
    ids = {f"topNtask{index}": each for index, each in enumerate(tasks) if each}
    return PreviousAttempt(
        tasks={id: replace(each, id=id) for id, each in ids.items()},
        records={record_blob(f"{name}.txt"): DONE_AT for name in records},
        job_has_ended=job_has_ended,
    )


def plan(files: Sequence[UploadedFile], previous: PreviousAttempt, again: Sequence[UploadedFile] = ()) -> Plan:
    return resume.plan(Uploads(application=(), inputs=files), previous, RUN, again)


def decide(previous: PreviousAttempt, of: UploadedFile = A) -> Decision:
    ((_, decision),) = plan([of], previous).decisions
    return decision


def names(found: Plan) -> list[str]:
    return [file.name for file in found.add]


# What is done.


def test_a_first_attempt_adds_a_task_for_every_file() -> None:
    found = plan([A, B], PreviousAttempt())
    assert names(found) == ["a.txt", "b.txt"]
    assert (found.drop_tasks, found.drop_records, found.replace_job) == (frozenset(), frozenset(), False)
    assert not found.all_done


def test_a_file_with_a_task_that_succeeded_and_a_record_is_done() -> None:
    assert decide(left(task(), records="a")) is Decision.DONE


def test_a_record_is_enough_where_its_task_is_gone() -> None:
    assert decide(left(records="a")) is Decision.RECORD_ONLY


def test_a_record_without_task_is_enough_where_ids_have_shifted() -> None:
    found = plan([A], left(task("0.txt"), records="a"))
    assert [decision for _, decision in found.decisions] == [Decision.RECORD_ONLY]
    assert found.drop_tasks == {"topNtask0"}


@pytest.mark.parametrize("before", [FAILED, RUNNING, WAITING], ids=["failed", "running", "waiting"])
def test_the_record_of_a_task_that_failed_or_goes_on_is_not_enough(before: PreviousTask) -> None:
    assert decide(left(before, records="a")) not in (Decision.DONE, Decision.RECORD_ONLY)


def test_a_task_that_succeeded_is_not_enough_without_record() -> None:
    assert decide(left(task())) is Decision.ADD


@pytest.mark.parametrize("tasks", [(), (task(),)], ids=["without task", "with task"])
def test_a_record_of_an_earlier_content_is_not_enough(tasks: tuple[PreviousTask, ...]) -> None:
    changed = file(modified=DONE_AT + timedelta(seconds=1))
    found = plan([changed], left(*tasks, records="a"))
    assert names(found) == ["a.txt"]
    assert found.drop_records == {"records/a.txt.json"}


def test_what_an_outdated_task_writes_after_the_change_is_not_enough() -> None:
    changed = file(modified=DONE_AT - timedelta(seconds=1))
    previous = left(task(created=changed.modified - timedelta(seconds=1)), records="a")
    found = plan([changed], previous)
    assert names(found) == ["a.txt"]
    assert found.drop_tasks == {"topNtask0"}
    assert found.drop_records == {"records/a.txt.json"}


def test_an_outdated_task_is_seen_also_where_its_id_has_shifted() -> None:
    changed = file("a.txt", 1, modified=DONE_AT - timedelta(seconds=1))
    previous = left(task("a.txt", created=changed.modified - timedelta(seconds=1)), records="a")
    assert names(plan([file("0.txt", 0), changed], previous)) == ["0.txt", "a.txt"]


# What is about to be done.


@pytest.mark.parametrize("before", [FAILED, RUNNING, WAITING], ids=["failed", "running", "waiting"])
def test_a_task_of_this_attempt_is_kept_whatever_became_of_it(before: PreviousTask) -> None:
    assert decide(left(replace(before, sas_expires=RUN.expires))) is Decision.PENDING


def test_a_running_task_is_kept() -> None:
    assert decide(left(replace(RUNNING, sas_expires=STARTED + timedelta(minutes=1)))) is Decision.PENDING


def test_a_task_that_failed_in_a_previous_attempt_is_replaced() -> None:
    found = plan([A], left(FAILED))
    assert names(found) == ["a.txt"]
    assert found.drop_tasks == {"topNtask0"}


@pytest.mark.parametrize(
    ("seconds", "decision"), [(3600, Decision.PENDING), (3599, Decision.ADD), (-1, Decision.ADD), (None, Decision.ADD)]
)
def test_a_waiting_task_is_kept_if_its_sas_urls_last_for_half_of_the_run(
    seconds: int | None, decision: Decision
) -> None:
    expires = None if seconds is None else STARTED + timedelta(seconds=seconds)
    assert decide(left(replace(WAITING, sas_expires=expires))) is decision


def test_a_task_of_another_file_under_the_file_s_id_is_replaced() -> None:
    found = plan([A], left(task("0.txt", Progress.RUNNING)))
    assert names(found) == ["a.txt"]
    assert found.drop_tasks == {"topNtask0"}


@pytest.mark.parametrize("before", [RUNNING, WAITING], ids=["running", "waiting"])
def test_a_task_created_before_the_file_changed_is_replaced(before: PreviousTask) -> None:
    found = plan([file(modified=UPLOADED + timedelta(minutes=20))], left(before))
    assert names(found) == ["a.txt"]
    assert found.drop_tasks == {"topNtask0"}


def test_a_task_of_this_attempt_is_kept_where_the_services_clocks_differ() -> None:
    before = replace(WAITING, sas_expires=RUN.expires, created=UPLOADED - timedelta(seconds=3))
    found = plan([A], left(before))
    assert found.decisions == ((A, Decision.PENDING),)
    assert found.drop_tasks == frozenset()


# Several files.


def test_only_the_file_that_failed_is_processed_again() -> None:
    found = plan([A, B, C], left(task("a.txt"), replace(FAILED, input="b.txt"), records="a"))
    assert names(found) == ["b.txt", "c.txt"]
    assert found.drop_tasks == {"topNtask1"}
    assert found.drop_records == frozenset()


def test_a_file_whose_record_was_deleted_is_processed_again_alone() -> None:
    found = plan([A, B, C], left(task("a.txt"), task("b.txt"), task("c.txt"), records="ac"))
    assert names(found) == ["b.txt"]


def test_a_new_file_before_the_others_shifts_their_ids_and_nothing_else() -> None:
    shifted = [file("0.txt", 0), file("a.txt", 1), file("b.txt", 2)]
    found = plan(shifted, left(task("a.txt"), task("b.txt"), records="ab"))
    assert [decision for _, decision in found.decisions] == [
        Decision.ADD,
        Decision.RECORD_ONLY,
        Decision.RECORD_ONLY,
    ]
    assert found.drop_tasks == {"topNtask0", "topNtask1"}
    assert found.drop_records == frozenset()


def test_files_that_run_under_shifted_ids_are_processed_anew() -> None:
    shifted = [file("0.txt", 0), file("a.txt", 1), file("b.txt", 2)]
    before = left(task("a.txt"), task("b.txt", Progress.RUNNING), records="a")
    found = plan(shifted, before)
    assert names(found) == ["0.txt", "b.txt"]
    assert found.drop_tasks == {"topNtask0", "topNtask1"}


def test_the_task_of_a_file_that_is_gone_is_dropped() -> None:
    found = plan([B, C], left(task("a.txt"), task("b.txt"), task("c.txt"), records="abc"))
    assert found.all_done
    assert found.drop_tasks == {"topNtask0"}
    assert found.drop_records == frozenset()


def test_a_task_under_another_id_than_its_file_has_now_is_dropped() -> None:
    before = left(task("0.txt"), task("a.txt"), task("b.txt"), records="0ab")
    assert plan([file("a.txt", 0), file("b.txt", 2)], before).drop_tasks == {"topNtask0", "topNtask1"}
    assert not plan([file("0.txt", 0), file("a.txt", 1), file("b.txt", 2)], before).drop_tasks


@pytest.mark.parametrize("tasks", [(), (task("a.txt"), task("b.txt"))], ids=["without tasks", "with tasks"])
def test_where_all_records_exist_all_is_done(tasks: tuple[PreviousTask, ...]) -> None:
    assert plan([A, B], left(*tasks, records="ab")).all_done
    assert not plan([A, B], left(*tasks, records="a")).all_done


# A job that has ended.


def test_a_job_that_has_ended_is_replaced_where_files_are_left() -> None:
    before = left(task("a.txt"), replace(FAILED, input="b.txt"), records="ab", job_has_ended=True)
    found = plan([A, B], before)
    assert found.replace_job
    assert found.decisions == ((A, Decision.RECORD_ONLY), (B, Decision.ADD))  # the tasks go with their job
    assert found.drop_tasks == frozenset()
    assert found.drop_records == {"records/b.txt.json"}


def test_a_job_that_has_ended_stays_where_all_is_done() -> None:
    found = plan([A], left(task(), records="a", job_has_ended=True))
    assert not found.replace_job
    assert found.decisions == ((A, Decision.DONE),)


@pytest.mark.parametrize("sas_expires", [RUN.expires, PREVIOUS_EXPIRES], ids=["of this attempt", "of a previous one"])
@pytest.mark.parametrize("progress", [Progress.RUNNING, Progress.WAITING])
def test_a_job_that_has_ended_runs_nothing_more(progress: Progress, sas_expires: datetime) -> None:
    found = plan([A], left(task(progress=progress, sas_expires=sas_expires), job_has_ended=True))
    assert (names(found), found.replace_job) == (["a.txt"], True)


def test_files_whose_outdated_tasks_are_deleted_are_processed_anew() -> None:
    before = left(None, task("b.txt"), records="ab", job_has_ended=True)  # the task of a.txt said that it was outdated
    found = plan([A, B], before, again=[A])
    assert found.decisions == ((A, Decision.ADD), (B, Decision.RECORD_ONLY))
    assert found.replace_job
    assert found.drop_records == {"records/a.txt.json"}


# A Batch task as the service describes it.


def described(**more: object) -> PreviousTask:
    settings = {"INPUT_NAME": "a.txt", "SAS_EXPIRES": "2026-11-22T14:00:00.000123+00:00"}
    environment = [{"name": name, "value": value} for name, value in settings.items()]
    return previous_task(BatchTask({"id": "topNtask0", "state": "active", "environmentSettings": environment, **more}))


def test_a_task_s_environment_names_its_file_and_attempt() -> None:
    assert described(creationTime="2026-11-22T12:00:05Z") == PreviousTask(
        id="topNtask0",
        input="a.txt",
        progress=Progress.WAITING,
        succeeded=False,
        created=UPLOADED + timedelta(seconds=5),
        sas_expires=datetime(2026, 11, 22, 14, 0, 0, 123, tzinfo=timezone.utc),
    )


@pytest.mark.parametrize("expires", ["", "soon", "2026-11-22T14:00:00"])
def test_a_time_that_cannot_be_read_is_unknown(expires: str) -> None:
    assert described(environmentSettings=[{"name": "SAS_EXPIRES", "value": expires}]).sas_expires is None


@pytest.mark.parametrize(
    ("state", "result", "progress", "succeeded"),
    [
        ("active", None, Progress.WAITING, False),
        ("preparing", None, Progress.RUNNING, False),
        ("running", None, Progress.RUNNING, False),
        ("completed", "success", Progress.COMPLETED, True),
        ("completed", "failure", Progress.COMPLETED, False),
    ],
)
def test_completed_is_not_succeeded(state: str, result: str | None, progress: Progress, succeeded: bool) -> None:
    info = {"retryCount": 0, "requeueCount": 0, "result": result}
    found = described(state=state, executionInfo=info)
    assert (found.progress, found.succeeded) == (progress, succeeded)
