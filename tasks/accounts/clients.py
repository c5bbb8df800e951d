"""Where a run happens: the Batch and Storage accounts, with which credential, and the SDK clients for them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import azure.batch.models
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.policies import RetryPolicy
from azure.storage.blob import (
    BlobServiceClient,
    ContainerClient,
    ExponentialRetry,
)

from tasks.accounts.clouds import Cloud, cloud_of, takes_tokens
from tasks.accounts.entra_id import entra_id
from tasks.accounts.environment import BatchAccount, StorageAccount, accounts_in
from tasks.accounts.sources import SourceContainer
from tasks.errors.responses import CheckedTransport
from tasks.errors.service import EmbeddedAzureEnded

# Seconds for one HTTP request. Its retries are few and quick: longer failures are covered by the step's retries.
_TIMEOUTS: dict[str, Any] = {"connection_timeout": 20, "read_timeout": 60}
# Downloads come in parts that a slow line can carry, each retried by itself; for uploads see resources/upload.py.
_PARTS: dict[str, Any] = {"max_single_get_size": 4 << 20, "max_chunk_get_size": 4 << 20}


def _prepare_models() -> None:
    """Make one of each model of Azure's SDK, which prepares its class: two threads that do so at once can fail."""
    for model in vars(azure.batch.models).values():
        if isinstance(model, type) and issubclass(model, MutableMapping):
            model.__new__(model)


_prepare_models()


class Access(Enum):
    """With what blobs are read where they are."""

    SAS = "the SAS in their address"
    KEY = "the key of the run's account"
    ENTRA_ID = "the run's identity"
    PUBLIC = "nothing"  # another account, and no identity or none of Azure's: only public containers can be read


@dataclass(frozen=True, kw_only=True)
class Azure:
    """Where a run happens. Cheap to pass around; the clients are opened by whoever needs them."""

    batch_account: BatchAccount
    storage_account: StorageAccount
    ends_with_run: bool = False  # and all that is in the accounts with it
    node_identity: str | None = None  # the managed identity with which nodes use blobs, in place of SAS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Azure | None:
        """The accounts that `az` and the SDKs would use; None where nothing at all is set. See accounts_in."""
        found = accounts_in(environment)
        return cls(batch_account=found[0], storage_account=found[1]) if found else None

    @property
    def cloud(self) -> Cloud:
        return cloud_of(self.batch_account.endpoint)

    @property
    def names(self) -> Mapping[str, str]:
        """The names of the Batch account, its region and the storage account, for commands that help against a code."""
        account = self.batch_account
        host = urlsplit(account.endpoint).hostname or ""
        region = host.split(".")[1] if host.endswith(self.cloud.batch) else ""
        return {"account": account.name, "region": region, "storage": self.storage_account.name}

    def batch(self) -> BatchClient:
        account = self.batch_account
        credential: Any
        if account.key is None:
            credential = entra_id(self.cloud)
        else:
            credential = AzureNamedKeyCredential(account.name, account.key.get_secret_value())
        # The SDK's own scope is that of the public cloud. The service wants the last slash of the audience, too.
        scopes = [f"{self.cloud.batch_audience}/.default"]
        return BatchClient(
            account.endpoint,
            credential,
            credential_scopes=scopes,
            transport=_transport(account.endpoint),
            retry_policy=_BatchRetry(),
        )

    def blobs(self, endpoint: str = "") -> BlobServiceClient:
        """The client of the run's storage account, or with its identity that of another."""
        endpoint = endpoint or self.storage_account.endpoint
        return BlobServiceClient(endpoint, self._storage_credential(), **_storage_options(endpoint))

    def source(self, source: SourceContainer) -> ContainerClient:
        """The client of a container with blobs that are read where they are."""
        access = self.access_to(source)
        credential: Any = None
        if access is Access.SAS:
            credential = AzureSasCredential(source.sas)
        elif access is not Access.PUBLIC:
            credential = self._storage_credential()
        return ContainerClient(source.endpoint, source.name, credential, **_storage_options(source.endpoint))

    def access_to(self, source: SourceContainer) -> Access:
        if source.sas:
            return Access.SAS
        own = self.storage_account
        if own.key is None:
            return Access.ENTRA_ID if takes_tokens(source.endpoint, own.endpoint) else Access.PUBLIC
        return Access.KEY if source.endpoint.lower() == own.endpoint.lower() else Access.PUBLIC

    def blob_endpoint_of(self, account: str) -> str:
        """The blob endpoint of an account by its name: the run's own, or one in the same cloud."""
        own = self.storage_account
        if account == own.name:
            return own.endpoint
        suffix = (urlsplit(own.endpoint).hostname or "").partition(".blob.")[2]
        return f"https://{account}.{f'blob.{suffix}' if suffix else self.cloud.blobs}"

    def _storage_credential(self) -> Any:
        account = self.storage_account
        if account.key is None:
            return entra_id(self.cloud)
        return {"account_name": account.name, "account_key": account.key.get_secret_value()}

    def describe(self) -> str:
        batch, storage = self.batch_account, self.storage_account
        return f"Batch account {batch.name} ({batch.endpoint}) and storage account {storage.name} ({storage.endpoint})"


class _UsefulRetry:
    """A part of the SDKs' retry policies, which does not retry what stays as it is."""

    def increment(self, settings: dict[str, Any], *given: Any, error: Exception | None = None, **more: Any) -> bool:
        # Nobody is signed in, or the certificate is not trusted.
        if isinstance(error, ClientAuthenticationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return False
        again: bool = super().increment(settings, *given, error=error, **more)  # type: ignore[misc]
        return again


class _BatchRetry(_UsefulRetry, RetryPolicy):  # type: ignore[type-arg]
    pass


class _StorageRetry(_UsefulRetry, ExponentialRetry):
    pass


def _storage_options(endpoint: str) -> dict[str, Any]:
    # A retry policy of the client's own: it is a link of one client's pipeline, and two would share all after it.
    policy = _StorageRetry(initial_backoff=1, increment_base=2, retry_total=3, random_jitter_range=1)
    return {**_PARTS, "retry_policy": policy, "transport": _transport(endpoint)}


def _transport(endpoint: str) -> CheckedTransport:
    return CheckedTransport(check_host=partial(check_embedded, endpoint), **_TIMEOUTS)


def check_embedded(endpoint: str) -> None:
    """Raises EmbeddedAzureEnded where the endpoint is of one that has ended: no retry brings it back."""
    from local_azure.embedded import exit_code_at

    if (code := exit_code_at(endpoint)) is not None:
        raise EmbeddedAzureEnded(
            f"the embedded local Azure ended (exit code {code}), and what was in it is gone with it; "
            "start the run again: nothing bills"
        )
