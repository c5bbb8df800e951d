"""The storage account that is linked to the Batch account: Azure Batch calls it auto-storage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from local_azure.batch.state.bodies import properties
from local_azure.batch.state.errors import invalid_property

PROPERTY = "autoStorageContainerName"
SAS_LIFETIME = timedelta(hours=1)

_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9](?:-?[a-z0-9])+\Z")


@dataclass(frozen=True, kw_only=True)
class AutoStorage:
    """A storage account; `key` is its SharedKey in base64 and does not leave the process that signs with it."""

    account: str
    blob_endpoint: str  # http://127.0.0.1:PORT/ACCOUNT, or https://ACCOUNT.blob.core.windows.net
    key: str = field(repr=False)
    killed_at: datetime | None = None  # when it was last found killed, and may have lost changes

    def container_url(self, container: str) -> str:
        """The container's URL with a SAS to read and list it, which expires after SAS_LIFETIME."""
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas  # takes half a second to import

        token = generate_container_sas(
            self.account,
            container,
            account_key=self.key,
            permission=ContainerSasPermissions(read=True, list=True),
            # The storage account uses the machine's time, even if the service's clock was moved.
            expiry=datetime.now(timezone.utc) + SAS_LIFETIME,
        )
        return f"{self.blob_endpoint.rstrip('/')}/{container}?{token}"


def check(body: Any, *, linked: bool) -> None:
    """Raises InvalidPropertyValue for auto-storage containers without a linked account, or with an invalid name.

    Azure documents no specific code; this is its code for invalid values.
    """
    for path, container in properties(body, PROPERTY):
        if not linked:
            reason = "no storage account is linked to the Batch account: give storageContainerUrl or httpUrl"
            raise invalid_property(path, container, reason)
        if not _CONTAINER.match(container):
            reason = "a container's name has 3 to 63 lower-case letters, digits and single hyphens between them"
            raise invalid_property(path, container, reason)
