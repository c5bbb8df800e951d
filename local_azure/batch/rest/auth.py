"""Authentication of a request: by a signature made with the account's key, or by an access token.

The rule of signatures is Microsoft's "Authenticate requests to the Azure Batch service". Clients differ in how they
sign a Content-Length of 0; both forms are accepted.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import parse_qs

from local_azure.batch.rest import tokens
from local_azure.batch.state.access import ALL, TENANT, Access, Entra
from local_azure.batch.state.account import Account
from local_azure.batch.state.errors import BatchError, Code, TokenRefused

WINDOW = timedelta(minutes=15)  # the largest difference between a request's date and the service's time

_SIGNED_HEADERS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)


@dataclass(frozen=True, kw_only=True)
class SignedRequest:
    """The signed parts of a request: the path as sent, percent-encoded; header names in lower case."""

    method: str
    raw_path: str
    query: str
    headers: Mapping[str, str]


def verify(
    request: SignedRequest,
    account: Account,
    machine_time: datetime,
    *,
    now: datetime | None = None,
    access: Access = ALL,
    entra: Entra | None = None,
) -> None:
    """Raises BatchError unless the request is signed with the account's key or has a token, and that is permitted.

    A signature's date is to be within WINDOW of the machine's time; tokens expire by the service's, `now`. Without
    `entra` no token is taken.
    """
    if not access.network:
        raise BatchError(Code.AuthorizationFailure)
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if entra and scheme.lower() == "bearer":
        _verify_token(request, credentials.strip(), now or machine_time, access, entra)
    elif scheme.lower() != "sharedkey":
        raise _refused("The Authorization header is missing or its scheme is not SharedKey.")
    elif not access.shared_key:
        raise _refused("The specified type of authentication SharedKey is not allowed for this account.")
    else:
        _verify_signature(request, account, credentials.strip(), machine_time)


def sign(request: SignedRequest, account: Account) -> str:
    """The Authorization header of the request."""
    text = next(_strings_to_sign(request, account.name))
    return f"SharedKey {account.name}:{_signature(base64.b64decode(account.key), text).decode()}"


def has_header(request: SignedRequest, entra: Entra) -> bool:
    """True if the request has the header with which tokens are issued."""
    given = request.headers.get("x-identity-header", "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), entra.header.encode())


def _verify_token(request: SignedRequest, token: str, now: datetime, access: Access, entra: Entra) -> None:
    try:
        tokens.verify(token, entra.secret, now)
    except tokens.InvalidToken as error:
        raise TokenRefused(str(error), TENANT, tokens.BATCH) from None
    if not access.role:
        # Azure is not recorded in this case; the reason is worded, and spelled, as where a linked resource is denied.
        verb = {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(request.method, "write")
        action = f"Microsoft.Batch/batchAccounts/{request.raw_path.split('/')[1]}/{verb}"
        reason = f"The user identity used for this operation does not have the required privelege {action}"
        raise BatchError(Code.PermissionDenied, Reason=reason)


def _verify_signature(request: SignedRequest, account: Account, credentials: str, now: datetime) -> None:
    name, _, signature = credentials.rpartition(":")
    if name.lower() != account.name.lower():
        raise _refused("The account in the Authorization header is not the account of this service.")
    _verify_date(request.headers, now)
    key = base64.b64decode(account.key)
    # All candidates are computed and compared, so that the time taken reveals nothing.
    expected = [_signature(key, text) for text in _strings_to_sign(request, name)]
    given = signature.encode("utf-8", "replace")
    if not any([hmac.compare_digest(candidate, given) for candidate in expected]):  # noqa: C419
        raise _refused("The signature is not that of this request made with the account's key.")


def _refused(reason: str) -> BatchError:
    return BatchError(Code.AuthenticationFailed, AuthenticationErrorDetail=reason)


def _verify_date(headers: Mapping[str, str], now: datetime) -> None:
    text = headers.get("ocp-date") or headers.get("date")
    if not text:
        raise _refused("The request has neither an ocp-date nor a Date header.")
    try:
        skewed = abs(now - _date(text)) > WINDOW
    except (ValueError, TypeError, IndexError, OverflowError):
        raise _refused("The request's date is not an RFC 1123 date.") from None
    if skewed:
        raise _refused(
            "The date header in the request is outside the permissible range: it must be within 15 minutes of the "
            f"service's time, {now:%Y-%m-%d %H:%M:%S} UTC."
        )


@lru_cache(maxsize=16)  # requests of one second have the same date, and parsing it is slow
def _date(text: str) -> datetime:
    date = parsedate_to_datetime(text)
    # A date without a time zone ("-0000") is UTC.
    return date.replace(tzinfo=timezone.utc) if date.tzinfo is None else date


def _signature(key: bytes, text: str) -> bytes:
    return base64.b64encode(hmac.digest(key, text.encode("utf-8", "surrogateescape"), "sha256"))


def _strings_to_sign(request: SignedRequest, account: str) -> Iterator[str]:
    """The string to sign, in each form that clients use for a missing Content-Length."""
    headers = request.headers
    values = {name: headers.get(name, "") for name in _SIGNED_HEADERS}
    if "ocp-date" in headers:
        values["date"] = ""
    ours = [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("ocp-") and headers[name]]
    query = [f"{name}:{value}" for name, (value, *_) in sorted(parse_qs(request.query).items())]
    sent = values["content-length"]
    for length in (sent,) if sent not in ("", "0") else ("", "0"):
        values["content-length"] = length
        yield "\n".join([request.method, *values.values(), *ours, f"/{account}{request.raw_path}", *query])
