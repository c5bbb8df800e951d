"""Who signs in to an account: its key, or which identity of Microsoft Entra ID."""

from __future__ import annotations

import base64
import json
from typing import Any

from tasks.accounts.clients import Azure
from tasks.accounts.environment import BatchAccount, StorageAccount

KEY = "account key"
_BATCH_SCOPE = "https://batch.core.windows.net/.default"
# The claims of an access token that name an identity, the most readable first: of a person, then of an application.
_PERSON = ("upn", "unique_name", "preferred_username")
_APPLICATION = ("app_displayname", "xms_mirid", "appid", "azp", "oid")


def signer(azure: Azure, account: BatchAccount | StorageAccount) -> str:
    """Who signs in to the account; with Entra ID it is the same identity for both. Raises what the sign-in raises."""
    if account.key is not None:
        return KEY
    return identity_in(azure.entra_id().get_token(_BATCH_SCOPE).token)


def identity_in(token: str) -> str:
    """The identity that an access token names, such as "ada@example.org (Entra ID, tenant ...)", and no more of it."""
    claims = _claims(token)
    name = next((str(claims[claim]) for claim in (*_PERSON, *_APPLICATION) if claims.get(claim)), "an identity")
    kind = "" if any(claims.get(claim) for claim in _PERSON) else "application "
    tenant = f", tenant {claims['tid']}" if claims.get("tid") else ""
    return f"{kind if claims else ''}{name} (Entra ID{tenant})"


def _claims(token: str) -> dict[str, Any]:
    """What a token says of itself; its signature is the services' to check. Empty where it is in another form."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
