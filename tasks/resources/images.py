"""Which of the images that the Batch account supports a pool is made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from azure.batch import BatchClient
from azure.batch.models import BatchSupportedImage, BatchVmImageReference, VirtualMachineConfiguration

from tasks.errors import InputError
from tasks.packages.node_python import NodePython, node_python
from tasks.resources.container_image import container_configuration
from tasks.run.settings import PoolSettings

DOCKER = "dockercompatible"  # the capability of images that run containers, in lower case


def supported_image(batch: BatchClient, image: str) -> BatchSupportedImage:
    """The supported image that `image` (publisher:offer:sku) names; InputError, with the choice there is, if none."""
    publisher, offer, sku, *_ = image.lower().split(":")
    for _ in range(2):  # one answer may be damaged, and what is refused here is refused for good
        linux = _linux_images(batch)
        for candidate in linux:
            reference = candidate.image_reference
            if [publisher, offer, sku] == [(part or "").lower() for part in _parts(reference)]:
                return candidate
    raise InputError(
        f"image {image!r} is not supported by this Batch account; verified Linux images are: {_choice(linux)}"
    )


def image_of(batch: BatchClient, settings: PoolSettings) -> BatchSupportedImage:
    """The image of a new pool; InputError, with the choice there is, if the account has none that can work."""
    supported = supported_image(batch, settings.image)
    if not settings.container_image or _runs_containers(supported):
        return supported
    choice = _choice([each for each in _linux_images(batch) if _runs_containers(each)])
    raise InputError(
        f"image {settings.image!r} cannot run containers, and container_image is {settings.container_image!r}; "
        + (
            f"use another image: {choice}"
            if choice
            else "this Batch account has no image that can: use an existing pool of an image of your own"
        )
    )


def python_of_nodes(batch: BatchClient, settings: PoolSettings) -> NodePython:
    """The Python of the nodes of a new pool; InputError where it is not known."""
    supported = image_of(batch, settings)
    return node_python(
        image=settings.image,
        node_agent=supported.node_agent_sku_id or "",
        capabilities=supported.capabilities or (),
        vm_size=settings.vm_size[0],  # all have the same processor
        version=settings.node_python,
    )


def _parts(reference: BatchVmImageReference) -> list[str]:
    return [reference.publisher or "", reference.offer or "", reference.sku or ""]


def _linux_images(batch: BatchClient) -> list[BatchSupportedImage]:
    return list(batch.list_supported_images(filter="osType eq 'linux'"))


def _choice(images: Sequence[BatchSupportedImage]) -> str:
    """The names of those that are verified and still supported; of the others where there are none."""
    verified = [each for each in images if each.verification_type == "verified"] or images
    now = datetime.now(timezone.utc)
    current = [each for each in verified if (each.batch_support_end_of_life or now) >= now] or verified
    return ", ".join(sorted({":".join(_parts(each.image_reference)) for each in current}))


def _runs_containers(image: BatchSupportedImage) -> bool:
    return DOCKER in [each.lower() for each in image.capabilities or ()]


def machine(batch: BatchClient, settings: PoolSettings) -> VirtualMachineConfiguration:
    """The machine of a new pool's nodes, with a container engine where Batch tasks run in containers."""
    supported = image_of(batch, settings)
    reference, image = supported.image_reference, settings.image
    version = image.split(":")[3] if image.count(":") == 3 else "latest"
    return VirtualMachineConfiguration(
        image_reference=BatchVmImageReference(
            publisher=reference.publisher, offer=reference.offer, sku=reference.sku, version=version
        ),
        node_agent_sku_id=supported.node_agent_sku_id,
        container_configuration=container_configuration(settings),
    )
