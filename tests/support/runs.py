"""Runs without a flow: their names, their pool, their job, and steps called on them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from azure.batch import BatchClient
from azure.batch.models import BatchJobCreateOptions, BatchPoolInfo, BatchTaskCreateOptions
from prefect import flow

from flows.top_words import NODE_SCRIPT
from tasks.accounts.clients import Azure
from tasks.resources.pool import Pool
from tasks.resources.tags import metadata
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask
from tasks.run.scripts import OUR_SCRIPTS
from tasks.run.settings import PoolSettings
from tasks.run.uploads import UploadedFile
from tests.support.accounts import add_pool

T = TypeVar("T")

ONE_NODE = PoolSettings(dedicated_nodes=1)

# What runs on the nodes, by its name there.
APPLICATION = {**OUR_SCRIPTS, NODE_SCRIPT.name: NODE_SCRIPT}

SCRIPT = UploadedFile(
    name="top_words.py",
    container="application",
    size=1,
    modified=datetime(2026, 1, 1, tzinfo=timezone.utc),
    sas_url="https://account.blob.example/c/top_words.py?sp=r",
)


def new_run() -> Run:
    return Run(
        workload="top-words",
        flow_run_id=str(uuid.uuid4()),
        started=datetime.now(timezone.utc),
        lifetime=timedelta(hours=1),
    )


def in_flow(function: Callable[[], T]) -> T:
    """What the function returns when it runs as a flow, outside of which no step runs as it does in one."""
    return flow(name="steps", persist_result=False)(function)()


def make_job(azure: Azure, run: Run, *scripts: str, owner: Run | None = None) -> list[AddedTask]:
    """A job with the run's name, and a task for each shell script."""
    added = [AddedTask(id=f"topNtask{index}", file=f"{index}.txt") for index in range(len(scripts))]
    pool = BatchPoolInfo(pool_id=run.pool_id)
    with azure.batch() as batch:
        batch.create_job(BatchJobCreateOptions(id=run.job_id, pool_info=pool, metadata=metadata((owner or run).tags)))
        for task, script in zip(added, scripts, strict=True):
            batch.create_task(run.job_id, BatchTaskCreateOptions(id=task.id, command_line=f"/bin/sh -c '{script}'"))
    return added


def terminate(batch: BatchClient, run: Run, reason: str) -> None:
    options: Any = {"terminateReason": reason}  # the SDK keeps the model of it private
    batch.begin_terminate_job(run.job_id, options, polling_interval=0.02).wait()  # type: ignore[arg-type]


def is_running(batch: BatchClient, run: Run) -> bool:
    return bool(batch.get_job_task_counts(run.job_id).task_counts.running)


def own_pool(azure: Azure, run: Run, settings: PoolSettings = ONE_NODE) -> UsedPool:
    """The run's own pool, with its autoscale formula; where no test asks for one, without a start task."""
    with azure.batch() as batch:
        Pool(batch, run, settings, [SCRIPT]).create()
    return UsedPool(id=run.pool_id, slots_per_node=1, own=True, spot_nodes=settings.spot_nodes)


def long_the_first_time(marker: Path) -> str:
    return f"test -e {marker} || {{ touch {marker}; sleep 600; }}"


def make_pool(azure: Azure, run: Run, nodes: int, owner: Run | None = None) -> UsedPool:
    """A pool with the run's name, whose nodes are ready at once because they have no start task."""
    add_pool(azure, run.pool_id, (owner or run).tags.metadata(), target_dedicated_nodes=nodes)
    return UsedPool(id=run.pool_id, slots_per_node=1, own=True)
