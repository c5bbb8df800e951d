"""The asynchronous client of the SDK, from a pool to a file."""

from __future__ import annotations

import asyncio

import pytest
from azure.batch import models as m
from azure.batch.aio import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import ResourceNotFoundError
from conftest import pool_options, shell, task


async def _completed(client: BatchClient, count: int) -> None:
    while (await client.get_job_task_counts("job")).task_counts.completed < count:
        await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_whole_life_of_a_job(service):
    credential = AzureNamedKeyCredential(service.account.name, service.account.key)
    async with BatchClient(service.endpoint, credential) as client:
        await client.create_pool(pool_options(task_slots_per_node=2))
        await client.create_job(m.BatchJobCreateOptions(id="job", pool_info=m.BatchPoolInfo(pool_id="pool")))
        await client.create_tasks("job", [task(f"t{number}", shell(f"echo {number}")) for number in range(5)])
        await asyncio.wait_for(_completed(client, 5), 15)
        done = [item.id async for item in client.list_tasks("job", filter="executionInfo/exitCode eq 0")]
        assert done == [f"t{number}" for number in range(5)]
        stream = await client.download_task_file("job", "t3", "stdout.txt")
        assert b"".join([chunk async for chunk in stream]) == b"3\n"
        poller = await client.begin_delete_job("job", polling_interval=0.02)
        await poller.result()
        poller = await client.begin_delete_pool("pool", polling_interval=0.02)
        await poller.result()
        with pytest.raises(ResourceNotFoundError) as refusal:
            await client.get_pool("pool")
        assert refusal.value.error.code == "PoolNotFound"
