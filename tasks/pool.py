"""Steps 3 and 9: the pool of nodes, whose start task puts scripts and packages on every node."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from azure.batch import BatchClient
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.packages.needed import FILES_TO_INSTALL
from tasks.resources.ownership import Ending, create_or_adopt, dispose
from tasks.resources.pool import Pool, existing_pool, node_count, precedes
from tasks.run.identity import Run, UsedPool
from tasks.run.settings import Disposal, PoolSettings
from tasks.run.uploads import UploadedFile
from tasks.step import RETRIES_OF_DELETES, step


@step("3 create pool")
def create_pool(
    azure: Azure,
    run: Run,
    settings: PoolSettings,
    files: Sequence[UploadedFile],
    disposal: Disposal = Disposal.DELETE,
) -> UsedPool:
    """Create the run's pool, adopt that of a previous attempt, or look up the existing one that was asked for.

    Does not wait for the nodes: tasks queue until the first node is ready, and monitoring says what they wait for.
    """
    asked_at = datetime.now(timezone.utc)
    with azure.batch() as batch:
        if settings.existing_pool_id:
            return _existing(batch, settings)
        created = create_or_adopt(run, Pool(batch, run, settings, files, disposal))
        outdated = not created and precedes(batch, run.pool_id, max(file.modified for file in files))
    get_run_logger().info(
        "Pool %s: %s; %s of %s with %d task slots each, until %s at the latest; the start task brings %s to every node"
        "%s",
        run.pool_id,
        "created" if created else "already exists, reusing it",
        node_count(settings.dedicated_nodes, settings.spot_nodes),
        settings.vm_size,
        settings.slots_per_node,
        run.expires_text,
        ", ".join(file.name for file in files),
        f"; Batch tasks run in {settings.container_image}" if settings.container_image else "",
    )
    return UsedPool(
        id=run.pool_id,
        slots_per_node=settings.slots_per_node,
        own=True,
        outdated=outdated,
        installs=any(file.name in FILES_TO_INSTALL for file in files),
        container_image=settings.container_image,
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
        logger.info("Pool %s: stays, this run did not create it", settings.existing_pool_id)
        return
    with azure.batch() as batch:
        ending = dispose(run, Pool(batch, run, settings), disposal)
    if ending is Ending.KEPT:
        logger.warning(
            "Pool %s: kept; its nodes go on billing until %s, when its autoscale formula removes them",
            run.pool_id,
            run.expires_text,
        )
    else:
        logger.info("Pool %s: %s", run.pool_id, ending.value)


def _existing(batch: BatchClient, settings: PoolSettings) -> UsedPool:
    pool = existing_pool(batch, settings)
    dedicated, spot = pool.current_dedicated_nodes or 0, pool.current_low_priority_nodes or 0
    get_run_logger().info("Pool %s: used as it is, %s of %s", pool.id, node_count(dedicated, spot), pool.vm_size)
    return UsedPool(
        id=pool.id,
        slots_per_node=pool.task_slots_per_node or 1,
        own=False,
        container_image=settings.container_image,
        container_registry=settings.container_registry,
        vm_size=pool.vm_size,
        dedicated_nodes=dedicated,
        spot_nodes=spot,
    )
