"""The asynchronous client of the SDK; each of its answers is held against the SDK's models."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from azure.batch import models as m
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError

from tests.support.batch_service import pool_options, shell, task

pytestmark = pytest.mark.asyncio
JOB = m.BatchJobCreateOptions(id="job", pool_info=m.BatchPoolInfo(pool_id="pool"))


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async def seen() -> None:
        while not await look():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(seen(), 15)


@asynccontextmanager
async def ready(service, **options):
    """A client with the job `job` on the pool `pool`, whose one node is idle."""
    async with service.async_client() as client:
        await client.create_pool(pool_options(**options))
        await client.create_job(JOB)
        await until(lambda: nodes_are(client, "idle"))
        yield client


async def nodes_are(client, *states: str) -> bool:
    return [node.state async for node in client.list_nodes("pool")] == list(states)


async def completed(client, count: int) -> bool:
    return (await client.get_job_task_counts("job")).task_counts.completed == count


async def content(stream) -> bytes:
    return b"".join([chunk async for chunk in await stream])


async def test_whole_life_of_a_job(service):
    async with ready(service, task_slots_per_node=2) as client:
        await client.create_tasks("job", [task(f"t{number}", shell(f"echo {number}")) for number in range(5)])
        await until(lambda: completed(client, 5))
        done = [item.id async for item in client.list_tasks("job", filter="executionInfo/exitCode eq 0")]
        assert done == [f"t{number}" for number in range(5)]
        assert await content(client.download_task_file("job", "t3", "stdout.txt")) == b"3\n"
        for poller in (
            await client.begin_delete_job("job", polling_interval=0.02),
            await client.begin_delete_pool("pool", polling_interval=0.02),
        ):
            await poller.result()
        with pytest.raises(ResourceNotFoundError) as refusal:
            await client.get_pool("pool")
        assert refusal.value.error.code == "PoolNotFound"


async def test_pool_is_shown_changed_and_resized(service):
    async with ready(service) as client:
        before = await client.get_pool("pool")
        assert (before.state, before.allocation_state, before.current_dedicated_nodes) == ("active", "steady", 1)
        await client.update_pool("pool", m.BatchPoolUpdateOptions(metadata=[m.BatchMetadataItem(name="a", value="b")]))
        changed = await client.get_pool("pool")
        assert [(item.name, item.value) for item in changed.metadata] == [("a", "b")]
        unchanged = {"etag": before.etag, "match_condition": MatchConditions.IfNotModified}
        with pytest.raises(ResourceModifiedError) as refusal:
            await client.update_pool("pool", m.BatchPoolUpdateOptions(metadata=[]), **unchanged)
        assert refusal.value.status_code == 412
        resize = m.BatchPoolResizeOptions(target_dedicated_nodes=2)
        await (await client.begin_resize_pool("pool", resize, polling_interval=0.02)).result()
        await until(lambda: nodes_are(client, "idle", "idle"))
        counts = [item async for item in client.list_pool_node_counts()]
        assert [(item.pool_id, item.dedicated.total, item.dedicated.idle) for item in counts] == [("pool", 2, 2)]
        assert [pool.id async for pool in client.list_pools(select=["id"])] == ["pool"]


async def test_job_is_disabled_enabled_and_terminated(service):
    async with ready(service) as client:
        await (
            await client.begin_disable_job(
                "job", m.BatchJobDisableOptions(disable_tasks="requeue"), polling_interval=0.02
            )
        ).result()
        assert (await client.get_job("job")).state == "disabled"
        await (await client.begin_enable_job("job", polling_interval=0.02)).result()
        assert (await client.get_job("job")).state == "active"
        options: Any = {"terminateReason": "enough"}
        await (await client.begin_terminate_job("job", options, polling_interval=0.02)).result()
        ended = await client.get_job("job")
        assert (ended.state, ended.execution_info.termination_reason) == ("completed", "enough")
        with pytest.raises(ResourceExistsError) as refusal:
            await client.create_task("job", task())
        assert refusal.value.error.code == "JobCompleted"


async def test_tasks_are_counted_paged_terminated_and_deleted(service):
    async with ready(service) as client:
        await client.create_task("job", task("runs", "/bin/sleep 60"))
        await client.create_tasks("job", [task(f"t{number}") for number in range(5)], max_concurrency=2)
        pages = client.list_tasks("job", max_results=4).by_page()
        assert [[item.id async for item in page] async for page in pages] == [["runs", "t0", "t1", "t2"], ["t3", "t4"]]
        await client.terminate_task("job", "runs")
        await until(lambda: completed(client, 6))
        counts = (await client.get_job_task_counts("job")).task_counts
        assert (counts.active, counts.running, counts.succeeded, counts.failed) == (0, 0, 5, 1)
        assert (await client.get_task("job", "runs")).execution_info.failure_info.code == "TaskEnded"
        await client.delete_task("job", "runs")
        with pytest.raises(ResourceNotFoundError) as refusal:
            await client.get_task("job", "runs")
        assert refusal.value.error.code == "TaskNotFound"


async def test_refused_tasks_are_distinguished(service):
    service.admin("taskstatuses", capitalised=False)  # azure-batch 15.1 overlooks Azure's own
    async with service.async_client() as client:
        await client.create_job(JOB)
        with pytest.raises(m.CreateTasksError) as refusal:
            await client.create_tasks("job", [task("good"), task("bad id")])
        assert [item.task_id for item in refusal.value.failure_tasks] == ["bad id"]
        with pytest.raises(HttpResponseError) as refused:
            await client.create_task("job", task("bad id"))
        assert (refused.value.status_code, refused.value.error.code) == (400, "InvalidPropertyValue")


async def test_files_are_listed_read_in_part_and_deleted(service):
    async with ready(service) as client:
        await client.create_task("job", task("task", shell("echo 0123456789 > result.txt")))
        await until(lambda: completed(client, 1))
        names = [item.name async for item in client.list_task_files("job", "task", recursive=True)]
        assert names == ["stderr.txt", "stdout.txt", "wd", "wd/result.txt"]
        properties = await client.get_task_file_properties("job", "task", "wd/result.txt")
        assert (properties.content_length, properties.is_directory) == (11, False)
        part = client.download_task_file("job", "task", "wd/result.txt", ocp_range="bytes=2-4")
        assert await content(part) == b"234"
        await client.delete_task_file("job", "task", "wd/result.txt")
        with pytest.raises(ResourceNotFoundError) as refusal:
            await content(client.download_task_file("job", "task", "wd/result.txt"))
        assert refusal.value.error.code == "FileNotFound"
        (node,) = [node async for node in client.list_nodes("pool")]
        file = client.download_node_file("pool", node.id, "workitems/job/job-1/task/stdout.txt")
        assert await content(file) == b""


async def test_faults_reach_the_asynchronous_client(service):
    async with service.async_client(retry_total=0) as client:
        await asyncio.to_thread(service.admin, "requests", operation="create_job", status=503)
        with pytest.raises(HttpResponseError) as failure:
            await client.create_job(JOB)
        assert (failure.value.status_code, failure.value.error.code) == (503, "ServerBusy")
        assert [job.id async for job in client.list_jobs()] == []
