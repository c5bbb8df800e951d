"""The accounts of a deployment as a Prefect block: kept encrypted by the Prefect server, masked in its UI.

`python -m flows.credentials production` saves the AZURE_* settings of the environment as the block "production".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings
from pydantic import ConfigDict, Field, SecretStr, ValidationError, model_validator

from tasks.accounts.clients import Azure
from tasks.accounts.environment import BLOB_ENDPOINT, settings_in
from tasks.errors import InputError

_COMMAND = "python -m flows.credentials"
_FIELDS = {
    "batch_account": "AZURE_BATCH_ACCOUNT",
    "batch_endpoint": "AZURE_BATCH_ENDPOINT",
    "batch_key": "AZURE_BATCH_ACCESS_KEY",
    "storage_connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    "storage_account": "AZURE_STORAGE_ACCOUNT",
    "storage_endpoint": BLOB_ENDPOINT,
    "storage_key": "AZURE_STORAGE_KEY",
}


class AzureBatchAccounts(Block):
    """The Batch account and the storage account that a run works on. The same rules hold as for the environment."""

    _block_type_name = "Azure Batch Accounts"
    _block_type_slug = "azure-batch-accounts"
    _description = (
        "A Batch account and a storage account, with their keys or with Entra ID. A deployment of top-words names it "
        "in its parameter accounts."
    )

    # Without the input a validation error does not quote the keys.
    model_config = ConfigDict(hide_input_in_errors=True)

    batch_account: str = Field(title="Batch account", description="Its name (AZURE_BATCH_ACCOUNT).")
    batch_endpoint: str = Field(
        title="Batch endpoint",
        description="https://<account>.<region>.batch.azure.com (AZURE_BATCH_ENDPOINT).",
    )
    batch_key: SecretStr | None = Field(
        default=None,
        title="Batch account key",
        description="Leave it out to sign in with Entra ID (AZURE_BATCH_ACCESS_KEY).",
    )
    storage_connection_string: SecretStr | None = Field(
        default=None,
        title="Storage connection string",
        description="With the account key; or name the storage account instead (AZURE_STORAGE_CONNECTION_STRING).",
    )
    storage_account: str | None = Field(
        default=None,
        title="Storage account",
        description="Its name, where there is no connection string (AZURE_STORAGE_ACCOUNT).",
    )
    storage_endpoint: str | None = Field(
        default=None,
        title="Storage endpoint",
        description="Of its blobs, where it is not that of its name in the cloud of the Batch account "
        f"({BLOB_ENDPOINT}).",
    )
    storage_key: SecretStr | None = Field(
        default=None,
        title="Storage account key",
        description="Leave it out to sign in with Entra ID (AZURE_STORAGE_KEY).",
    )

    @model_validator(mode="after")
    def _can_work(self) -> AzureBatchAccounts:
        self.azure()
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AzureBatchAccounts:
        """The block of what the environment sets. Raises InputError where that names only a part of the accounts."""
        settings = settings_in(environment)
        given: dict[str, Any] = {field: settings[setting] for field, setting in _FIELDS.items() if setting in settings}
        return cls(**given)

    def azure(self) -> Azure:
        """The accounts. Raises InputError, with the words of the same rule for the environment."""
        azure = Azure.from_environment({setting: _plain(getattr(self, field)) for field, setting in _FIELDS.items()})
        if azure is None:
            raise InputError("every field is empty; fill in the Batch account and the storage account")
        return azure


def accounts(name: str) -> Azure:
    """The accounts in the block of this name. Raises InputError where there is none, or where it cannot work."""
    try:
        return cast(AzureBatchAccounts, AzureBatchAccounts.load(name)).azure()
    except RuntimeError as error:  # what load makes of a ValidationError
        if not isinstance(error.__cause__, ValidationError):
            raise
        raise InputError(f"the block {name!r} (Azure Batch Accounts): {_reasons(error.__cause__)}") from None
    except ValueError:  # what load makes of "not found"
        raise InputError(_missing(name)) from None


def _missing(name: str) -> str:
    there = ", ".join(repr(other) for other in saved_blocks(AzureBatchAccounts.get_block_type_slug()))
    return (
        f"there is no block {name!r} of the type Azure Batch Accounts; "
        + (f"there is {there}. " if there else "there is none at all. ")
        + f"Set the AZURE_* settings of your accounts and save them with `{_COMMAND} {name}`, "
        "or make it under Blocks in the Prefect UI"
    )


def saved_blocks(slug: str) -> list[str]:
    """The names of all blocks of that type."""
    with get_client(sync_client=True) as client:
        try:
            client.read_block_type_by_slug(slug)
        except ObjectNotFound:  # nobody has saved a block of this type yet
            return []
        return sorted(str(each.name) for each in client.read_block_documents_by_type(slug))


def _reasons(error: ValidationError) -> str:
    """The problems, field by field, without values: a value can be a key."""
    return "; ".join(
        ": ".join([*(str(part) for part in each["loc"]), each["msg"].removeprefix("Value error, ")])
        for each in error.errors(include_input=False, include_context=False, include_url=False)
    )


def _plain(value: str | SecretStr | None) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value or ""


def save(name: str, *, overwrite: bool) -> AzureBatchAccounts:
    """The block of this name, with what the environment sets. Raises InputError where it cannot be saved."""
    try:
        block = AzureBatchAccounts.from_environment(os.environ)
        block.save(name, overwrite=overwrite)
    except ValidationError as error:
        raise InputError(_reasons(error)) from None
    except InputError:
        raise
    except ValueError as error:
        if "already in use" not in str(error):
            raise
        raise InputError(f"there is a block {name!r} already; replace what it holds with --overwrite") from None
    except (PrefectHTTPStatusError, httpx.HTTPError) as error:
        where = get_current_settings().api.url or "a temporary address"
        raise InputError(f"the Prefect server at {where} did not save the block: {type(error).__name__}") from None
    return block
