"""Storage without an account key: SAS URLs signed by a user delegation key, as Entra ID accounts need them.

Azurite takes any well-formed token over https, so the token here is made up, while the delegation key is Azurite's.
The signatures are not tried on Azurite: it does not know the signed form of the SDK's newest SAS version.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.core.credentials import AccessToken

import tasks.accounts.clients
from local_azure.azurite import MAIN, ensure_installed, node
from tasks.accounts.clients import Azure
from tasks.accounts.environment import BatchAccount, StorageAccount
from tasks.accounts.sas import Signer
from tasks.accounts.sources import SourceContainer
from tasks.errors import responses
from tasks.errors.responses import problem
from tasks.inputs.blobs import all_inputs
from tasks.inputs.files import find_inputs
from tests.support.certificates import self_signed

IN_AN_HOUR = dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)


class MadeUpToken:
    """A token as Entra ID would issue it, unsigned."""

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        claims: dict[str, Any] = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000001/",
            "nbf": int(IN_AN_HOUR.timestamp()) - 7200,
            "iat": int(IN_AN_HOUR.timestamp()) - 7200,
            "exp": int(IN_AN_HOUR.timestamp()) + 3600,
            "oid": "00000000-0000-0000-0000-000000000002",
            "tid": "00000000-0000-0000-0000-000000000001",
        }
        parts = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({"alg": "none"}, claims)
        ]
        return AccessToken(".".join([*parts, "c2ln"]), claims["exp"])


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The endpoint of a Blob Storage that takes tokens, and the certificate that it shows."""
    folder = tmp_path_factory.mktemp("azurite")
    ensure_installed()
    certificate, key = self_signed(folder)
    command = [str(node()), str(MAIN), "--blobHost=127.0.0.1", "--blobPort=0", "--disableTelemetry"]
    command += ["--inMemoryPersistence", "--skipApiVersionCheck", "--oauth=basic"]
    command += [f"--cert={certificate}", f"--key={key}"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    listening = next(line for line in process.stdout if "successfully listens on" in line)
    try:
        yield listening.split()[-1] + "/devstoreaccount1", certificate
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def problem_but_for_the_delegation_key(response: responses.Response) -> str:
    """Azurite gives its answer with the key no request id, which all of Azure's have."""
    return "" if "comp=userdelegationkey" in response.url else problem(response)


@pytest.fixture
def azure(azurite: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Azure:
    endpoint, certificate = azurite
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(tasks.accounts.clients, "_entra_id", MadeUpToken)
    monkeypatch.setattr(responses, "problem", problem_but_for_the_delegation_key)
    return Azure(
        batch_account=BatchAccount(name="none", endpoint="https://127.0.0.1"),
        storage_account=StorageAccount(name="devstoreaccount1", endpoint=endpoint),
    )


def parameters(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_sas_urls_without_an_account_key_permit_only_what_is_needed(azure: Azure) -> None:
    signer = Signer(azure, IN_AN_HOUR)
    read = parameters(signer.read_url("box", "a file.txt"))
    write = parameters("?" + signer.write_token("box"))
    signed_by = "00000000-0000-0000-0000-000000000002"  # the person or identity, not the account's key
    assert (read["skoid"], read["sr"], read["sp"], read["spr"]) == (signed_by, "b", "r", "https")
    assert (write["skoid"], write["sr"], write["sp"], write["spr"]) == (signed_by, "c", "cw", "https")
    assert read["se"] == IN_AN_HOUR.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_delegation_key_is_requested_once_for_at_most_seven_days(azure: Azure) -> None:
    signer = Signer(azure, IN_AN_HOUR + dt.timedelta(days=30))
    first, second = (parameters(signer.read_url("box", name)) for name in ("a", "b"))
    assert first["skt"] == second["skt"]
    assert dt.datetime.fromisoformat(first["ske"].replace("Z", "+00:00")) < IN_AN_HOUR + dt.timedelta(days=7)


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
    assert (read["skoid"], read["sr"], read["sp"]) == ("00000000-0000-0000-0000-000000000002", "b", "r")
