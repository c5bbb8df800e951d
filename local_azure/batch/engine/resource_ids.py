"""The form of ids of Azure resources that a pool names; the resources themselves are not looked up."""

from __future__ import annotations

import re

from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.store import Document

_GROUP = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers"
# A version of an image of a gallery, or its latest; the reason for others is that of a recorded answer of Azure.
_GALLERY = f"{_GROUP}/Microsoft.Compute/galleries/[^/]+/images/[^/]+"
_IMAGE = re.compile(rf"{_GALLERY}(/versions/[^/]+)?/?", re.IGNORECASE)
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


def check_image(reference: Document) -> None:
    """Raises InvalidPropertyValue for an image id that is not of a gallery."""
    _check(reference, "virtualMachineImageId", _IMAGE, _IMAGE_FORMS)


def check_subnet(network: Document) -> None:
    """Raises InvalidPropertyValue for an id that is not of a subnet."""
    _check(network, "subnetId", _SUBNET, _SUBNET_FORM)


def _check(document: Document, name: str, form: re.Pattern[str], forms: str) -> None:
    value = document.get(name)
    if value is not None and not form.fullmatch(value):
        reason = f"The specified resource id must be of the format {forms}"
        raise BatchError(Code.InvalidPropertyValue, PropertyName=name, PropertyValue=value, Reason=reason)
