"""Which Batch tasks and outputs of an earlier try do for a file, and which do not."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from azure.batch.models import BatchTask

from tasks.run.identity import Run
from tasks.run.previous_attempt import Earlier
from tasks.run.uploads import UploadedFile

UPLOADED = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)
STARTED = UPLOADED + timedelta(minutes=30)
RUN = Run(workload="top-words", flow_run_id="0" * 32, started=STARTED, lifetime=timedelta(hours=2))


def file(name: str = "a.txt", index: int = 0, modified: datetime = UPLOADED) -> UploadedFile:
    return UploadedFile(
        blob_name=name,
        size=1,
        output_name=name.replace(".", "_OUTPUT."),
        task_id=f"topNtask{index}",
        md5="",
        modified=modified,
        sas_url="",
    )


def task(
    name: str = "a.txt",
    state: str = "completed",
    result: str | None = "success",
    expires: datetime | str = UPLOADED + timedelta(hours=2),
    created: datetime = UPLOADED + timedelta(seconds=5),
) -> BatchTask:
    text = expires if isinstance(expires, str) else expires.isoformat(timespec="seconds")
    settings = {"INPUT_FILE": f"input/{name}", "SAS_EXPIRES": text}
    made: dict[str, object] = {
        "state": state,
        "creationTime": created.isoformat(),
        "environmentSettings": [{"name": name, "value": value} for name, value in settings.items()],
    }
    if result:
        made["executionInfo"] = {"retryCount": 0, "requeueCount": 0, "result": result}
    return BatchTask(made)


def earlier(*tasks: BatchTask, written: datetime | None = UPLOADED + timedelta(seconds=10)) -> Earlier:
    """The tasks under the ids topNtask0, topNtask1, ..., and an output of a.txt."""
    return Earlier(
        this_try=RUN.expires.isoformat(),
        tasks={f"topNtask{index}": each for index, each in enumerate(tasks)},
        outputs={"a_OUTPUT.txt": written} if written else {},
    )


# What has been counted.


def test_a_file_with_a_task_that_succeeded_and_its_output_has_been_counted() -> None:
    found = earlier(task())
    assert found.has_counted(file())
    assert not found.has_only_the_output(file())


def test_an_output_is_enough_where_its_task_is_gone() -> None:
    found = earlier()
    assert found.has_counted(file())
    assert found.has_only_the_output(file())


def test_an_output_without_its_task_is_enough_also_where_the_ids_have_shifted() -> None:
    found = earlier(task("0.txt"))
    assert found.has_counted(file("a.txt"))
    assert found.has_only_the_output(file("a.txt"))


@pytest.mark.parametrize(("state", "result"), [("completed", "failure"), ("running", None), ("active", None)])
def test_the_output_of_a_task_that_failed_or_goes_on_does_not_do(state: str, result: str | None) -> None:
    assert not earlier(task(state=state, result=result)).has_counted(file())


def test_a_task_that_succeeded_is_not_enough_without_its_output() -> None:
    assert not earlier(task(), written=None).has_counted(file())


@pytest.mark.parametrize("with_task", [True, False])
def test_an_output_from_an_earlier_content_of_the_file_does_not_do(with_task: bool) -> None:
    found = earlier(*[task()] * with_task)
    changed = file(modified=UPLOADED + timedelta(seconds=11))
    assert not found.has_counted(changed)
    assert not found.has_only_the_output(changed)


# What is about to be counted.


def test_a_task_of_this_very_try_will_count_the_file_whatever_became_of_it() -> None:
    for state, result in [("active", None), ("running", None), ("completed", "failure")]:
        assert earlier(task(state=state, result=result, expires=RUN.expires)).will_count(file(), RUN)


def test_a_running_task_will_count_the_file() -> None:
    for state in ("preparing", "running"):
        assert earlier(task(state=state, result=None, expires=STARTED + timedelta(minutes=1))).will_count(file(), RUN)


def test_a_task_that_ended_in_an_earlier_try_will_not() -> None:
    assert not earlier(task(result="failure")).will_count(file(), RUN)


@pytest.mark.parametrize(("left", "will"), [(60 * 60, True), (60 * 60 - 1, False), (-1, False)])
def test_a_waiting_task_will_count_the_file_if_its_sas_urls_outlast_half_of_the_run(left: int, will: bool) -> None:
    waiting = task(state="active", result=None, expires=STARTED + timedelta(seconds=left))
    assert earlier(waiting).will_count(file(), RUN) is will


def test_a_waiting_task_whose_sas_urls_end_at_a_time_nobody_knows_will_not() -> None:
    assert not earlier(task(state="active", result=None, expires="")).will_count(file(), RUN)


def test_a_task_of_another_file_under_the_file_s_id_will_not() -> None:
    assert not earlier(task("0.txt", state="running", result=None)).will_count(file(), RUN)


def test_a_file_without_task_is_not_about_to_be_counted() -> None:
    assert not earlier().will_count(file(), RUN)


@pytest.mark.parametrize("state", ["active", "running"])
def test_a_task_made_before_the_file_had_its_present_content_will_not(state: str) -> None:
    old = task(state=state, result=None)
    changed = file(modified=UPLOADED + timedelta(minutes=20))
    assert not earlier(old).will_count(changed, RUN)


def test_what_such_a_task_writes_after_the_file_has_changed_does_not_do() -> None:
    found = earlier(task(), written=UPLOADED + timedelta(minutes=21))
    changed = file(modified=UPLOADED + timedelta(minutes=20))
    assert not found.has_counted(changed)
    assert not found.has_only_the_output(changed)


# Tasks that count none of the files.


def test_tasks_of_files_that_are_gone_or_have_another_id_are_strangers() -> None:
    found = earlier(task("0.txt"), task("a.txt"), task("b.txt"))
    assert found.strangers([file("a.txt", 0), file("b.txt", 2)]) == ["topNtask0", "topNtask1"]
    assert found.strangers([file("0.txt", 0), file("a.txt", 1), file("b.txt", 2)]) == []


def test_a_task_of_this_try_is_left_alone_also_where_the_services_clocks_disagree() -> None:
    before = task(state="active", result=None, expires=RUN.expires, created=UPLOADED - timedelta(seconds=3))
    found = earlier(before, written=None)
    assert found.will_count(file(), RUN)
    assert found.strangers([file()]) == []
