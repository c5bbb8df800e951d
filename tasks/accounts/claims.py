"""Whom an access token names; never the token itself."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An identity of Microsoft Entra ID, as far as its token has claims of it."""

    name: str = ""  # of a person
    object_id: str = ""
    app_id: str = ""
    tenant: str = ""

    def __str__(self) -> str:
        ids = {"object id": self.object_id, "app id": self.app_id, "tenant": self.tenant}
        known = ", ".join(f"{kind} {id}" for kind, id in ids.items() if id)
        return f"the identity {self.name or 'that signs in'}{f' ({known})' if known else ''}"


def identity_of(token: str) -> Identity:
    """The identity that the token is of; its signature is for the services to check."""
    claims = _claims(token)
    names = (str(claims[claim]) for claim in ("upn", "unique_name", "preferred_username") if claims.get(claim))
    return Identity(
        name=next(names, ""),
        object_id=str(claims.get("oid") or ""),
        app_id=str(claims.get("appid") or claims.get("azp") or ""),
        tenant=str(claims.get("tid") or ""),
    )


def _claims(token: str) -> dict[str, Any]:
    """The claims of the token; nothing where it is in another form."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
