"""Who signs in to an account: its key, or which identity of Microsoft Entra ID."""

from __future__ import annotations

from tasks.accounts.claims import identity_of
from tasks.accounts.clients import Azure
from tasks.accounts.entra_id import entra_id
from tasks.accounts.environment import BatchAccount, StorageAccount

KEY = "account key"


def signer(azure: Azure, account: BatchAccount | StorageAccount) -> str:
    """Who signs in to the account; with Entra ID it is the same identity for both. Raises what the sign-in raises."""
    if account.key is not None:
        return KEY
    return str(identity_of(entra_id(azure.cloud).get_token_info(f"{azure.cloud.batch_audience}/.default").token))
