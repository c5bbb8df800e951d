"""Without any account key: TLS, tokens that DefaultAzureCredential gets, and SAS signed by a user delegation key.

Both services take tokens alone, and check signature, tenant, audience and expiry. Blob Storage checks each SAS.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hmac
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from azure.batch import BatchClient
from azure.batch import aio as aio_batch
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.identity import aio as aio_identity
from azure.storage.blob import BlobClient, BlobServiceClient, UserDelegationKey
from azure.storage.blob import aio as aio_blob

from flows.run_script import run_script
from flows.top_words import top_words
from local_azure import faults
from local_azure.batch.state.access import PRINCIPAL
from tasks.accounts.clients import Azure
from tasks.accounts.environment import StorageAccount
from tasks.accounts.sas import Signer
from tasks.accounts.sources import SourceContainer
from tasks.errors import TasksFailed
from tasks.errors.service import error_code
from tasks.inputs.blobs import all_inputs
from tasks.inputs.files import find_inputs
from tests.support.accounts import left_over
from tests.support.paths import DATA

IN_AN_HOUR = dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
OTHER_TENANT = "0bad0000-0000-4000-8000-000000000001"


@pytest.fixture
def azure(keyless: Azure) -> Azure:
    return keyless


def parameters(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_no_key_is_in_the_environment_and_the_run_counts_the_words(
    azure: Azure, prefect_server: None, tmp_path: Path
) -> None:
    assert not [name for name in os.environ if name.startswith("AZURE_") and ("KEY" in name or "CONNECTION" in name)]
    faults.ask("tokens", {"lifetime": 5})  # so that no client keeps one, and each expires within the run
    summary = top_words(inputs=[str(DATA)], top_n=1, output_folder=str(tmp_path))
    assert summary.by_file[["file", "word", "count"]].to_numpy().tolist() == [
        ["clouds.txt", "the", 16],
        ["harbour.txt", "the", 35],
        ["kitchen.txt", "the", 13],
    ]
    assert left_over(azure) == []


def test_a_failing_script_fails_the_run_without_a_key_too(azure: Azure, prefect_server: None, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\necho no good >&2\nexit 3\n")
    (tmp_path / "in.txt").write_text("x")
    with pytest.raises(TasksFailed, match=r"exit code 3[^$]*no good"):
        run_script(script=str(script), inputs=[str(tmp_path / "in.txt")], output_folder=str(tmp_path / "results"))
    assert left_over(azure) == []


def test_an_unmodified_credential_signs_in_with_the_sdks_of_both_kinds(azure: Azure) -> None:
    batch, storage = azure.batch_account.endpoint, azure.storage_account.endpoint
    with DefaultAzureCredential() as credential, BatchClient(batch, credential) as client:
        assert [pool.id for pool in client.list_pools()] == []

    verify = os.environ["SSL_CERT_FILE"]  # which aiohttp reads when it is imported, here too early

    async def sign_in() -> list[str]:
        async with aio_identity.DefaultAzureCredential() as credential:
            async with aio_batch.BatchClient(batch, credential, connection_verify=verify) as client:
                pools = [pool.id async for pool in client.list_pools()]
            async with aio_blob.BlobServiceClient(storage, credential, connection_verify=verify) as blobs:
                return pools + [each.name async for each in blobs.list_containers(name_starts_with="none")]

    assert asyncio.run(sign_in()) == []


def test_sas_urls_without_an_account_key_permit_only_what_is_needed(azure: Azure) -> None:
    with azure.blobs() as blobs:
        blobs.create_container("box").upload_blob("a file.txt", b"text")
    signer = Signer(azure, IN_AN_HOUR)
    url, token = signer.read_url("box", "a file.txt"), signer.write_token("box")
    read, write = parameters(url), parameters(f"?{token}")
    assert (read["skoid"], read["sr"], read["sp"], read["spr"]) == (PRINCIPAL, "b", "r", "https")
    assert (write["skoid"], write["sr"], write["sp"], write["spr"]) == (PRINCIPAL, "c", "cw", "https")
    assert read["se"] == IN_AN_HOUR.strftime("%Y-%m-%dT%H:%M:%SZ")
    new = f"{azure.storage_account.endpoint}/box/new.txt?{token}"
    assert BlobClient.from_blob_url(url).download_blob().readall() == b"text"
    assert BlobClient.from_blob_url(new).upload_blob(b"new")
    for refused in (new, url.replace("a%20file", "new"), url.replace("sp=r", "sp=rw")):
        with pytest.raises(HttpResponseError) as error:
            BlobClient.from_blob_url(refused).download_blob()
        assert (error.value.status_code, error_code(error.value)) in (
            (403, "AuthorizationFailure"),
            (403, "AuthorizationPermissionMismatch"),
        )


def test_signatures_are_of_the_documented_string(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The string-to-sign of version 2026-04-06 and later, in Microsoft's "Create a user delegation SAS"."""
    keys: list[UserDelegationKey] = []
    get_key = BlobServiceClient.get_user_delegation_key

    def kept(self: BlobServiceClient, *arguments: Any, **options: Any) -> UserDelegationKey:
        keys.append(get_key(self, *arguments, **options))
        return keys[-1]

    monkeypatch.setattr(BlobServiceClient, "get_user_delegation_key", kept)
    signer = Signer(azure, IN_AN_HOUR)
    account = azure.storage_account.name
    signed = [
        (parameters(signer.read_url("box", "a b/ü.txt")), f"/blob/{account}/box/a b/ü.txt"),
        (parameters(f"?{signer.write_token('box')}"), f"/blob/{account}/box"),
    ]
    (key,) = keys
    for sas, resource in signed:
        assert sas["sv"] >= "2026-04-06"
        lines = [sas["sp"], "", sas["se"], resource]
        lines += [sas[name] for name in ("skoid", "sktid", "skt", "ske", "sks", "skv")]
        lines += ["", "", "", "", ""]  # saoid, suoid, scid, skdutid, sduoid
        lines += ["", sas["spr"], sas["sv"], sas["sr"], "", ""]  # sip, ..., the snapshot, ses
        lines += ["", "", "", "", "", "", ""]  # headers and parameters of the request, rscc, rscd, rsce, rscl, rsct
        assert key.value
        expected = hmac.digest(base64.b64decode(key.value), "\n".join(lines).encode(), "sha256")
        assert sas["sig"] == base64.b64encode(expected).decode()


def test_a_delegation_key_is_requested_once_for_at_most_seven_days(azure: Azure) -> None:
    signer = Signer(azure, IN_AN_HOUR + dt.timedelta(days=30))
    first, second = (parameters(signer.read_url("box", name)) for name in ("a", "b"))
    assert first["skt"] == second["skt"]
    # 15 minutes less, since the service counts 7 days by its own clock.
    most = dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=7) - dt.timedelta(minutes=15)
    assert dt.datetime.fromisoformat(first["ske"].replace("Z", "+00:00")) <= most


def test_blobs_of_another_account_are_listed_and_signed_as_the_same_identity(azure: Azure) -> None:
    own = StorageAccount(name="own", endpoint="https://own.blob.core.windows.net")
    elsewhere = replace(azure, storage_account=own)
    source = SourceContainer(endpoint=azure.storage_account.endpoint, name="other-account")
    with azure.source(source) as container:
        container.create_container()
        container.upload_blob("x/a.txt", b"text")
    (file,) = all_inputs(elsewhere, find_inputs([f"{source.endpoint}/other-account/x/*.txt"]), IN_AN_HOUR)
    assert (file.name, file.size) == ("a.txt", 4)
    url = Signer(elsewhere, IN_AN_HOUR).source_url(source, "x/a.txt")
    assert url.startswith(f"{source.endpoint}/other-account/x/a.txt?")
    read = parameters(url)
    assert (read["skoid"], read["sr"], read["sp"]) == (PRINCIPAL, "b", "r")
    assert requests.get(url, timeout=20).content == b"text"


def refusals(azure: Azure) -> list[tuple[int | None, str, str]]:
    """The status, code and reason with which Batch and Blob Storage refuse a request; nothing where they do not."""
    found: list[tuple[int | None, str, str]] = []
    with azure.batch() as batch, azure.blobs() as blobs:
        for ask in (batch.list_pools, blobs.list_containers):
            try:
                next(iter(ask()), None)
            except HttpResponseError as error:
                values = getattr(getattr(error, "model", None), "error_values", None) or ()
                more: dict[str, str] = getattr(error, "additional_info", None) or {}
                reasons = [str(each.value) for each in values] + list(more.values())
                found.append((error.status_code, error_code(error), " ".join(reasons)))
    return found


@pytest.mark.parametrize(
    ("issued", "of_batch", "of_storage"),
    [
        (
            {"audience": "https://management.azure.com"},
            "The access token has been obtained from wrong audience or resource 'https://management.azure.com'.",
            "Audience validation failed. Audience did not match.",
        ),
        (
            {"tenant": OTHER_TENANT},
            f"The access token is from the wrong issuer 'https://sts.windows.net/{OTHER_TENANT}/'.",
            "Issuer validation failed. Issuer did not match.",
        ),
        (
            {"lifetime": -0.0},
            "The access token expiry UTC time '",
            "Lifetime validation failed. The token is expired.",
        ),
    ],
    ids=["audience", "tenant", "expiry"],
)
def test_both_services_refuse_a_wrong_token_as_azure_does(
    azure: Azure, issued: dict[str, Any], of_batch: str, of_storage: str
) -> None:
    faults.ask("tokens", issued)
    first, second = refusals(azure)
    assert first[:2] == (401, "AuthenticationFailed")
    assert first[2].startswith(of_batch)
    assert second == (401, "InvalidAuthenticationInfo", of_storage)


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        ({"account": "batch", "role": False}, (403, "PermissionDenied")),
        ({"account": "storage", "role": False}, (403, "AuthorizationPermissionMismatch")),
        ({"account": "batch", "network": False}, (403, "AuthorizationFailure")),
        ({"account": "storage", "network": False}, (403, "AuthorizationFailure")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_role_and_network_of_each_account_are_checked(
    azure: Azure, access: dict[str, Any], expected: tuple[int, str]
) -> None:
    faults.ask("access", access)
    ((status, code, _),) = refusals(azure)
    assert (status, code) == expected
    faults.ask("reset", {})
    assert refusals(azure) == []


def test_accounts_that_forbid_keys_say_so(troubled: Azure) -> None:
    assert refusals(troubled) == []
    for account in ("batch", "storage"):
        faults.ask("access", {"account": account, "sharedKey": False})
    assert refusals(troubled) == [
        (
            403,
            "AuthenticationFailed",
            "The specified type of authentication SharedKey is not allowed for this account.",
        ),
        (403, "KeyBasedAuthenticationNotPermitted", ""),
    ]
    with pytest.raises(HttpResponseError) as error:  # nor SAS that are signed with a key
        BlobClient.from_blob_url(Signer(troubled, IN_AN_HOUR).read_url("box", "a")).download_blob()
    assert error_code(error.value) == "KeyBasedAuthenticationNotPermitted"


def test_an_account_without_public_access_says_so(troubled: Azure) -> None:
    url = f"{troubled.storage_account.endpoint}/box?restype=container&comp=list"
    faults.ask("access", {"account": "storage", "anonymous": False})
    answer = requests.get(url, timeout=20)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (409, "PublicAccessNotPermitted")
    assert refusals(troubled) == []  # of those who sign
    faults.ask("reset", {})
    assert requests.get(url, timeout=20).status_code != 409


@pytest.mark.parametrize(
    ("header", "query", "status"),
    [
        ("wrong", "api-version=2019-08-01&resource=x", 401),
        ("", "resource=x", 400),
        ("", "api-version=2019-08-01", 400),
    ],
)
def test_tokens_are_issued_to_those_who_have_the_header(azure: Azure, header: str, query: str, status: int) -> None:
    headers = {"X-IDENTITY-HEADER": header or os.environ["IDENTITY_HEADER"]}
    answer = requests.get(f"{os.environ['IDENTITY_ENDPOINT']}?{query}", headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["statusCode"]) == (status, status)
