"""Sign-in with Microsoft Entra ID: one credential for the whole process, whose tokens all clients share."""

from __future__ import annotations

import os
import time
from functools import cache
from threading import Lock
from typing import Any, cast

from azure.core.credentials import AccessToken, AccessTokenInfo, SupportsTokenInfo, TokenRequestOptions

from tasks.accounts.clouds import Cloud, authority_of
from tasks.errors import InputError

STORAGE_SCOPE = "https://storage.azure.com/.default"  # in all clouds
_EARLY = 300  # seconds before its expiry that a token is renewed, as azure-core does
_MAKING = Lock()


def entra_id(cloud: Cloud) -> KeptTokens:
    """The credential with which this process signs in to the accounts of the cloud; it is never closed.

    Raises InputError for a setting of azure-identity that cannot be right.
    """
    with _MAKING:  # two threads would make two
        return _credential(authority_of(cloud, os.environ), os.environ.get("AZURE_TENANT_ID", ""))


@cache
def _credential(authority: str, tenant: str) -> KeptTokens:
    from azure.identity import DefaultAzureCredential  # slow to import, and not needed with keys

    try:
        return KeptTokens(DefaultAzureCredential(authority=authority), tenant)
    except ValueError as error:
        raise InputError(
            f"nobody can sign in with Entra ID: {error} Correct AZURE_TOKEN_CREDENTIALS, AZURE_AUTHORITY_HOST or "
            "AZURE_TENANT_ID, or unset it"
        ) from None


class KeptTokens:
    """A credential that asks another for a token only where it has none that lasts.

    Each client asks for its own, and `az`, which DefaultAzureCredential may run, takes a second and keeps none. The
    tenant, where it is known, is passed on: a person who is signed in to several would get a token of the wrong one.
    """

    def __init__(self, credential: SupportsTokenInfo, tenant: str = "") -> None:
        self._credential = credential
        self._tenant = tenant
        self._tokens: dict[Any, AccessTokenInfo] = {}
        self._lock = Lock()

    def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        wanted: TokenRequestOptions = {**({"tenant_id": self._tenant} if self._tenant else {}), **(options or {})}
        key = (scopes, wanted.get("tenant_id"), wanted.get("enable_cae"))
        with self._lock:
            kept = self._tokens.get(key)
            # With claims the service has refused the token that is kept.
            if kept is None or wanted.get("claims") or not _lasts(kept):
                kept = self._tokens[key] = self._credential.get_token_info(*scopes, options=wanted)
            return kept

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """The same for clients that do not know get_token_info."""
        given = {name: value for name, value in options.items() if value}
        found = self.get_token_info(*scopes, options=cast(TokenRequestOptions, given))
        return AccessToken(found.token, found.expires_on)

    def close(self) -> None:
        """Nothing: it is every client's."""


def _lasts(token: AccessTokenInfo) -> bool:
    now = time.time()
    return token.expires_on - now > _EARLY and (token.refresh_on is None or now < token.refresh_on)
