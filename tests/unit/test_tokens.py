"""Access tokens: which are taken, what the others are told, and who may use the account at all."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from local_azure.batch.rest import tokens
from local_azure.batch.rest.auth import SignedRequest, verify
from local_azure.batch.rest.tokens import BATCH, InvalidToken, issue
from local_azure.batch.state.access import ALL, TENANT, Access, Entra, Issued
from local_azure.batch.state.account import Account
from local_azure.batch.state.errors import BatchError

NOW = datetime(2026, 3, 6, 18, 29, 52, tzinfo=timezone.utc)
ENTRA = Entra.of("a key")
ACCOUNT = Account(name="acct", key="a2V5")
OTHER = "0bad0000-0000-4000-8000-000000000001"


def token(audience: str = BATCH, **issued) -> str:
    return issue(ENTRA.secret, audience, Issued(**issued), NOW, NOW)[0]


def refused(given: str, now: datetime = NOW, access: Access = ALL, method: str = "GET") -> BatchError:
    headers = {"authorization": f"Bearer {given}"}
    request = SignedRequest(method=method, raw_path="/jobs/j/tasks", query="", headers=headers)
    with pytest.raises(BatchError) as error:
        verify(request, ACCOUNT, now, access=access, entra=ENTRA)
    return error.value


def test_token_of_the_audience_and_tenant_is_taken_until_it_expires():
    found, expires = issue(ENTRA.secret, BATCH, Issued(lifetime=60), NOW, NOW)
    assert expires == NOW.timestamp() + 60
    tokens.verify(found, ENTRA.secret, NOW)
    tokens.verify(found, ENTRA.secret, NOW + timedelta(seconds=59))
    with pytest.raises(InvalidToken, match="expiry UTC time '2026-03-06 18:30:52' is earlier than current"):
        tokens.verify(found, ENTRA.secret, NOW + timedelta(seconds=60))


def test_token_is_valid_at_the_time_of_the_machine_where_the_clock_was_moved():
    found, _ = issue(ENTRA.secret, BATCH, Issued(), NOW + timedelta(days=1), NOW)
    tokens.verify(found, ENTRA.secret, NOW)
    tokens.verify(found, ENTRA.secret, NOW + timedelta(days=1))


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        (
            token("https://batch.core.windows.net"),
            "The access token has been obtained from wrong audience or resource 'https://batch.core.windows.net'. It "
            "should exactly match (including forward slash) with one of the allowed audiences "
            "'https://batch.core.windows.net/'",
        ),
        (
            token(tenant=OTHER),
            f"The access token is from the wrong issuer 'https://sts.windows.net/{OTHER}/'. It must match the tenant "
            f"'https://sts.windows.net/{TENANT}/' associated with this subscription.",
        ),
        (
            token(lifetime=-1),
            "The access token expiry UTC time '2026-03-06 18:29:51' is earlier than current UTC time ",
        ),
        (token() + "x", "The signature of the access token is invalid."),
        (token().rpartition(".")[0] + ".", "The signature of the access token is invalid."),
        ("", "The access token is not a JSON Web Token with the claims iss, aud, nbf and exp."),
        ("a.b.c", "The access token is not a JSON Web Token with the claims iss, aud, nbf and exp."),
        ("a.bnVsbA.c", "The access token is not a JSON Web Token with the claims iss, aud, nbf and exp."),
    ],
)
def test_other_tokens_are_refused_with_401_and_the_reason(given, detail):
    error = refused(given)
    assert (error.status, error.name) == (401, "AuthenticationFailed")
    assert str(error.values["AuthenticationErrorDetail"]).startswith(detail)
    assert error.text == (
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly."
    )
    assert error.headers["WWW-Authenticate"].startswith('Bearer authorization_uri="https://login.microsoftonline.com/')


def test_token_is_not_valid_before_it_was_issued():
    error = refused(token(), NOW - timedelta(minutes=6))
    assert (
        error.values["AuthenticationErrorDetail"] == "The access token is not valid before '2026-03-06 18:24:52' UTC."
    )


@pytest.mark.parametrize(("method", "verb"), [("GET", "read"), ("POST", "write"), ("DELETE", "delete")])
def test_identity_without_a_role_is_denied(method, verb):
    error = refused(token(), access=Access(role=False), method=method)
    assert (error.status, error.name) == (403, "PermissionDenied")
    assert str(error.values["Reason"]).endswith(f"privelege Microsoft.Batch/batchAccounts/jobs/{verb}")


def test_closed_network_refuses_before_anything_else():
    error = refused("", access=Access(network=False))
    assert (error.status, error.name, error.values) == (403, "AuthorizationFailure", {})


def test_account_without_shared_keys_refuses_signatures():
    request = SignedRequest(method="GET", raw_path="/jobs", query="", headers={"authorization": "SharedKey acct:c2ln"})
    with pytest.raises(BatchError) as error:
        verify(request, ACCOUNT, NOW, access=Access(shared_key=False))
    assert error.value.values["AuthenticationErrorDetail"] == (
        "The specified type of authentication SharedKey is not allowed for this account."
    )


def test_secrets_are_not_shown_and_outlive_a_restart():
    assert Entra.of("a key") == ENTRA
    assert Entra.of("another") != ENTRA
    assert ENTRA.header not in repr(ENTRA)
    assert str(ENTRA.secret) not in repr(ENTRA)
