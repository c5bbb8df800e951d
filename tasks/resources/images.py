"""Which of the images that the Batch account supports a pool is made of."""

from __future__ import annotations

from azure.batch import BatchClient
from azure.batch.models import BatchSupportedImage, BatchVmImageReference, VirtualMachineConfiguration

from tasks.errors import InputError
from tasks.run.node_python import NodePython, node_python
from tasks.run.settings import PoolSettings


def supported_image(batch: BatchClient, image: str) -> BatchSupportedImage:
    """The supported image that `image` (publisher:offer:sku) names; InputError, with the choice there is, if none."""
    publisher, offer, sku, *_ = image.lower().split(":")
    for _ in range(2):  # one answer may be damaged, and what is refused here is refused for good
        linux = list(batch.list_supported_images(filter="osType eq 'linux'"))
        for candidate in linux:
            reference = candidate.image_reference
            if [publisher, offer, sku] == [(part or "").lower() for part in _parts(reference)]:
                return candidate
    choice = sorted({":".join(_parts(each.image_reference)) for each in linux if each.verification_type == "verified"})
    raise InputError(
        f"image {image!r} is not supported by this Batch account; verified Linux images are: {', '.join(choice)}"
    )


def python_of_nodes(batch: BatchClient, settings: PoolSettings) -> NodePython:
    """The Python of the nodes of a new pool; InputError where it is not known."""
    supported = supported_image(batch, settings.image)
    return node_python(
        image=settings.image,
        node_agent=supported.node_agent_sku_id or "",
        capabilities=supported.capabilities or (),
        vm_size=settings.vm_size,
        version=settings.node_python,
    )


def _parts(reference: BatchVmImageReference) -> list[str]:
    return [reference.publisher or "", reference.offer or "", reference.sku or ""]


def machine(batch: BatchClient, image: str) -> VirtualMachineConfiguration:
    supported = supported_image(batch, image)
    reference = supported.image_reference
    version = image.split(":")[3] if image.count(":") == 3 else "latest"
    return VirtualMachineConfiguration(
        image_reference=BatchVmImageReference(
            publisher=reference.publisher, offer=reference.offer, sku=reference.sku, version=version
        ),
        node_agent_sku_id=supported.node_agent_sku_id,
    )
