"""The accounts of a deployment live in a Prefect block, and nobody reads the keys where they are not needed."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner, Result

from flows.credentials import app
from tasks.accounts.block import AzureBatchAccounts, accounts
from tasks.accounts.choose import azure_for_run
from tasks.accounts.clients import Azure
from tasks.accounts.environment import BATCH_SETTINGS, STORAGE_SETTINGS
from tasks.errors import InputError
from tests.support.runs import in_flow

ROOT = Path(__file__).resolve().parents[2]
ALL_SETTINGS = (*BATCH_SETTINGS, *STORAGE_SETTINGS)
BATCH_KEY = base64.b64encode(b"the key of the Batch account").decode()
STORAGE_KEY = base64.b64encode(b"the key of the storage account").decode()
SETTINGS = {
    "AZURE_BATCH_ACCOUNT": "mybatch",
    "AZURE_BATCH_ENDPOINT": "mybatch.westeurope.batch.azure.com",
    "AZURE_BATCH_ACCESS_KEY": BATCH_KEY,
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=mystorage;AccountKey={STORAGE_KEY};"
    "DefaultEndpointsProtocol=https;EndpointSuffix=core.windows.net",
}
ENTRA_ID = {
    "AZURE_BATCH_ACCOUNT": "mybatch",
    "AZURE_BATCH_ENDPOINT": "https://mybatch.westeurope.batch.azure.com",
    "AZURE_STORAGE_ACCOUNT": "mystorage",
}


KEYLESS_LOCAL = {
    "AZURE_BATCH_ACCOUNT": "localazure",
    "AZURE_BATCH_ENDPOINT": "https://127.0.0.1:10100",
    "AZURE_STORAGE_ACCOUNT": "localazure",
    "AZURE_STORAGE_SERVICE_ENDPOINT": "https://127.0.0.1:10000/localazure",
}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What the command that saves a block printed, and every command line on the machine while it ran."""

    code: int
    output: str
    errors: str
    command_lines: frozenset[str]


def save_in_a_process(name: str, settings: Mapping[str, str]) -> Saved:
    url = get_current_settings().api.url
    assert url
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.credentials", name],
        cwd=ROOT,
        env={**inherited, **settings, "PREFECT_API_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: set[str] = set()
    while process.poll() is None:
        seen |= set(command_lines())
        time.sleep(0.05)
    output, errors = process.communicate()
    return Saved(code=process.returncode, output=output, errors=errors, command_lines=frozenset(seen))


def save(*arguments: str, settings: Mapping[str, str]) -> Result:
    return CliRunner().invoke(app, arguments, env={name: settings.get(name) for name in ALL_SETTINGS})


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text(errors="replace")
        except OSError:  # it has ended
            continue


@pytest.fixture(scope="module")
def saved(prefect_server: None) -> Saved:
    return save_in_a_process("production", SETTINGS)


def test_one_command_saves_the_accounts_of_the_environment(saved: Saved) -> None:
    assert (saved.code, saved.errors) == (0, "")
    assert saved.output == (
        "Saved the block 'production': Batch account mybatch (https://mybatch.westeurope.batch.azure.com) "
        "and storage account mystorage (https://mystorage.blob.core.windows.net)\n"
        'Name it in the parameters of a run or of a deployment: accounts: "production"\n'
    )


def test_the_block_is_the_accounts_that_the_environment_would_be(saved: Saved) -> None:
    loaded = accounts("production")
    assert loaded == Azure.from_environment(SETTINGS)
    assert loaded.batch_account.key
    assert loaded.batch_account.key.get_secret_value() == BATCH_KEY


def test_a_block_that_is_named_wins_over_the_environment(azure: Azure, saved: Saved) -> None:
    def used(block: str | None) -> Azure:
        with azure_for_run(block) as found:
            return found

    assert in_flow(lambda: used("production")).batch_account.name == "mybatch"
    assert in_flow(lambda: used(None)) == azure


def test_the_keys_are_nowhere_but_in_the_block(saved: Saved) -> None:
    block = AzureBatchAccounts.load("production")
    url = get_current_settings().api.url
    name = f"{url}/block_types/slug/azure-batch-accounts/block_documents"
    answers = [
        httpx.get(name),
        httpx.get(f"{name}/name/production"),
        httpx.post(f"{url}/block_documents/filter", json={}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    data = answers[1].json()["data"]
    assert data["batch_account"] == "mybatch"
    assert {data["batch_key"], data["storage_connection_string"]} == {"********"}
    shown = [repr(block), str(block), repr(block.azure()), saved.output, *saved.command_lines]
    shown += [answer.text for answer in answers]
    for secret in (BATCH_KEY, STORAGE_KEY):
        assert not [text for text in shown if secret in text]
    assert any("flows.credentials\0production" in line for line in saved.command_lines)  # it was looked at


def test_the_database_of_the_server_holds_no_key_in_clear(saved: Saved) -> None:
    url = get_current_settings().server.database.connection_url
    assert url
    database = Path(url.get_secret_value().partition("///")[2])
    files = list(database.parent.glob(f"{database.name}*"))
    assert any(b"azure-batch-accounts" in path.read_bytes() for path in files)
    for secret in (BATCH_KEY, STORAGE_KEY):
        assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_the_form_describes_every_field_and_masks_secrets(saved: Saved) -> None:
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("production", "azure-batch-accounts")
    schema = document.block_schema.fields
    assert sorted(schema["secret_fields"]) == ["batch_key", "storage_connection_string", "storage_key"]
    assert [name for name, field in schema["properties"].items() if not field.get("description")] == []
    assert document.block_type.name == "Azure Batch Accounts"


def test_an_existing_block_is_replaced_only_when_told_so(saved: Saved) -> None:
    assert save("other", settings=SETTINGS).exit_code == 0
    refused = save("other", settings=ENTRA_ID)
    assert refused.exit_code == 1
    assert refused.stderr == "\nError: there is a block 'other' already; replace what it holds with --overwrite\n"
    assert accounts("other").batch_account.key
    assert save("other", "--overwrite", settings=ENTRA_ID).exit_code == 0
    assert accounts("other") == Azure.from_environment(ENTRA_ID)


def test_a_block_keeps_the_endpoint_of_the_blobs() -> None:
    block = AzureBatchAccounts.from_environment(KEYLESS_LOCAL)
    assert block.azure() == Azure.from_environment(KEYLESS_LOCAL)
    assert block.azure().storage_account.endpoint == "https://127.0.0.1:10000/localazure"


def test_an_unknown_block_is_refused_with_those_that_exist(saved: Saved) -> None:
    with pytest.raises(InputError, match="there is no block 'productoin' of the type Azure Batch Accounts") as caught:
        accounts("productoin")
    assert "'production'" in str(caught.value)
    assert "`python -m flows.credentials productoin`" in str(caught.value)


def test_a_server_without_any_such_block_gives_the_same_error(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AzureBatchAccounts, "_block_type_slug", "never-saved")
    with pytest.raises(InputError, match=r"there is no block 'production' of the type .*; there is none at all"):
        accounts("production")


def test_a_name_that_prefect_refuses_is_an_error_that_says_so(saved: Saved) -> None:
    refused = save("My Accounts", settings=SETTINGS)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("\nError: ")
    assert "lowercase letters, numbers, and dashes" in refused.stderr
    assert "Traceback" not in refused.output


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "none of AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT"),
        (
            {"AZURE_BATCH_ACCOUNT": "mybatch"},
            "AZURE_BATCH_ENDPOINT and AZURE_STORAGE_CONNECTION_STRING (or AZURE_STORAGE_ACCOUNT) are not set",
        ),
    ],
)
def test_half_of_the_accounts_saves_no_block(settings: dict[str, str], reason: str) -> None:
    refused = save("half", settings=settings)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"\nError: {reason}")


def test_bad_values_saved_in_the_ui_are_refused_when_used(saved: Saved) -> None:
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("production", "azure-batch-accounts")
        answer = client.request(
            "POST",
            "/block_documents/",
            json={
                "name": "from-the-form",
                "block_type_id": str(document.block_type_id),
                "block_schema_id": str(document.block_schema_id),
                "data": {"batch_account": "mybatch", "batch_endpoint": "", "batch_key": BATCH_KEY},
            },
        )
    assert answer.status_code == 201
    missing = r"the block 'from-the-form' .* AZURE_BATCH_ENDPOINT and AZURE_STORAGE_CONNECTION_STRING .* are not set"
    with pytest.raises(InputError, match=missing) as caught:
        accounts("from-the-form")
    assert BATCH_KEY not in str(caught.value)


def test_no_validation_error_quotes_a_key() -> None:
    slip = SecretStr(f"{BATCH_KEY}!")
    with pytest.raises(ValidationError, match="holds no account key") as caught:
        AzureBatchAccounts(
            batch_account="mybatch",
            batch_endpoint="https://b.batch.azure.com",
            batch_key=slip,
            storage_account="mystorage",
        )
    assert BATCH_KEY not in str(caught.value)
    assert BATCH_KEY not in repr(caught.value)
