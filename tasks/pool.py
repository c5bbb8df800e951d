"""Steps 3 and 9: the pool of nodes, whose start task puts scripts and packages on every node."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from azure.batch import BatchClient
from azure.core.exceptions import HttpResponseError
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.errors import InputError
from tasks.errors.advice import advice
from tasks.errors.codes import Code, Where
from tasks.errors.service import error_code
from tasks.packages.needed import FILES_TO_INSTALL
from tasks.resources.allocation import NOT_OFFERED, is_size_refused
from tasks.resources.ownership import Ending, dispose
from tasks.resources.pool import Pool, existing_pool, list_pools, node_count
from tasks.resources.quota import UNTIL_ROOM, create_within_quota
from tasks.run.identity import RefusedSize, Run, UsedPool
from tasks.run.polling import Polling
from tasks.run.settings import Disposal, PoolSettings
from tasks.run.uploads import UploadedFile
from tasks.run.vm_sizes import same_size
from tasks.step import RETRIES_OF_DELETES, step
from tasks.watching.cancellation import Cancellation


@step("3 create pool")
def create_pool(
    azure: Azure,
    run: Run,
    settings: PoolSettings,
    files: Sequence[UploadedFile],
    disposal: Disposal = Disposal.DELETE,
    polling: Polling = UNTIL_ROOM,
) -> UsedPool:
    """Create the run's pool, adopt that of a previous attempt, or look up the existing one that was asked for.

    A pool that exists keeps the VM size that it has reached. Where the account's quota of pools is used up, wait for
    other runs of this project; raises Cancelled where the flow run is cancelled meanwhile. Does not wait for the nodes:
    tasks queue until the first node is ready, and monitoring says what they wait for.
    """
    with azure.batch() as batch:
        if settings.existing_pool_id:
            return _existing(batch, settings)
        created, refused, pool = _create_or_adopt(azure, batch, run, settings, files, disposal, polling)
        found = batch.get_pool(run.pool_id)
    vm_size, others = _in_use(settings.vm_size, found.vm_size or "")
    get_run_logger().info(
        "Pool %s: %s; %s of %s with %d task slots each, until %s at the latest; the start task brings %s to every node"
        "%s",
        run.pool_id,
        "created" if created else "already exists, reusing it",
        node_count(settings.dedicated_nodes, settings.spot_nodes),
        vm_size,
        settings.slots_per_node,
        f"{pool.nodes_until:%Y-%m-%d %H:%M %Z}",
        ", ".join(file.name for file in files),
        f"; Batch tasks run in {settings.container_image}" if settings.container_image else "",
    )
    made = found.creation_time
    return UsedPool(
        id=run.pool_id,
        slots_per_node=settings.slots_per_node,
        own=True,
        # By the clocks of two services.
        outdated=not created and made is not None and made < max(file.modified for file in files),
        installs=any(file.name in FILES_TO_INSTALL for file in files),
        container_image=settings.container_image,
        vm_size=vm_size,
        other_sizes=others,
        refused_sizes=refused,
        dedicated_nodes=settings.dedicated_nodes,
        spot_nodes=settings.spot_nodes,
        asked_at=pool.asked_at,
        nodes_until=pool.nodes_until,
    )


def _create_or_adopt(
    azure: Azure,
    batch: BatchClient,
    run: Run,
    settings: PoolSettings,
    files: Sequence[UploadedFile],
    disposal: Disposal,
    polling: Polling,
) -> tuple[bool, list[RefusedSize], Pool]:
    """Whether it was created, of the first size that Batch offers; the sizes before that; and the pool.

    Raises InputError where Batch offers none of the sizes.
    """
    refused: list[RefusedSize] = []
    cancellation = Cancellation()

    def check() -> None:
        cancellation.check(polling.now())

    for vm_size in settings.vm_size:
        pool = Pool(batch, run, settings, files, disposal, vm_size)
        try:
            created = create_within_quota(run, pool, partial(list_pools, batch), polling, check, azure.names)
            return created, refused, pool
        except HttpResponseError as error:
            if not is_size_refused(error):
                raise
            refused.append(RefusedSize(size=vm_size, why=NOT_OFFERED, brief=error_code(error)))
            get_run_logger().warning("Pool %s: not created of VM size %s: %s", run.pool_id, vm_size, NOT_OFFERED)
    raise InputError(
        f"Batch offers none of the VM sizes {', '.join(settings.vm_size)} in this region"
        f"{advice(Where.RESIZE, Code.UNSUPPORTED_VM_SIZE, names=azure.names)}"
    )


def _in_use(ranked: Sequence[str], present: str) -> tuple[str, Sequence[str]]:
    """The VM size of the pool as the settings write it, and those after it, which are still to be tried."""
    for at, vm_size in enumerate(ranked):
        if same_size(vm_size, present):
            return vm_size, ranked[at + 1 :]
    return present, ()


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
            "Pool %s: kept; its nodes go on billing until %s at the latest, when its autoscale formula removes them",
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
