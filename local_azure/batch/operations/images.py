"""Operations on supported images."""

from __future__ import annotations

from collections.abc import Iterator

from local_azure.batch.engine.images import IMAGES, of_nodes
from local_azure.batch.engine.service import Service
from local_azure.batch.rest.call import Call, Listing, Response
from local_azure.batch.rest.odata import Kind, one_of
from local_azure.batch.state.store import Row

_LISTING = Listing(
    kind="supportedimages",
    filterable={
        "osType": one_of("linux", "windows"),
        "verificationType": one_of("verified", "unverified"),
        "nodeAgentSKUId": Kind.TEXT,
        "imageReference/publisher": Kind.TEXT,
        "imageReference/offer": Kind.TEXT,
        "imageReference/sku": Kind.TEXT,
    },
    show=lambda row: row.document,
)


def _rows() -> Iterator[Row]:
    for number, image in enumerate(IMAGES):
        publisher, offer, sku = image.name
        capabilities = [*image.capabilities, *(of_nodes() if image.os_type == "linux" else ())]
        document = {
            "nodeAgentSKUId": image.agent,
            "imageReference": {"publisher": publisher, "offer": offer, "sku": sku, "version": "latest"},
            "osType": image.os_type,
            **({"capabilities": capabilities} if capabilities else {}),
            "verificationType": "verified" if image.verified else "unverified",
            **({"batchSupportEndOfLife": image.end_of_life} if image.end_of_life else {}),
        }
        yield Row(keys=(f"{number:03}",), document=document)


def list_supported_images(service: Service, call: Call) -> Response:
    return _LISTING.respond(call, lambda after: (row for row in _rows() if row.id > after))
