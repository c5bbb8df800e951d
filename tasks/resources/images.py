"""The image of a run's own pool: read from the Batch account, chosen once, and the machine that is made of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from azure.batch import BatchClient
from azure.batch.models import (
    BatchPoolState,
    BatchSupportedImage,
    BatchVmImageReference,
    VirtualMachineConfiguration,
)
from azure.core.exceptions import ResourceNotFoundError

from tasks.errors import InputError
from tasks.packages.node_python import NodePython, node_python
from tasks.resources.container_image import container_configuration
from tasks.resources.image_choice import Chosen, choose
from tasks.run.settings import PoolSettings, is_gallery_image


def image_of(batch: BatchClient, settings: PoolSettings) -> Chosen:
    """The image of a new pool; InputError, with the choice there is, if the account has none that can work."""
    now = datetime.now(timezone.utc)
    try:
        return choose(_linux_images(batch), settings, now)
    except InputError:  # one answer may be damaged, and what is refused here is refused for good
        return choose(_linux_images(batch), settings, now)


def with_image(settings: PoolSettings, chosen: Chosen) -> PoolSettings:
    """The settings naming the image that was chosen, so that no later step chooses another."""
    return settings.model_copy(update={"image": chosen.name, "node_agent_sku": chosen.image.node_agent_sku_id})


def image_of_pool(batch: BatchClient, settings: PoolSettings, pool_id: str) -> Chosen | None:
    """The image of the pool that a previous attempt created; None where there is no such pool."""
    try:
        pool = batch.get_pool(pool_id)
    except ResourceNotFoundError:
        return None
    machine = pool.virtual_machine_configuration
    if pool.state == BatchPoolState.DELETING or machine is None:
        return None
    reference = machine.image_reference
    parts = (reference.publisher, reference.offer, reference.sku, reference.version or "latest")
    gallery_image = reference.virtual_machine_image_id
    image = gallery_image or ":".join(str(part) for part in parts)
    agent = machine.node_agent_sku_id if gallery_image else None
    try:
        chosen = image_of(batch, settings.model_copy(update={"image": image, "node_agent_sku": agent}))
    except InputError as error:
        raise InputError(
            f"pool {pool_id} of a previous attempt cannot be used any more: {error}. Delete it with `az batch pool "
            f"delete --pool-id {pool_id}`, and retry the run"
        ) from None
    return replace(chosen, why=f"that of pool {pool_id} of a previous attempt", warnings=())


def python_of_nodes(batch: BatchClient, settings: PoolSettings) -> NodePython:
    """The Python of the nodes of a new pool; InputError where it is not known."""
    chosen = image_of(batch, settings)
    return node_python(
        image=chosen.name,
        node_agent=chosen.image.node_agent_sku_id,
        capabilities=chosen.image.capabilities or (),
        vm_size=settings.vm_size[0],  # all have the same processor
        version=settings.node_python,
    )


def machine(batch: BatchClient, settings: PoolSettings) -> VirtualMachineConfiguration:
    """The machine of a new pool's nodes, with a container engine where Batch tasks run in containers."""
    if not (settings.image and settings.node_agent_sku):  # step 0 has named both
        settings = with_image(settings, image_of(batch, settings))
    assert settings.image
    assert settings.node_agent_sku
    if is_gallery_image(settings.image):
        reference = BatchVmImageReference(virtual_machine_image_id=settings.image)
    else:
        publisher, offer, sku, version = settings.image.split(":")
        reference = BatchVmImageReference(publisher=publisher, offer=offer, sku=sku, version=version)
    return VirtualMachineConfiguration(
        image_reference=reference,
        node_agent_sku_id=settings.node_agent_sku,
        container_configuration=container_configuration(settings),
    )


def _linux_images(batch: BatchClient) -> list[BatchSupportedImage]:
    return list(batch.list_supported_images(filter="osType eq 'linux'"))
