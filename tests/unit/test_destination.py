"""Where nodes store outputs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tasks.accounts.clients import Azure
from tasks.errors import InputError
from tasks.run.destination import Destination
from tasks.run.identity import Run

RUN = Run(
    workload="run-script",
    flow_run_id="0198c0de-0000-7000-8000-00000000c0de",
    started=datetime(2026, 1, 1, tzinfo=timezone.utc),
    lifetime=timedelta(hours=1),
)
SETTINGS = {
    "AZURE_BATCH_ACCOUNT": "batch",
    "AZURE_BATCH_ENDPOINT": "https://batch.region.batch.azure.com",
    "AZURE_STORAGE_ACCOUNT": "account",
}
KEYS = {"AZURE_BATCH_ACCESS_KEY": "a2V5", "AZURE_STORAGE_KEY": "a2V5"}


def azure(**more: str) -> Azure:
    found = Azure.from_environment({**SETTINGS, **more})
    assert found
    return found


def test_without_an_address_outputs_go_to_the_containers_of_the_run() -> None:
    destination = Destination.of(azure(**KEYS), RUN, "results")
    assert (str(destination), destination.kept) == (
        "https://account.blob.core.windows.net/run-script-00000000c0de-output/outputs",
        False,
    )
    assert destination.folder("a/x.txt") == "outputs/a/x.txt"


@pytest.mark.parametrize(
    ("output", "url", "folder"),
    [
        ("az://account/kept", "https://account.blob.core.windows.net/kept", "a.txt"),
        ("az://account/kept/a b/", "https://account.blob.core.windows.net/kept", "a b/a.txt"),
        ("az://account/$web/x", "https://account.blob.core.windows.net/$web", "x/a.txt"),
        ("https://account.blob.core.windows.net/kept/a%20b", "https://account.blob.core.windows.net/kept", "a b/a.txt"),
        ("https://ACCOUNT.dfs.core.windows.net/kept/x/", "https://account.blob.core.windows.net/kept", "x/a.txt"),
    ],
)
def test_an_address_is_where_outputs_stay(output: str, url: str, folder: str) -> None:
    destination = Destination.of(azure(**KEYS), RUN, output)
    assert (destination.kept, destination.url, destination.folder("a.txt")) == (True, url, folder)


def test_the_key_of_one_account_does_not_write_to_another() -> None:
    with pytest.raises(InputError) as error:
        Destination.of(azure(**KEYS), RUN, "az://another/kept/x")
    assert str(error.value) == (
        "output az://another/kept/x: it is not in the run's own account account, whose key cannot write there; name a "
        "container of that account, or run with Entra ID instead of an account key"
    )


def test_no_token_is_sent_to_a_host_that_is_none_of_azures() -> None:
    with pytest.raises(InputError) as error:
        Destination.of(azure(), RUN, "https://another.blob.example.com/kept/x")
    assert str(error.value) == (
        "output https://another.blob.example.com/kept/x: its host is none of Azure's, and no token of the run's "
        "identity is sent there; name a container of an Azure storage account"
    )


def test_an_identity_writes_to_other_accounts() -> None:
    destination = Destination.of(azure(), RUN, "az://another/kept/x")
    assert str(destination) == "https://another.blob.core.windows.net/kept/x"
