"""What step 0 says where an account refuses the run: the account, the identity, the meaning, the command, the code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from local_azure import faults
from local_azure.batch.state.access import PRINCIPAL
from tasks.accounts import entra_id
from tasks.accounts.clients import Azure
from tasks.check import check_accounts
from tasks.errors import InputError
from tasks.errors.codes import Code
from tasks.errors.service import ServiceError
from tasks.run.results import Results
from tasks.run.settings import PoolSettings
from tests.support.accounts import accounts_of
from tests.support.certificates import self_signed
from tests.support.fault_proxy import Call, FaultProxies, Refusal, Service

OTHER_TENANT = "0bad0000-0000-4000-8000-000000000001"
TOKEN = "eyJhbGciOiJub25lIn0.eyJvaWQiOiJzZWNyZXQifQ.c2lnbmF0dXJl"
DETAIL = "AuthenticationErrorDetail"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A response of a service, and what the run is to name."""

    service: Service
    answer: Refusal
    names: str
    operation: str = ""  # a part of the request that is refused; each one where there is none


def of(service: Service, status: int, code: str, names: str, detail: str = "", operation: str = "") -> Refused:
    values = ((DETAIL, detail),) if detail else ()
    return Refused(
        service=service, answer=Refusal(status=status, code=code, values=values), names=names, operation=operation
    )


BATCH, BLOBS = Service.BATCH, Service.BLOBS
BATCH_ROLE = '--role "Azure Batch Data Contributor" --scope'
CASES = [
    of(BATCH, 403, "AuthenticationFailed", "az batch account keys list --name {batch} "),
    of(
        BATCH,
        403,
        "AuthenticationFailed",
        "unset AZURE_BATCH_ACCESS_KEY; az login",
        "The specified type of authentication SharedKey is not allowed for this account.",
    ),
    of(BATCH, 401, "AuthenticationFailed", "az cloud list", "The access token has been obtained from wrong audience"),
    of(BATCH, 401, "AuthenticationFailed", "export AZURE_TENANT_ID=", "The access token is from the wrong issuer 'x'."),
    of(BATCH, 401, "AuthenticationFailed", "sign in again", "The access token expiry UTC time 'x' is earlier than"),
    of(BATCH, 403, "PermissionDenied", BATCH_ROLE),
    of(BATCH, 403, "InsufficientAccountPermissions", BATCH_ROLE),
    of(BATCH, 403, "PermissionDenied", BATCH_ROLE, operation="supportedimages"),
    of(BATCH, 403, "AuthorizationFailure", "az batch account network-profile network-rule add --name {batch} "),
    of(BATCH, 403, "AccountIsDisabled", "az account list --all"),
    of(BATCH, 404, "AccountNotFound", "az batch account list"),
    of(BLOBS, 403, "KeyBasedAuthenticationNotPermitted", "export AZURE_STORAGE_ACCOUNT={storage}; az login"),
    of(BLOBS, 403, "AuthenticationFailed", "az storage account keys list --account-name {storage}"),
    of(BLOBS, 403, "AuthenticationFailed", "sudo timedatectl set-ntp true", "Request date header too old: 'x'"),
    of(BLOBS, 401, "InvalidAuthenticationInfo", "az login --tenant", "Audience validation failed."),
    of(BLOBS, 401, "InvalidAuthenticationInfo", "export AZURE_TENANT_ID=", "Issuer validation failed."),
    of(BLOBS, 401, "InvalidAuthenticationInfo", "sign in again", "Lifetime validation failed. The token is expired."),
    of(BLOBS, 403, "AuthorizationPermissionMismatch", '--role "Storage Blob Data Contributor" --scope'),
    of(BLOBS, 403, "AuthorizationFailure", "az storage account network-rule add --account-name {storage} "),
    of(BLOBS, 403, "AuthorizationSourceIPMismatch", "az storage account keys list"),
    of(BLOBS, 403, "AuthorizationProtocolMismatch", "az storage account show --name {storage}"),
    of(BLOBS, 403, "AccountIsDisabled", "az account list --all"),
    of(BLOBS, 401, "NoAuthenticationInformation", "az login"),
]


@pytest.fixture(scope="module")
def proxies() -> Iterator[FaultProxies]:
    with FaultProxies() as proxies:
        yield proxies


def refusal_of(azure: Azure, folder: Path) -> str:
    with pytest.raises(InputError) as raised, disable_run_logger():
        check_accounts.fn(azure, PoolSettings(), Results(folder=folder))
    return str(raised.value)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.service.value} {case.names[:30]}" for case in CASES])
def test_a_refusal_is_answered_with_the_command_that_helps(
    case: Refused,
    proxies: FaultProxies,
    no_azure: None,
    azure_settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def decide(call: Call) -> Refusal | None:
        hit = call.service is case.service and case.operation in call.path
        return case.answer if hit else None

    with proxies.passage(azure_settings, decide) as passage:
        azure = accounts_of(passage.settings, monkeypatch)
        message = refusal_of(azure, tmp_path)
    batch, storage = azure.batch_account.name, azure.storage_account.name
    kind, name = ("Batch", batch) if case.service is BATCH else ("storage", storage)
    assert message.startswith(f"the {kind} account {name} refuses the account key: ")
    assert case.names.format(batch=batch, storage=storage) in message
    assert message.endswith(f" answered {case.answer.status}, request id asked-for: {case.answer.code}")
    assert len(message.splitlines()) == 3


def test_a_clock_that_is_wrong_is_seen_in_the_date_of_the_response(
    proxies: FaultProxies,
    no_azure: None,
    azure_settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    answer = Refusal(status=403, code=Code.AUTHENTICATION_FAILED, headers=(("Date", "Mon, 01 Jan 2024 00:00:00 GMT"),))
    with proxies.passage(azure_settings, lambda call: answer) as passage:
        message = refusal_of(accounts_of(passage.settings, monkeypatch), tmp_path)
    assert "the clock of this machine differs" in message
    assert "timedatectl" in message


def test_a_code_that_is_not_known_is_shown_as_it_is_without_secrets(
    proxies: FaultProxies,
    no_azure: None,
    azure_settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    answer = Refusal(
        status=403, code="NewCode", message=f"Bearer {TOKEN} at https://a/b?sig=abc", values=(("Reason", TOKEN),)
    )
    with proxies.passage(azure_settings, lambda call: answer) as passage:
        azure = accounts_of(passage.settings, monkeypatch)
        with pytest.raises(Exception) as raised:  # noqa: PT011  # of the SDK, as the step translates it
            check_accounts.fn(azure, PoolSettings(), Results(folder=tmp_path))
    message = str(ServiceError.of(raised.value))
    assert message == (
        "Azure Batch answered 403 NewCode: Bearer *** at https://a/b?sig=***\n  Reason: ***\n  request id: asked-for"
    )


def test_an_account_that_does_not_exist_is_named_with_those_that_do(
    no_azure: None, azure_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    azure = accounts_of(azure_settings, monkeypatch)
    nowhere = replace(azure.batch_account, endpoint="https://nobody.nowhere.invalid")
    monkeypatch.setattr("azure.core.pipeline.policies.RetryPolicy.sleep", lambda *_, **__: None)
    message = refusal_of(replace(azure, batch_account=nowhere), tmp_path)
    assert message.startswith(
        f"the Batch account {nowhere.name} at https://nobody.nowhere.invalid: there is no such host"
    )
    assert "`az batch account list" in message
    assert message.endswith(": HostNotFound")


# Without keys, against the local services' own checks of tokens, roles and networks.


@pytest.mark.parametrize(
    ("operation", "properties", "named"),
    [
        ("access", {"account": "batch", "role": False}, f"--assignee {PRINCIPAL} {BATCH_ROLE}"),
        ("access", {"account": "storage", "role": False}, f'--assignee {PRINCIPAL} --role "Storage Blob Data'),
        ("access", {"account": "batch", "network": False}, "az batch account network-profile network-rule add"),
        ("access", {"account": "storage", "network": False}, "az storage account network-rule add"),
        ("tokens", {"tenant": OTHER_TENANT}, "az login --tenant 10ca1000-"),
        ("tokens", {"audience": "https://management.azure.com"}, "the token is for another service"),
        ("tokens", {"lifetime": 0}, "the token has expired"),
    ],
    ids=["batch role", "storage role", "batch firewall", "storage firewall", "tenant", "audience", "expired"],
)
def test_an_identity_that_is_refused_is_named(
    keyless: Azure, operation: str, properties: dict[str, object], named: str, tmp_path: Path
) -> None:
    faults.ask(operation, properties)
    message = refusal_of(keyless, tmp_path)
    assert named in message
    assert f"refuses the identity that signs in (object id {PRINCIPAL}" in message
    assert TOKEN[:10] not in message


def test_a_missing_sign_in_is_answered_with_az_login(
    keyless: Azure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
            patch.delenv(name)
        patch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
        patch.setenv("PATH", str(tmp_path))  # no az
        entra_id._credential.cache_clear()
        message = refusal_of(keyless, tmp_path)
    assert message.startswith(f"1. no token for the Batch account {keyless.batch_account.name}: nobody is signed in")
    assert f"2. no token for the storage account {keyless.storage_account.name}: nobody is signed in" in message
    assert "`az login`" in message
    assert message.endswith(": CredentialUnavailableError")


def test_a_certificate_that_is_not_trusted_is_named(
    keyless: Azure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(self_signed(tmp_path)[0]))
        message = refusal_of(keyless, tmp_path)
    assert "does not answer; set SSL_CERT_FILE and REQUESTS_CA_BUNDLE to a file that has the certificate" in message
