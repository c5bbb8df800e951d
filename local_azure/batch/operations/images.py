"""The images that nodes can be made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from local_azure.batch.engine.service import Service
from local_azure.batch.rest.call import Answer, Call, Listing
from local_azure.batch.rest.odata import Kind
from local_azure.batch.state.store import Document, Row

# Publisher, offer, sku and the node agent that goes with them. Tasks run on this machine whichever is chosen.
_IMAGES = (
    ("almalinux", "almalinux-hpc", "8_10-hpc-gen2", "batch.node.el 8"),
    ("almalinux", "almalinux-x86_64", "9-gen1", "batch.node.el 9"),
    ("almalinux", "almalinux-x86_64", "9-gen2", "batch.node.el 9"),
    ("canonical", "0001-com-ubuntu-server-focal", "20_04-lts", "batch.node.ubuntu 20.04"),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "batch.node.ubuntu 22.04"),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", "batch.node.ubuntu 22.04"),
    ("canonical", "ubuntu-24_04-lts", "server", "batch.node.ubuntu 24.04"),
    ("canonical", "ubuntu-24_04-lts", "server-gen1", "batch.node.ubuntu 24.04"),
    ("debian", "debian-12", "12", "batch.node.debian 12"),
    ("debian", "debian-12", "12-gen2", "batch.node.debian 12"),
    ("microsoft-dsvm", "ubuntu-hpc", "2204", "batch.node.ubuntu 22.04"),
)

_LISTING = Listing(
    kind="supportedimages",
    filterable={
        "osType": Kind.STATE,
        "verificationType": Kind.STATE,
        "nodeAgentSKUId": Kind.TEXT,
        "imageReference/publisher": Kind.TEXT,
        "imageReference/offer": Kind.TEXT,
        "imageReference/sku": Kind.TEXT,
    },
    show=lambda row: row.document,
)


def _rows() -> Iterator[Row]:
    for number, (publisher, offer, sku, agent) in enumerate(_IMAGES):
        reference = {"publisher": publisher, "offer": offer, "sku": sku, "version": "latest"}
        document = {
            "nodeAgentSKUId": agent,
            "imageReference": reference,
            "osType": "linux",
            "verificationType": "verified",
        }
        yield Row(keys=(f"{number:03}",), document=document)


def list_supported_images(service: Service, call: Call) -> Answer:
    return _LISTING.answer(call, lambda after: (row for row in _rows() if row.id > after))


def node_agent_of(reference: Document) -> str | None:
    """The node agent that fits an image reference, or None if the image is not among those supported."""
    wanted = tuple(str(reference.get(name, "")).lower() for name in ("publisher", "offer", "sku"))
    agents: dict[tuple[Any, ...], str] = {image[:3]: image[3] for image in _IMAGES}
    return agents.get(wanted)
