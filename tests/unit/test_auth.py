"""Signatures that were computed by hand from Microsoft's rule."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime, timedelta, timezone

import pytest

from local_azure.batch.rest.auth import SignedRequest, verify
from local_azure.batch.state.account import Account
from local_azure.batch.state.errors import BatchError, Code

NOW = datetime(2026, 3, 6, 18, 29, 52, tzinfo=timezone.utc)
DATE = "Fri, 06 Mar 2026 18:29:52 GMT"
KEY = base64.b64encode(b"a key of the account").decode()
ACCOUNT = Account(name="acct", key=KEY)


def signed(text: str, *, method: str = "GET", path: str = "/pools", query: str = "", **headers: str) -> SignedRequest:
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("authorization", f"SharedKey acct:{signature}")
    return SignedRequest(method=method, raw_path=path, query=query, headers=named)


def refusal(request: SignedRequest, now: datetime = NOW) -> str:
    with pytest.raises(BatchError) as refused:
        verify(request, ACCOUNT, now)
    assert refused.value.code is Code.AuthenticationFailed
    return str(refused.value.values["AuthenticationErrorDetail"])


LIST_POOLS = f"GET\n\n\n\n\n\n\n\n\n\n\n\nocp-date:{DATE}\n/acct/pools\napi-version:2025-06-01"


def list_pools(**headers: str) -> SignedRequest:
    return signed(LIST_POOLS, query="api-version=2025-06-01", ocp_date=DATE, **headers)


def test_signed_request_is_accepted():
    verify(list_pools(), ACCOUNT, NOW)
    verify(list_pools(date="Thu, 01 Jan 1970 00:00:00 GMT"), ACCOUNT, NOW)


@pytest.mark.parametrize("length", ["", "0"])
def test_length_of_an_empty_body_may_be_signed_as_empty_or_as_0(length):
    text = f"DELETE\n\n\n{length}\n\n\n\n\n\n\n\n\nocp-date:{DATE}\n/acct/pools/p\napi-version:1"
    request = {"method": "DELETE", "path": "/pools/p", "query": "api-version=1", "ocp_date": DATE}
    verify(signed(text, **request), ACCOUNT, NOW)
    verify(signed(text, **request, content_length="0"), ACCOUNT, NOW)


def test_length_of_a_body_is_signed():
    text = f"POST\n\n\n7\n\napplication/json\n\n\n\n\n\n\nocp-date:{DATE}\n/acct/pools"
    request = {"method": "POST", "ocp_date": DATE, "content_type": "application/json"}
    verify(signed(text, **request, content_length="7"), ACCOUNT, NOW)
    assert refusal(signed(text, **request, content_length="8"))


def test_path_is_signed_as_sent_and_query_decoded():
    path = "/jobs/j/tasks/t/files/wd%2Fa%20b"
    text = (
        f"GET\n\n\n\n\n\n\n\n\n\n\n\nocp-date:{DATE}\nocp-range:bytes=0-1\n/acct{path}\n$filter:a b+&ö\napi-version:1"
    )
    request = {"path": path, "ocp_date": DATE, "ocp_range": "bytes=0-1"}
    verify(signed(text, query="api-version=1&$filter=a%20b%2B%26%C3%B6&empty=", **request), ACCOUNT, NOW)
    assert refusal(signed(text, query="api-version=2&$filter=a%20b%2B%26%C3%B6", **request))


@pytest.mark.parametrize("minutes", [-16, 16])
def test_request_outside_the_window_is_refused(minutes):
    assert "15 minutes" in refusal(list_pools(), NOW + timedelta(minutes=minutes))
    verify(list_pools(), ACCOUNT, NOW + timedelta(minutes=minutes * 14 / 16))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": "Bearer token"},
        {"authorization": "SharedKey acct"},
        {"authorization": "SharedKey other:c2lnbmF0dXJl"},
        {"authorization": "SharedKey acct:c2lnbmF0dXJl"},
        {"authorization": "SharedKey acct:ä\udcff"},
    ],
)
def test_what_is_not_signed_with_the_key_is_refused(headers):
    assert refusal(list_pools(**headers))


@pytest.mark.parametrize("date", ["", "now", "Fri, 99 Mar 2026 18:29:52 GMT", "0"])
def test_invalid_date_is_refused(date):
    assert "date" in refusal(signed("x", ocp_date=date)).lower()


def test_key_is_not_shown():
    assert KEY not in repr(ACCOUNT)
    with pytest.raises(ValueError, match="base64") as refused:
        Account(name="acct", key="not base64!")
    assert "not base64!" not in str(refused.value)
