"""SAS: read-only URLs of blobs, write-only tokens of containers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from azure.storage.blob import (
    BlobSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    UserDelegationKey,
    generate_blob_sas,
    generate_container_sas,
)

from tasks.accounts.clients import Azure

_DELEGATION_LIMIT = timedelta(days=7)  # Azure signs no user delegation key for longer


class Signer:
    """Signs read-only blob URLs and write-only container tokens, with the account key or as a user delegation."""

    def __init__(self, azure: Azure, expires: datetime) -> None:
        """All that it signs ends at `expires`."""
        self._azure = azure
        self._account = azure.storage_account
        self._https = {"protocol": "https"} if self._account.endpoint.startswith("https:") else {}
        self.expires = expires

    @cached_property
    def _blobs(self) -> BlobServiceClient:
        return self._azure.blobs()

    @cached_property
    def _delegation(self) -> UserDelegationKey:
        now = datetime.now(timezone.utc)
        end = min(self.expires, now + _DELEGATION_LIMIT)
        # A start in the past, because the clocks of two machines never agree.
        return self._blobs.get_user_delegation_key(now - timedelta(minutes=15), end)

    def read_url(self, container: str, blob: str) -> str:
        """The URL of one blob, with a SAS that lets its bearer read that blob and nothing else."""
        url = self._blobs.get_blob_client(container, blob).url
        token = generate_blob_sas(
            self._account.name,
            container,
            blob,
            permission=BlobSasPermissions(read=True),
            expiry=self.expires,
            **self._with(),
        )
        return f"{url}?{token}"

    def write_token(self, container: str) -> str:
        """A SAS token that lets its bearer create and overwrite blobs in the container; not read, list or delete."""
        return generate_container_sas(
            self._account.name,
            container,
            permission=ContainerSasPermissions(create=True, write=True),
            expiry=self.expires,
            **self._with(),
        )

    def _with(self) -> dict[str, Any]:
        if self._account.key is None:
            return {"user_delegation_key": self._delegation, **self._https}
        return {"account_key": self._account.key.get_secret_value(), **self._https}
