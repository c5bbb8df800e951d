"""Which cloud an account is in, and what follows: the blob endpoint, the token's audience, who issues it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.accounts.clients import Access, Azure
from tasks.accounts.clouds import (
    CHINA,
    CLOUDS,
    PUBLIC,
    US_GOVERNMENT,
    Cloud,
    authority_of,
    cloud_of,
    region_of,
    takes_tokens,
)
from tasks.accounts.environment import StorageAccount
from tasks.accounts.sources import SourceContainer

OWN = "https://own.blob.core.windows.net"
EACH = pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.name)


def accounts(cloud: Cloud) -> Azure:
    settings = {"AZURE_BATCH_ACCOUNT": "mybatch", "AZURE_BATCH_ENDPOINT": f"mybatch.region1.{cloud.batch}"}
    azure = Azure.from_environment({**settings, "AZURE_STORAGE_ACCOUNT": "mystorage"})
    assert azure
    return azure


@EACH
def test_the_storage_account_is_in_the_cloud_of_the_batch_account(cloud: Cloud) -> None:
    azure = accounts(cloud)
    assert azure.cloud is cloud
    assert azure.storage_account.endpoint == f"https://mystorage.{cloud.blobs}"
    assert azure.blob_endpoint_of("another") == f"https://another.{cloud.blobs}"


@pytest.mark.parametrize(
    ("endpoint", "own", "taken"),
    [
        ("https://another.blob.core.windows.net", OWN, True),
        ("https://another.blob.core.usgovcloudapi.net", OWN, True),
        ("https://another.z12.blob.storage.azure.net", OWN, True),
        ("https://another.privatelink.blob.core.windows.net", OWN, True),
        ("https://another.blob.local.azurestack.external", "https://own.blob.local.azurestack.external", True),
        ("https://blobs.example.com:10000/another", "https://blobs.example.com:10000/own", True),
        ("https://127.0.0.1:10000/account", OWN, True),
        ("https://another.blob.example.com", OWN, False),
        ("https://another.blob.core.windows.net.example.com", OWN, False),
        ("https://blobs.example.com:443/account", OWN, False),
        ("https://127.0.0.1.example.com:443/account", OWN, False),
        ("https://127.999.0.1:443/account", OWN, False),
    ],
)
def test_tokens_are_sent_to_azure_alone(endpoint: str, own: str, taken: bool) -> None:
    assert takes_tokens(endpoint, own) is taken
    source = SourceContainer(endpoint=endpoint, name="c")
    account = StorageAccount(name="own", endpoint=own)
    access = replace(accounts(PUBLIC), storage_account=account).access_to(source)
    assert access is (Access.ENTRA_ID if taken else Access.PUBLIC)


@EACH
def test_a_token_for_batch_has_the_audience_of_the_cloud_with_its_slash(cloud: Cloud) -> None:
    with accounts(cloud).batch() as batch:
        assert batch._config.credential_scopes == [f"{cloud.batch_audience}/.default"]


@pytest.mark.parametrize(
    ("endpoint", "cloud", "region"),
    [
        ("https://a.westeurope.batch.azure.com/", PUBLIC, "westeurope"),
        ("A.USGovVirginia.batch.usgovcloudapi.net", US_GOVERNMENT, "usgovvirginia"),
        ("https://a.chinanorth3.batch.chinacloudapi.cn:443", CHINA, "chinanorth3"),
        ("https://127.0.0.1:10100", PUBLIC, None),
        ("https://batch.azure.com", PUBLIC, None),
        ("https://a.region.batch.azure.com.example", PUBLIC, None),
        ("https://a.region.batch.usgovcloudapi.net.example", PUBLIC, None),
    ],
)
def test_cloud_and_region_are_in_the_endpoint(endpoint: str, cloud: Cloud, region: str | None) -> None:
    assert (cloud_of(endpoint), region_of(endpoint)) == (cloud, region)


def test_the_authority_is_that_of_the_cloud_unless_the_environment_names_one() -> None:
    assert authority_of(US_GOVERNMENT, {}) == "login.microsoftonline.us"
    assert authority_of(US_GOVERNMENT, {"AZURE_AUTHORITY_HOST": "login.example"}) == "login.example"
