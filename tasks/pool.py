"""Steps 3 and 9: the pool of nodes, whose start task puts the node script on every node."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from azure.batch import BatchClient
from azure.batch.models import (
    AutoUserScope,
    AutoUserSpecification,
    BatchMetadataItem,
    BatchPool,
    BatchPoolCreateOptions,
    BatchPoolState,
    BatchStartTask,
    BatchSupportedImage,
    BatchVmImageReference,
    ElevationLevel,
    ResourceFile,
    UserIdentity,
    VirtualMachineConfiguration,
)
from azure.core.exceptions import ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.azure import Azure
from tasks.errors import InputError
from tasks.files import UploadedFile
from tasks.ownership import make, remove
from tasks.settings import Disposal, PoolSettings, Run
from tasks.steps import step

RESIZE_TIMEOUT = timedelta(minutes=15)  # Azure's default; said aloud because a quota problem shows only after it


@dataclass(frozen=True, kw_only=True)
class UsedPool:
    """The pool that a run's tasks run on."""

    id: str
    slots_per_node: int
    own: bool  # created by this run: its start task has put the node script on the nodes


@step("3 create pool")
def create_pool(azure: Azure, run: Run, settings: PoolSettings, node_script: UploadedFile) -> UsedPool:
    """Create the run's pool, adopt the one that an earlier try created, or look up the existing one that was asked for.

    Does not wait for the nodes: tasks queue until the first node is ready, and monitoring says what they wait for.
    """
    logger = get_run_logger()
    with azure.batch() as batch:
        if settings.existing_pool_id:
            pool = existing_pool(batch, settings.existing_pool_id)
            logger.info("Pool %s used as it is: %s nodes of %s", pool.id, pool.current_dedicated_nodes, pool.vm_size)
            return UsedPool(id=pool.id, slots_per_node=pool.task_slots_per_node or 1, own=False)
        created = _make_pool(batch, run, settings, node_script)
    logger.info(
        "Pool %s %s: %d nodes of %s with %d task slots each; the start task copies %s to every node",
        run.pool_id,
        "created" if created else "is there already",
        settings.nodes,
        settings.vm_size,
        settings.slots_per_node,
        node_script.blob_name,
    )
    return UsedPool(id=run.pool_id, slots_per_node=settings.slots_per_node, own=True)


@step("9 delete pool")
def delete_pool(azure: Azure, run: Run, settings: PoolSettings, disposal: Disposal) -> None:
    """Send the delete of the run's pool; it vanishes with its nodes soon after. Nobody else's pool is touched."""
    logger = get_run_logger()
    if settings.existing_pool_id:
        logger.info("Pool %s stays: this run did not create it", settings.existing_pool_id)
        return
    if disposal is Disposal.KEEP:
        logger.warning("Pool %s kept: its nodes go on billing until it is deleted", run.pool_id)
        return
    with azure.batch() as batch:
        logger.info("Pool %s %s", run.pool_id, "is being deleted" if _remove_pool(batch, run) else "is not there")


def existing_pool(batch: BatchClient, pool_id: str) -> BatchPool:
    """The pool of that id; InputError where there is none that could take tasks."""
    try:
        pool = batch.get_pool(pool_id)
    except ResourceNotFoundError:
        raise InputError(
            f"pool {pool_id!r} does not exist in this Batch account; `az batch pool list` shows those that do"
        ) from None
    if pool.state != BatchPoolState.ACTIVE:
        raise InputError(f"pool {pool_id!r} is being deleted; name another, or none to have one made")
    return pool


def supported_image(batch: BatchClient, image: str) -> BatchSupportedImage:
    """The supported image that `image` (publisher:offer:sku) names; InputError, with the choice there is, if none."""
    publisher, offer, sku, *_ = image.lower().split(":")
    linux = list(batch.list_supported_images(filter="osType eq 'linux'"))
    for candidate in linux:
        reference = candidate.image_reference
        if [publisher, offer, sku] == [(part or "").lower() for part in _parts(reference)]:
            return candidate
    choice = sorted({":".join(_parts(each.image_reference)) for each in linux if each.verification_type == "verified"})
    raise InputError(
        f"image {image!r} is not supported by this Batch account; verified Linux images are: {', '.join(choice)}"
    )


def _parts(reference: BatchVmImageReference) -> list[str]:
    return [reference.publisher or "", reference.offer or "", reference.sku or ""]


def _make_pool(batch: BatchClient, run: Run, settings: PoolSettings, node_script: UploadedFile) -> bool:
    options = BatchPoolCreateOptions(
        id=run.pool_id,
        vm_size=settings.vm_size,
        virtual_machine_configuration=_machine(batch, settings.image),
        target_dedicated_nodes=settings.nodes,
        task_slots_per_node=settings.slots_per_node,
        resize_timeout=RESIZE_TIMEOUT,
        start_task=_start_task(node_script),
        metadata=metadata(run),
    )
    thing = f"pool {run.pool_id}"
    return make(run, thing, lambda: batch.create_pool(options), lambda: _tags(batch, run), exists="PoolExists")


def _machine(batch: BatchClient, image: str) -> VirtualMachineConfiguration:
    supported = supported_image(batch, image)
    reference = supported.image_reference
    version = image.split(":")[3] if image.count(":") == 3 else "latest"
    return VirtualMachineConfiguration(
        image_reference=BatchVmImageReference(
            publisher=reference.publisher, offer=reference.offer, sku=reference.sku, version=version
        ),
        node_agent_sku_id=supported.node_agent_sku_id,
    )


def _start_task(node_script: UploadedFile) -> BatchStartTask:
    """Copies the node script to the directory that all tasks of a node share; nothing is installed."""
    name = node_script.blob_name
    return BatchStartTask(
        # The start task's user is not the tasks' user: the copy keeps a mode under which anyone may read it.
        command_line=f"/bin/sh -c 'cp -p {name} \"$AZ_BATCH_NODE_SHARED_DIR\"/'",
        resource_files=[ResourceFile(http_url=node_script.sas_url, file_path=name, file_mode="0755")],
        user_identity=UserIdentity(
            auto_user=AutoUserSpecification(scope=AutoUserScope.POOL, elevation_level=ElevationLevel.ADMIN)
        ),
        wait_for_success=True,
        max_task_retry_count=2,
    )


def _remove_pool(batch: BatchClient, run: Run) -> bool:
    delete = partial(batch.begin_delete_pool, run.pool_id)
    return remove(run, delete, lambda: _tags(batch, run), going="PoolBeingDeleted")


def _tags(batch: BatchClient, run: Run) -> dict[str, str]:
    return tags(batch.get_pool(run.pool_id).metadata)


def metadata(run: Run) -> list[BatchMetadataItem]:
    """The run's tags in the form in which Batch keeps them."""
    return [BatchMetadataItem(name=name, value=value) for name, value in run.tags.items()]


def tags(items: list[BatchMetadataItem] | None) -> dict[str, str]:
    return {item.name: item.value for item in items or ()}
