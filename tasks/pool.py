"""Steps 3 and 9: the pool of nodes, whose start task puts the node script on every node."""

from __future__ import annotations

from datetime import datetime, timezone

from azure.batch.models import (
    BatchPool,
)
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.resources.base import keep, make, remove
from tasks.resources.pool import (
    Pool,
    existing_pool,
    node_count,
)
from tasks.run.identity import Run, UsedPool
from tasks.run.settings import Disposal, PoolSettings
from tasks.run.uploads import UploadedFile
from tasks.step import RETRIES_OF_DELETES, step


@step("3 create pool")
def create_pool(
    azure: Azure,
    run: Run,
    settings: PoolSettings,
    node_script: UploadedFile,
    disposal: Disposal = Disposal.DELETE,
) -> UsedPool:
    """Create the run's pool, adopt the one that an earlier try created, or look up the existing one that was asked for.

    Does not wait for the nodes: tasks queue until the first node is ready, and monitoring says what they wait for.
    """
    logger = get_run_logger()
    asked_at = datetime.now(timezone.utc)
    with azure.batch() as batch:
        if settings.existing_pool_id:
            pool = existing_pool(batch, settings)
            logger.info("Pool %s used as it is: %s of %s", pool.id, _nodes_of(pool), pool.vm_size)
            return UsedPool(
                id=pool.id,
                slots_per_node=pool.task_slots_per_node or 1,
                own=False,
                vm_size=pool.vm_size,
                dedicated_nodes=pool.current_dedicated_nodes or 0,
                spot_nodes=pool.current_low_priority_nodes or 0,
            )
        created = make(run, Pool(batch, run, settings, node_script, disposal))
    logger.info(
        "Pool %s %s: %s of %s with %d task slots each, until %s at the latest; the start task copies %s to every node",
        run.pool_id,
        "created" if created else "is there already",
        node_count(settings.dedicated_nodes, settings.spot_nodes),
        settings.vm_size,
        settings.slots_per_node,
        run.expires_text,
        node_script.blob_name,
    )
    return UsedPool(
        id=run.pool_id,
        slots_per_node=settings.slots_per_node,
        own=True,
        vm_size=settings.vm_size,
        dedicated_nodes=settings.dedicated_nodes,
        spot_nodes=settings.spot_nodes,
        asked_at=asked_at,
    )


@step("9 delete pool", retries=RETRIES_OF_DELETES)
def delete_pool(azure: Azure, run: Run, settings: PoolSettings, disposal: Disposal) -> None:
    """Send the delete of the run's pool; it vanishes with its nodes soon after. Nobody else's pool is touched."""
    logger = get_run_logger()
    if settings.existing_pool_id:
        logger.info("Pool %s stays: this run did not create it", settings.existing_pool_id)
        return
    with azure.batch() as batch:
        pool = Pool(batch, run, settings)
        if disposal is not Disposal.KEEP:
            logger.info("Pool %s %s", run.pool_id, "is being deleted" if remove(run, pool) else "is not there")
        elif keep(run, pool):
            logger.warning(
                "Pool %s kept: its nodes go on billing until %s, when its autoscale formula gives them up",
                run.pool_id,
                run.expires_text,
            )
        else:
            logger.info("Pool %s is not there", run.pool_id)


def _nodes_of(pool: BatchPool) -> str:
    return node_count(pool.current_dedicated_nodes or 0, pool.current_low_priority_nodes or 0)
