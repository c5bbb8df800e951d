"""Addresses of blobs, and the SAS in them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from pydantic import SecretStr

from tasks.accounts.clients import Access, Azure
from tasks.accounts.environment import BatchAccount, StorageAccount
from tasks.accounts.sources import SourceContainer, refuse_bad_sas
from tasks.check import _refuse_for_identity
from tasks.errors import InputError
from tasks.inputs.addresses import BlobAddress, SourceBlob, is_blob_address
from tasks.inputs.files import InputFile

NOW = datetime.now(timezone.utc)
KEY = "a2V5"


def sas(permissions: str = "rl", *, hours: float = 1, more: str = "") -> str:
    end = (NOW + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ").replace(":", "%3A")
    return f"sv=2026-02-06&se={end}&sr=c&sp={permissions}{more}&sig=c2VjcmV0"


def azure(key: str | None = KEY, endpoint: str = "https://own.blob.core.windows.net") -> Azure:
    storage = StorageAccount(name="own", endpoint=endpoint, key=SecretStr(key) if key else None)
    return Azure(batch_account=BatchAccount(name="b", endpoint="https://b"), storage_account=storage)


@pytest.mark.parametrize(
    ("text", "account", "endpoint", "container", "glob"),
    [
        ("az://account/container", "account", "", "container", ""),
        ("az://account/container/a%20b/*.txt", "account", "", "container", "a%20b/*.txt"),
        ("az://account/container/a?c", "account", "", "container", "a?c"),
        ("AZ://account/$web/x#y", "account", "", "$web", "x#y"),
        (
            "https://account.blob.core.windows.net/container/a%20b/*.txt",
            "account",
            "https://account.blob.core.windows.net",
            "container",
            "a b/*.txt",
        ),
        (
            "https://Account.blob.core.chinacloudapi.cn/container/%E6%97%A5%2A%5B1%5D",
            "account",
            "https://account.blob.core.chinacloudapi.cn",
            "container",
            "日[*][[]1]",
        ),
        (
            "https://account.z12.blob.storage.azure.net/container/",
            "account",
            "https://account.z12.blob.storage.azure.net",
            "container",
            "",
        ),
        (
            "https://account.dfs.core.windows.net/container/folder/",
            "account",
            "https://account.blob.core.windows.net",
            "container",
            "folder/",
        ),
        (
            "http://127.0.0.1:10000/account/container/logs",
            "account",
            "http://127.0.0.1:10000/account",
            "container",
            "logs",
        ),
    ],
)
def test_an_address_is_taken_apart(text: str, account: str, endpoint: str, container: str, glob: str) -> None:
    address = BlobAddress.parse(text)
    found = (address.account, address.endpoint, address.container, address.glob.text, address.sas)
    assert found == (account, endpoint, container, glob, "")


@pytest.mark.parametrize("begin", ["https://account.blob.core.windows.net/c-1/log?.txt", "az://account/c-1/log?.txt"])
def test_a_sas_is_told_from_a_wildcard_and_never_shown(begin: str) -> None:
    address = BlobAddress.parse(f"{begin}?{sas()}")
    assert address.sas == sas()
    assert address.glob.text == "log?.txt"
    assert str(address) == begin
    assert "c2VjcmV0" not in repr(address)
    assert "c2VjcmV0" not in repr(SourceContainer(endpoint="https://x", name="c", sas=sas()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("s3://bucket/x", "s3:// is no address of Blob Storage; write https://"),
        ("abfss://c@account.dfs.core.windows.net/x", "abfss:// is no address of Blob Storage"),
        ("https://example.com/container/x", "'example.com' is not a host of Blob Storage"),
        ("https://user:word@account.blob.core.windows.net/container", "is no host"),
        ("az://UPPER/container", "'UPPER' is not the name of a storage account"),
        ("az://account", "'' is not the name of a container"),
        ("az://account/*/x", "'*' is not the name of a container"),
        ("https://account.blob.core.windows.net/Container/x", "'Container' is not the name of a container"),
    ],
)
def test_what_is_no_address_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError) as error:
        BlobAddress.parse(text)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (sas("rwl"), "its SAS permits more than to read and list (sp=rwl), and whoever sees the parameters"),
        (sas("racwdl"), "make one that permits to read and list alone (sp=rl)"),
        (sas("l"), "its SAS does not permit to read (sp=l)"),
        ("si=policy&sv=2026-02-06&sr=c&sig=c2VjcmV0", "its SAS does not say what it permits"),
        (sas(hours=-1), "its SAS expired at"),
        (sas(more="&st=2999-01-01"), "its SAS begins at 2999-01-01 00:00:00 UTC"),
        (sas().replace("se=2", "se=x"), "in its SAS is no time"),
    ],
    ids=["writes", "all", "lists only", "policy", "expired", "not yet", "no time"],
)
def test_a_sas_that_does_not_fit_is_refused_without_being_shown(token: str, reason: str) -> None:
    with pytest.raises(InputError) as error:
        BlobAddress.parse(f"https://account.blob.core.windows.net/container/x?{token}")
    assert reason in str(error.value)
    assert str(error.value).startswith("input https://account.blob.core.windows.net/container/x: ")
    assert "c2VjcmV0" not in str(error.value)


def test_a_sas_has_to_last_as_long_as_the_run() -> None:
    refuse_bad_sas("x", sas(hours=2), NOW + timedelta(hours=1))
    with pytest.raises(InputError, match=r"expires at .* UTC, but the run may last until .* or lower run_minutes"):
        refuse_bad_sas("x", sas(hours=2), NOW + timedelta(hours=3))


def test_a_path_with_a_colon_is_no_address() -> None:
    assert not any(map(is_blob_address, ["a:b", "C:/x", "x/az://y", "://x", "az:/x"]))


@pytest.mark.parametrize(
    ("own", "account", "endpoint"),
    [
        ("https://own.blob.core.windows.net", "own", "https://own.blob.core.windows.net"),
        ("https://own.blob.core.chinacloudapi.cn", "other", "https://other.blob.core.chinacloudapi.cn"),
        ("http://127.0.0.1:10000/own", "own", "http://127.0.0.1:10000/own"),
        ("http://127.0.0.1:10000/own", "other", "https://other.blob.core.windows.net"),
    ],
)
def test_an_account_is_looked_for_in_the_cloud_of_the_run(own: str, account: str, endpoint: str) -> None:
    assert azure(endpoint=own).blob_endpoint_of(account) == endpoint


@pytest.mark.parametrize(
    ("key", "endpoint", "token", "access"),
    [
        (KEY, "https://own.blob.core.windows.net", "", Access.KEY),
        (KEY, "https://other.blob.core.windows.net", "", Access.PUBLIC),
        (KEY, "https://own.blob.core.windows.net", "sig=x", Access.SAS),
        (None, "https://own.blob.core.windows.net", "", Access.ENTRA_ID),
        (None, "https://other.blob.core.windows.net", "", Access.ENTRA_ID),
    ],
)
def test_the_address_and_the_accounts_decide_how_blobs_are_read(
    key: str | None, endpoint: str, token: str, access: Access
) -> None:
    assert azure(key).access_to(SourceContainer(endpoint=endpoint, name="c", sas=token)) is access


@pytest.mark.parametrize(
    ("endpoint", "account"),
    [
        ("https://account.blob.core.windows.net", "account"),
        ("https://account-secondary.blob.core.windows.net", "account"),
        ("http://127.0.0.1:10000/account", "account"),
    ],
)
def test_an_endpoint_has_the_name_of_its_account(endpoint: str, account: str) -> None:
    assert SourceContainer(endpoint=endpoint, name="c").account == account


@pytest.mark.parametrize(
    ("endpoint", "token", "reason"),
    [
        ("https://other.blob.example.com", "", "on a host that is none of Azure's"),
        ("https://other.blob.core.windows.net", sas(), "have a SAS in their address"),
        ("https://other.blob.core.windows.net", "", ""),
    ],
    ids=["another host", "with SAS", "of Azure"],
)
def test_nodes_with_an_identity_read_from_azure_without_sas(endpoint: str, token: str, reason: str) -> None:
    container = SourceContainer(endpoint=endpoint, name="c", sas=token)
    blob = SourceBlob(container=container, name="b", size=1, md5="", etag="e", modified=NOW)
    file = InputFile(name="b", size=1, source=blob, task_id="t")
    with pytest.raises(InputError, match=reason) if reason else nullcontext():
        _refuse_for_identity(replace(azure(), node_identity="nodes"), [file])
    _refuse_for_identity(azure(), [file])
