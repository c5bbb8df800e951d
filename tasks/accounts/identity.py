"""Who signs in to an account: its key, or which identity of Microsoft Entra ID."""

from __future__ import annotations

from azure.core.exceptions import AzureError

from tasks.accounts.claims import Identity, identity_of
from tasks.accounts.clients import Azure
from tasks.accounts.entra_id import entra_id
from tasks.accounts.environment import BatchAccount, StorageAccount


def signer(azure: Azure, account: BatchAccount | StorageAccount) -> Identity | None:
    """The identity that signs in, one without a name where it gets no token; None where the account's key does.

    With Entra ID it is the same identity for both accounts.
    """
    if account.key is not None:
        return None
    try:
        return identity_of(entra_id(azure.cloud).get_token_info(f"{azure.cloud.batch_audience}/.default").token)
    except AzureError:
        return Identity()


def described(who: Identity | None) -> str:
    return str(who or "the account key")
