"""Operations on supported images."""

from __future__ import annotations

from collections.abc import Iterator

from local_azure.batch.engine.images import IMAGES, capabilities
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
    for number, (publisher, offer, sku, agent) in enumerate(IMAGES):
        reference = {"publisher": publisher, "offer": offer, "sku": sku, "version": "latest"}
        document = {
            "nodeAgentSKUId": agent,
            "imageReference": reference,
            "osType": "linux",
            "capabilities": capabilities(publisher, offer, sku),
            "verificationType": "verified",
        }
        yield Row(keys=(f"{number:03}",), document=document)


def list_supported_images(service: Service, call: Call) -> Response:
    return _LISTING.respond(call, lambda after: (row for row in _rows() if row.id > after))
