"""Who may use an account, and the tokens that its clients get."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

# The directory and the identity of all tokens that are issued here. Those of Azure are such GUIDs, too.
TENANT = "10ca1000-0000-4000-8000-000000000001"
PRINCIPAL = "10ca1000-0000-4000-8000-000000000002"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use an account, the Batch account or the storage account."""

    shared_key: bool = True  # requests may be signed with the account's key
    role: bool = True  # the identity of the tokens has the role that it needs
    network: bool = True  # the client's address is permitted
    anonymous: bool = True  # containers may be public; of the storage account alone


ALL = Access()


@dataclass(frozen=True, kw_only=True)
class Issued:
    """The claims of tokens that are issued from now on."""

    lifetime: float = 3600.0  # seconds
    tenant: str = TENANT
    audience: str = ""  # instead of the one that was asked for


@dataclass(frozen=True, kw_only=True)
class Entra:
    """Sign-in with tokens. `secret` signs them, and whoever has `header` gets them."""

    secret: bytes = field(repr=False)
    header: str = field(repr=False)

    @classmethod
    def of(cls, key: str) -> Entra:
        """From the account's key, so that tokens and environments outlive a restart of the services."""
        return cls(secret=_derived(key, "tokens"), header=_derived(key, "identity endpoint").hex())


def _derived(key: str, purpose: str) -> bytes:
    return hmac.digest(key.encode(), f"local Azure: {purpose}".encode(), "sha256")
