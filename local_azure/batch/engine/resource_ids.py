"""The form of ids of Azure resources that a pool names; the resources themselves are not looked up."""

from __future__ import annotations

import re

from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.store import Document

_GROUP = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers"
# A version of an image of a gallery, or its latest; the reason for others is that of a recorded answer of Azure.
_GALLERY = f"{_GROUP}/Microsoft.Compute/galleries/[^/]+/images/[^/]+"
_IMAGE = re.compile(rf"{_GALLERY}(/versions/[^/]+)?/?", re.IGNORECASE)
_SHARED = re.compile(r"/sharedGalleries/[^/]+/images/[^/]+(/versions/[^/]+)?/?", re.IGNORECASE)
_COMMUNITY = re.compile(r"/communityGalleries/[^/]+/images/[^/]+(/versions/[^/]+)?/?", re.IGNORECASE)
_ADDRESS = re.compile(rf"{_GROUP}/Microsoft.Network/publicIPAddresses/[^/]+/?", re.IGNORECASE)
_SUBNET = re.compile(rf"{_GROUP}/[^/]+/virtualNetworks/[^/]+/subnets/[^/]+/?", re.IGNORECASE)
_IMAGE_FORM = (
    "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.Compute/galleries"
    "/{galleryName}/images/{galleryImageName}"
)
_IMAGE_FORMS = f"{_IMAGE_FORM}/versions/{{galleryImageVersionName}} or {_IMAGE_FORM}"
_SUBNET_FORM = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/{provider}/virtualNetworks/{network}"
    "/subnets/{subnet}"
)


_SHARED_FORM = "/sharedGalleries/{galleryUniqueName}/images/{galleryImageName}/versions/{galleryImageVersionName}"
_COMMUNITY_FORM = "/communityGalleries/{publicGalleryName}/images/{galleryImageName}/versions/{galleryImageVersionName}"
_ADDRESS_FORM = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/publicIPAddresses/{ip}"
)


def check_image(reference: Document) -> None:
    """Raises InvalidPropertyValue for an image id that is not of a gallery."""
    _check("virtualMachineImageId", reference.get("virtualMachineImageId"), _IMAGE, _IMAGE_FORMS)
    _check("sharedGalleryImageId", reference.get("sharedGalleryImageId"), _SHARED, _SHARED_FORM)
    _check("communityGalleryImageId", reference.get("communityGalleryImageId"), _COMMUNITY, _COMMUNITY_FORM)


def check_network(network: Document) -> None:
    """Raises InvalidPropertyValue for an id that is not of a subnet, or of a public IP address."""
    _check("subnetId", network.get("subnetId"), _SUBNET, _SUBNET_FORM)
    for address in network.get("publicIPAddressConfiguration", {}).get("ipAddressIds", ()):
        _check("ipAddressIds", address, _ADDRESS, _ADDRESS_FORM)


def _check(name: str, value: str | None, form: re.Pattern[str], forms: str) -> None:
    if value is not None and not form.fullmatch(value):
        reason = f"The specified resource id must be of the format {forms}"
        raise BatchError(Code.InvalidPropertyValue, PropertyName=name, PropertyValue=value, Reason=reason)
