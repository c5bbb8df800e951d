"""Access tokens as Microsoft Entra ID issues them: JSON Web Tokens, here signed with a secret of this service."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from local_azure.batch.state.access import PRINCIPAL, TENANT, Issued

BATCH = "https://batch.core.windows.net/"  # the audience; Azure Batch wants it with the last slash
STORAGE = "https://storage.azure.com/"
_EARLY = timedelta(minutes=5)  # that a token is valid before it is issued, as the clocks of two machines never agree


class InvalidToken(Exception):
    """Not a token, or one that is not for this service; the message has the reason in the words of Azure."""


def issue(secret: bytes, audience: str, issued: Issued, now: datetime, machine_time: datetime) -> tuple[str, int]:
    """A token and its expiry, in seconds since 1970.

    `now` is the service's time, which may be ahead of the machine's: the token is valid at both.
    """
    expires = int((now + timedelta(seconds=issued.lifetime)).timestamp())
    begins = int((machine_time - _EARLY).timestamp())
    claims = {
        "aud": issued.audience or audience,
        "iss": issuer(issued.tenant),
        "iat": begins,
        "nbf": begins,
        "exp": expires,
        "oid": PRINCIPAL,
        "sub": PRINCIPAL,
        "tid": issued.tenant,
        "ver": "1.0",
    }
    parts = f"{_encoded({'typ': 'JWT', 'alg': 'HS256'})}.{_encoded(claims)}"
    return f"{parts}.{_signature(secret, parts)}", expires


def issuer(tenant: str) -> str:
    return f"https://sts.windows.net/{tenant}/"


def verify(token: str, secret: bytes, now: datetime, *, audience: str = BATCH, tenant: str = TENANT) -> None:
    """Raises InvalidToken unless the token is one of ours, for this audience and tenant, and valid now."""
    claims = _claims(token)
    if claims["iss"] != issuer(tenant):  # such as one of Entra ID itself, whose signature could not be verified here
        raise InvalidToken(
            f"The access token is from the wrong issuer '{claims['iss']}'. It must match the tenant "
            f"'{issuer(tenant)}' associated with this subscription."
        )
    parts, _, signature = token.rpartition(".")
    if not hmac.compare_digest(_signature(secret, parts).encode(), signature.encode("utf-8", "replace")):
        raise InvalidToken("The signature of the access token is invalid.")
    if claims["aud"] != audience:
        raise InvalidToken(
            f"The access token has been obtained from wrong audience or resource '{claims['aud']}'. It should exactly "
            f"match (including forward slash) with one of the allowed audiences '{audience}'"
        )
    if now < claims["nbf"]:
        raise InvalidToken(f"The access token is not valid before '{_text(claims['nbf'])}' UTC.")
    if now >= claims["exp"]:
        raise InvalidToken(
            f"The access token expiry UTC time '{_text(claims['exp'])}' is earlier than current UTC time "
            f"'{_text(now)}'."
        )


def _claims(token: str) -> Mapping[str, Any]:
    try:
        claims = json.loads(_decoded(token.split(".")[1]))
        found = {name: str(claims[name]) for name in ("iss", "aud")}
        times = {name: _time(claims[name]) for name in ("nbf", "exp")}
    except (ValueError, LookupError, TypeError, OverflowError, OSError):
        raise InvalidToken("The access token is not a JSON Web Token with the claims iss, aud, nbf and exp.") from None
    return {**found, **times}


def _encoded(part: Mapping[str, Any]) -> str:
    return _base64(json.dumps(part, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _signature(secret: bytes, parts: str) -> str:
    return _base64(hmac.digest(secret, parts.encode("utf-8", "replace"), "sha256"))


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
