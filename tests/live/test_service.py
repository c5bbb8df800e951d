"""What the product relies on in Azure Batch: codes, states and properties, with one pool of one node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from tasks.errors.service import error_code
from tasks.resources.pool import Pool, scale
from tasks.run.identity import Run
from tests.live.session import ONE_NODE, Account

TASKS: dict[str, dict[str, Any]] = {
    "succeeds": {"command_line": "/bin/sh -c 'echo out; echo err >&2'"},
    "exits-with-3": {"command_line": "/bin/sh -c 'exit 3'"},
    "retried": {
        "command_line": "/bin/sh -c 'exit 4'",
        "constraints": m.BatchTaskConstraints(max_task_retry_count=1),
    },
    "no-such-command": {"command_line": "/no/such/command"},
    "over-its-time": {"command_line": "/bin/sleep 600"},
}


@pytest.fixture(scope="module")
def job(batch: BatchClient, pool: Run) -> Iterator[Run]:
    info = m.BatchPoolInfo(pool_id=pool.pool_id)
    constraints = m.BatchJobConstraints(max_wall_clock_time=timedelta(minutes=40))
    batch.create_job(m.BatchJobCreateOptions(id=pool.job_id, pool_info=info, constraints=constraints))
    yield pool
    with suppress(ResourceNotFoundError, ResourceExistsError):  # the last test has deleted it
        batch.begin_delete_job(pool.job_id)


@pytest.fixture(scope="module")
def completed(batch: BatchClient, account: Account, job: Run) -> dict[str, m.BatchTask]:
    """The tasks, each with its end."""
    options = {id: m.BatchTaskCreateOptions(id=id, **each) for id, each in TASKS.items()}
    options["over-its-time"].constraints = m.BatchTaskConstraints(max_wall_clock_time=account.time_limit)
    answer = batch.create_task_collection(job.job_id, m.BatchTaskGroup(task_values=list(options.values())))
    assert [(each.task_id, each.error) for each in answer.result_values or ()] == [(id, None) for id in TASKS]

    def all_completed() -> list[m.BatchTask] | None:
        found = list(batch.list_tasks(job.job_id))
        return found if all(task.state == "completed" for task in found) else None

    return {task.id: task for task in account.wait_for("end of all tasks", all_completed)}


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(HttpResponseError) as refused:
        call()
    return int(refused.value.status_code or 0), error_code(refused.value)


def test_verified_ubuntu_images_are_listed(batch: BatchClient) -> None:
    images = batch.list_supported_images(filter="osType eq 'linux'")
    offers = {each.image_reference.offer.lower() for each in images if each.verification_type == "verified"}
    assert any("ubuntu" in offer for offer in offers)


def test_pool_is_as_it_was_created(batch: BatchClient, account: Account, pool: Run) -> None:
    def steady() -> m.BatchPool | None:
        found = batch.get_pool(pool.pool_id)
        return found if found.allocation_state == "steady" and found.auto_scale_run else None

    found = account.wait_for("steady pool", steady)
    assert (found.state, found.enable_auto_scale, found.task_slots_per_node) == ("active", True, 1)
    assert found.auto_scale_formula == scale(pool.expires, 1, 0)
    assert {item.name: item.value for item in found.metadata or ()} == pool.tags.metadata()
    assert not found.resize_errors, f"no node: {found.resize_errors}"


def test_formula_asks_for_the_nodes_until_its_deadline(batch: BatchClient, pool: Run) -> None:
    asked = batch.evaluate_pool_auto_scale(
        pool.pool_id, m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=scale(pool.expires, 1, 0))
    )
    over = batch.evaluate_pool_auto_scale(
        pool.pool_id, m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=scale(pool.started, 1, 0))
    )
    assert "$TargetDedicatedNodes=1;" in asked.results
    assert "$TargetDedicatedNodes=0;" in over.results
    assert not asked.error
    assert not over.error


def test_what_exists_is_not_created_again(batch: BatchClient, job: Run) -> None:
    info = m.BatchPoolInfo(pool_id=job.pool_id)
    assert refusal(Pool(batch, job, ONE_NODE).create) == (409, "PoolExists")
    assert refusal(lambda: batch.create_job(m.BatchJobCreateOptions(id=job.job_id, pool_info=info))) == (
        409,
        "JobExists",
    )


def test_what_does_not_exist_is_not_found(batch: BatchClient, job: Run) -> None:
    assert refusal(lambda: batch.get_pool("no-such-pool")) == (404, "PoolNotFound")
    assert refusal(lambda: batch.get_job("no-such-job")) == (404, "JobNotFound")
    assert refusal(lambda: batch.get_task(job.job_id, "no-such-task")) == (404, "TaskNotFound")


def test_a_malformed_id_is_refused(batch: BatchClient, pool: Run) -> None:
    malformed = m.BatchJobCreateOptions(id="not an id", pool_info=m.BatchPoolInfo(pool_id=pool.pool_id))
    assert refusal(lambda: batch.create_job(malformed)) == (400, "InvalidPropertyValue")


def test_each_task_ends_as_its_command_did(completed: dict[str, m.BatchTask]) -> None:
    ends = {id: (task.execution_info.result, task.execution_info.exit_code) for id, task in completed.items()}
    assert ends["succeeds"] == ("success", 0)
    assert ends["exits-with-3"] == ("failure", 3)
    assert ends["retried"] == ("failure", 4)
    assert ends["no-such-command"][0] == "failure"
    assert ends["over-its-time"][0] == "failure"


def test_failures_have_the_codes_that_are_known(completed: dict[str, m.BatchTask]) -> None:
    failures = {id: task.execution_info.failure_info for id, task in completed.items()}
    assert failures["succeeds"] is None
    assert failures["exits-with-3"].code == failures["retried"].code == "FailureExitCode"
    assert failures["no-such-command"].code == "CommandProgramNotFound"
    assert failures["over-its-time"].category.lower() == "usererror"
    assert completed["retried"].execution_info.retry_count == 1


def test_counts_follow_the_tasks(batch: BatchClient, account: Account, completed: object, job: Run) -> None:
    def counted() -> bool:
        counts = batch.get_job_task_counts(job.job_id).task_counts
        return (counts.active, counts.running, counts.completed, counts.succeeded, counts.failed) == (0, 0, 5, 1, 4)

    account.wait_for("counts of all tasks", counted)


def test_tasks_are_filtered_and_selected(batch: BatchClient, completed: object, job: Run) -> None:
    found = list(batch.list_tasks(job.job_id, filter="executionInfo/result eq 'failure'", select=["id", "state"]))
    assert sorted(task.id for task in found) == sorted(TASKS.keys() - {"succeeds"})
    assert {task.execution_info for task in found} == {None}


def test_output_of_a_task_can_be_read(batch: BatchClient, completed: object, job: Run) -> None:
    def content(name: str) -> bytes:
        return b"".join(batch.download_task_file(job.job_id, "succeeds", name))

    assert (content("stdout.txt"), content("stderr.txt")) == (b"out\n", b"err\n")
    assert batch.get_task_file_properties(job.job_id, "succeeds", "stdout.txt").content_length == 4


def test_a_terminated_job_keeps_its_reason(batch: BatchClient, account: Account, completed: object, job: Run) -> None:
    options: Any = {"terminateReason": "OurReason"}
    batch.begin_terminate_job(job.job_id, options)
    account.wait_for("end of the job", lambda: batch.get_job(job.job_id).state == "completed")
    assert batch.get_job(job.job_id).execution_info.termination_reason == "OurReason"
    batch.begin_delete_job(job.job_id)

    def gone() -> bool:
        return job.job_id not in [each.id for each in batch.list_jobs(select=["id"])]

    account.wait_for("deletion of the job", gone)
