"""SAS: read-only URLs of blobs, read-only or write-only tokens of containers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from azure.storage.blob import (
    BlobSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    UserDelegationKey,
    generate_blob_sas,
    generate_container_sas,
)

from tasks.accounts.clients import Access, Azure
from tasks.accounts.sources import SourceContainer

CLOCKS_APART = timedelta(minutes=15)  # Azure refuses what was signed longer ago, or will be
_DELEGATION_LIMIT = timedelta(days=7) - CLOCKS_APART  # Azure gives no user delegation key for 7 days from its own now


def delegation(blobs: BlobServiceClient, until: datetime) -> UserDelegationKey:
    """The key with which the signed-in identity signs SAS, valid until then, or as long as Azure gives one."""
    now = datetime.now(timezone.utc)
    return blobs.get_user_delegation_key(now - CLOCKS_APART, min(until, now + _DELEGATION_LIMIT))


class Signer:
    """Signs read-only blob URLs and write-only container tokens, with the account key or as a user delegation.

    Where nodes have an identity, what they are given is not signed: URLs are plain, and write tokens empty.
    """

    def __init__(self, azure: Azure, expires: datetime) -> None:
        """All that it signs ends at `expires`."""
        self._azure = azure
        self._account = azure.storage_account
        self._own = SourceContainer(endpoint=self._account.endpoint, name="")
        self._delegations: dict[str, UserDelegationKey] = {}
        self.expires = expires

    def read_url(self, container: str, blob: str) -> str:
        """The URL of one blob, with a SAS that lets its bearer read that blob and nothing else."""
        return self.source_url(replace(self._own, name=container), blob)

    def source_url(self, source: SourceContainer, blob: str) -> str:
        """The URL from which a blob that is an input where it is can be read.

        With the SAS of its address, if it has one; without any where its container is public.
        """
        url = f"{source.endpoint}/{source.name}/{quote(blob, safe='~/')}"
        access = self._azure.access_to(source)
        if access is Access.PUBLIC or self._azure.node_identity:
            return url
        return f"{url}?{source.sas if access is Access.SAS else self._read_token(source, blob)}"

    def write_token(self, container: str, endpoint: str = "", *, read: bool = False) -> str:
        """A SAS token that lets its bearer create and overwrite blobs in the container; not list or delete.

        read: permit also to read them.

        The endpoint is that of another account than the run's own, which only Entra ID can sign for.
        """
        if self._azure.node_identity:
            return ""
        target = SourceContainer(endpoint=endpoint or self._own.endpoint, name=container)
        return self._container_token(target, ContainerSasPermissions(read=read, create=True, write=True))

    def read_token(self, container: str) -> str:
        """A SAS token that lets its bearer read the blobs of a container of the run's account; nothing else."""
        return self._container_token(replace(self._own, name=container), ContainerSasPermissions(read=True))

    def _container_token(self, target: SourceContainer, permission: ContainerSasPermissions) -> str:
        return generate_container_sas(
            self._name(target), target.name, permission=permission, expiry=self.expires, **self._with(target)
        )

    def _read_token(self, source: SourceContainer, blob: str) -> str:
        return generate_blob_sas(
            self._name(source),
            source.name,
            blob,
            permission=BlobSasPermissions(read=True),
            expiry=self.expires,
            **self._with(source),
        )

    def _name(self, source: SourceContainer) -> str:
        return self._account.name if source.endpoint == self._own.endpoint else source.account

    def _with(self, source: SourceContainer) -> dict[str, Any]:
        https = {"protocol": "https"} if source.endpoint.startswith("https:") else {}
        if self._account.key is None:
            return {"user_delegation_key": self._delegation(source.endpoint), **https}
        return {"account_key": self._account.key.get_secret_value(), **https}

    def _delegation(self, endpoint: str) -> UserDelegationKey:
        if endpoint not in self._delegations:
            with self._azure.blobs(endpoint) as blobs:
                self._delegations[endpoint] = delegation(blobs, self.expires)
        return self._delegations[endpoint]
