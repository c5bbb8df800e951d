"""Where a run happens: the Batch and Storage accounts, with which credential, and the SDK clients for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property, partial
from typing import Any

from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential, TokenCredential
from azure.storage.blob import (
    BlobSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    ExponentialRetry,
    UserDelegationKey,
    generate_blob_sas,
    generate_container_sas,
)
from prefect.logging import get_run_logger

from tasks.accounts.environment import BatchAccount, StorageAccount, accounts_in
from tasks.errors import EmbeddedAzureEnded, InputError
from tasks.errors.responses import CheckedTransport
from tasks.terminal import terminate_on_hangup

# Seconds for one HTTP request. Its retries are few and quick: what outlasts them, the step's own retries get over.
_TIMEOUTS: dict[str, Any] = {"connection_timeout": 20, "read_timeout": 60}
# Downloads come in parts that a slow line can carry, each tried again by itself; for uploads see tasks/resources/upload.py.
_PARTS: dict[str, Any] = {"max_single_get_size": 4 << 20, "max_chunk_get_size": 4 << 20}
_DELEGATION_LIMIT = timedelta(days=7)  # Azure signs no user delegation key for longer


@dataclass(frozen=True, kw_only=True)
class Azure:
    """Where a run happens. Cheap to pass around; the clients are opened by whoever needs them."""

    batch_account: BatchAccount
    storage_account: StorageAccount

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Azure | None:
        """The accounts that `az` and the SDKs would use; None where nothing at all is set. See accounts_in."""
        found = accounts_in(environment)
        return cls(batch_account=found[0], storage_account=found[1]) if found else None

    def batch(self) -> BatchClient:
        account = self.batch_account
        credential: AzureNamedKeyCredential | TokenCredential
        if account.key is None:
            credential = _entra_id()
        else:
            credential = AzureNamedKeyCredential(account.name, account.key.get_secret_value())
        return BatchClient(account.endpoint, credential, transport=_transport(account.endpoint))

    def blobs(self) -> BlobServiceClient:
        account = self.storage_account
        if account.key is None:
            return BlobServiceClient(account.endpoint, _entra_id(), **_storage_options(account.endpoint))
        key = {"account_name": account.name, "account_key": account.key.get_secret_value()}
        return BlobServiceClient(account.endpoint, key, **_storage_options(account.endpoint))

    def signer(self, expires: datetime) -> Signer:
        """What signs SAS URLs that end at `expires`."""
        return Signer(self, expires)

    def describe(self) -> str:
        batch, storage = self.batch_account, self.storage_account
        return f"Batch account {batch.name} ({batch.endpoint}) and storage account {storage.name} ({storage.endpoint})"


class Signer:
    """Signs read-only blob URLs and write-only container tokens, with the account key or as a user delegation."""

    def __init__(self, azure: Azure, expires: datetime) -> None:
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


def azure_for_run(accounts: str | None = None) -> AbstractContextManager[Azure]:
    """The accounts of the Prefect block of that name, else those of the environment, else the embedded local Azure.

    The latter runs for as long as the context is entered. Raises InputError where there is no such block, and where
    half of an account is configured.
    """
    terminate_on_hangup()  # also of a run that a worker or a script started from a terminal
    logger = get_run_logger()
    configured = _of_block(accounts) if accounts else Azure.from_environment(os.environ)
    if configured is not None:
        logger.info("Running on %s", configured.describe())
        return nullcontext(configured)
    logger.info(
        "No AZURE_BATCH_* or AZURE_STORAGE_* setting: running on the embedded local Azure "
        "(Azurite and the local Batch service), which ends with this run"
    )
    return _embedded()


def _of_block(name: str) -> Azure:
    from tasks.accounts.block import accounts  # it imports Azure from here

    return accounts(name)


@contextmanager
def _embedded() -> Iterator[Azure]:
    from local_azure.embedded import EmbeddedAzureFailed, embedded_azure  # the one place that starts the default

    with ExitStack() as stack:
        try:
            settings = stack.enter_context(embedded_azure())
        except EmbeddedAzureFailed as error:
            raise InputError(str(error)) from None
        embedded = Azure.from_environment(settings)
        assert embedded is not None
        yield embedded


def _storage_options(endpoint: str) -> dict[str, Any]:
    # A retry policy of the client's own: it is a link of one client's pipeline, and two would share all after it.
    policy = ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=3, random_jitter_range=1)
    return {**_PARTS, "retry_policy": policy, "transport": _transport(endpoint)}


def _transport(endpoint: str) -> CheckedTransport:
    return CheckedTransport(check_host=partial(_check_embedded, endpoint), **_TIMEOUTS)


def _check_embedded(endpoint: str) -> None:
    """Raises EmbeddedAzureEnded where the endpoint is of one that has ended: no retry brings it back."""
    from local_azure.embedded import exit_code_at

    if (code := exit_code_at(endpoint)) is not None:
        raise EmbeddedAzureEnded(
            f"the embedded local Azure ended (exit code {code}), and what was in it is gone with it; "
            "start the run again: nothing bills"
        )


def _entra_id() -> TokenCredential:
    from azure.identity import DefaultAzureCredential  # slow to import, and not needed with keys

    return DefaultAzureCredential()
