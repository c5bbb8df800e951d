from __future__ import annotations

from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError

from tests.support.batch_service import create_job, create_pool, task, wait_for, wait_for_task


def on(*ids: str, ranges: tuple[tuple[int, int], ...] = ()) -> dict[str, Any]:
    spans = [m.BatchTaskIdRange(start=first, end=last) for first, last in ranges]
    return {"depends_on": m.BatchTaskDependencies(task_ids=list(ids), task_id_ranges=spans)}


def default(**options) -> dict[str, Any]:
    return {"exit_conditions": m.ExitConditions(default=m.ExitOptions(**options))}


def for_code(code: int, **options) -> dict[str, Any]:
    mapping = m.ExitCodeMapping(code=code, exit_options=m.ExitOptions(**options))
    return {"exit_conditions": m.ExitConditions(exit_codes=[mapping])}


@pytest.fixture
def ready(client):
    create_pool(client, task_slots_per_node=2)
    create_job(client, uses_task_dependencies=True)
    return client


def test_tasks_run_after_those_they_depend_on(ready):
    ready.create_tasks(
        "job",
        [
            task("last", **on("MIDDLE")),
            task("middle", **on("first", "second")),
            task("first", "/bin/sleep 0.2"),
            task("second"),
        ],
    )
    last = wait_for_task(ready, "last")
    middle, first = ready.get_task("job", "middle"), ready.get_task("job", "first")
    assert first.execution_info.end_time <= middle.execution_info.start_time
    assert middle.execution_info.end_time <= last.execution_info.start_time


def test_task_waits_for_a_task_that_does_not_exist_yet(ready):
    ready.create_tasks("job", [task("waits", **on("later")), task("other")])
    wait_for_task(ready, "other")
    assert ready.get_task("job", "waits").state == "active"
    ready.create_task("job", task("later"))
    wait_for_task(ready, "waits")


def test_range_counts_ids_as_numbers_and_needs_all_of_them(ready):
    ready.create_tasks("job", [task("sum", **on(ranges=((1, 3),))), task("001"), task("2")])
    wait_for_task(ready, "001")
    wait_for_task(ready, "2")
    assert ready.get_task("job", "sum").state == "active"
    ready.create_task("job", task("3"))
    wait_for_task(ready, "sum")


def test_failure_blocks_dependants_unless_it_is_to_satisfy_them(ready):
    ready.create_tasks(
        "job",
        [
            task("blocks", "/bin/false"),
            task("satisfies", "/bin/false", **for_code(1, dependency_action="satisfy")),
            task("blocked", **on("blocks")),
            task("free", **on("satisfies")),
        ],
    )
    wait_for_task(ready, "free")
    wait_for_task(ready, "blocks")
    assert ready.get_task("job", "blocked").state == "active"


def test_dependencies_need_a_job_that_uses_them(client):
    create_job(client)
    with pytest.raises(HttpResponseError) as refusal:
        client.create_task("job", task(**on("other")))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "TaskDependenciesNotSpecifiedOnJob")


def test_too_many_dependencies_are_refused(ready):
    with pytest.raises(HttpResponseError) as refusal:
        ready.create_task("job", task(**on(*[f"{number:064}" for number in range(1001)])))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "TaskDependencyListTooLong")


@pytest.mark.parametrize(
    ("conditions", "command", "state", "reason"),
    [
        ({}, "/bin/false", "completed", "TaskFailed"),
        (for_code(1, job_action="none"), "/bin/false", "active", None),
        (for_code(1, job_action="disable"), "/bin/false", "disabled", None),
        (default(job_action="none"), "/bin/false", "active", None),
        (default(job_action="disable"), "no-such-program", "disabled", None),
        (
            {"exit_conditions": m.ExitConditions(pre_processing_error=m.ExitOptions(job_action="none"))},
            "no-such-program",
            "active",
            None,
        ),
        (for_code(0, job_action="terminate"), "/bin/true", "completed", "TaskFailed"),
    ],
)
def test_exit_condition_decides_what_happens_to_the_job(client, conditions, command, state, reason):
    create_pool(client)
    create_job(client, task_failure_mode="performexitoptionsjobaction")
    client.create_task("job", task("task", command, **conditions))
    wait_for_task(client)
    job = wait_for(lambda: next((job for job in client.list_jobs() if job.state == state), None))
    assert job.execution_info.termination_reason == reason


def test_job_action_in_a_job_without_any_is_refused(client):
    create_job(client)
    with pytest.raises(HttpResponseError) as refusal:
        client.create_task("job", task(**default(job_action="terminate")))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")
