"""The clouds of Azure: where their services are, and who issues their tokens.

The values are those that `az cloud show` prints for AzureCloud, AzureUSGovernment and AzureChinaCloud, and Microsoft's
"Compare Azure Government and global Azure" and "Azure Private Endpoint private DNS zone values".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """One cloud. The endpoint of a Batch account is <account>.<region>.<batch>, that of its blobs <account>.<blobs>."""

    name: str
    batch: str
    blobs: str
    batch_audience: str  # of a token for Batch, exactly so; one for Blob Storage has the same audience in all clouds
    authority: str


PUBLIC = Cloud(
    name="AzureCloud",
    batch="batch.azure.com",
    blobs="blob.core.windows.net",
    batch_audience="https://batch.core.windows.net/",
    authority="login.microsoftonline.com",
)
US_GOVERNMENT = Cloud(
    name="AzureUSGovernment",
    batch="batch.usgovcloudapi.net",
    blobs="blob.core.usgovcloudapi.net",
    batch_audience="https://batch.core.usgovcloudapi.net/",
    authority="login.microsoftonline.us",
)
CHINA = Cloud(
    name="AzureChinaCloud",
    batch="batch.chinacloudapi.cn",
    blobs="blob.core.chinacloudapi.cn",
    batch_audience="https://batch.chinacloudapi.cn/",
    authority="login.chinacloudapi.cn",
)
CLOUDS = (PUBLIC, US_GOVERNMENT, CHINA)
_DNS_ZONES = "blob.storage.azure.net"  # of accounts with an endpoint such as <account>.z12.blob.storage.azure.net


def cloud_of(batch_endpoint: str) -> Cloud:
    """The cloud of a Batch account by its endpoint; the public one where the host is none of Azure's, as 127.0.0.1."""
    host = _host(batch_endpoint)
    return next((cloud for cloud in CLOUDS if host.endswith(f".{cloud.batch}")), PUBLIC)


def region_of(batch_endpoint: str) -> str | None:
    """The region in the endpoint of a Batch account, such as https://mybatch.westeurope.batch.azure.com."""
    host = _host(batch_endpoint)
    found = re.fullmatch(rf"[a-z0-9]+\.([a-z0-9]+)\.{re.escape(cloud_of(batch_endpoint).batch)}", host)
    return found[1] if found else None


def takes_tokens(endpoint: str, own: str) -> bool:
    """Whether tokens may be sent to a blob endpoint: of Azure, of this machine, or like that of the run's account.

    An input names any host, and with a token that host could read what the run's identity can.
    """
    host, own_host = _host(endpoint), _host(own)
    suffixes = [*(cloud.blobs for cloud in CLOUDS), _DNS_ZONES]
    if ".blob." in own_host:
        suffixes.append(f"blob.{own_host.partition('.blob.')[2]}")
    return host == own_host or is_loopback(endpoint) or any(host.endswith(f".{suffix}") for suffix in suffixes)


def is_loopback(endpoint: str) -> bool:
    """Whether the endpoint is on this machine, as that of an embedded local Azure."""
    host = _host(endpoint)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(endpoint: str) -> str:
    return urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or ""


def authority_of(cloud: Cloud, environment: Mapping[str, str]) -> str:
    """Who issues the tokens: AZURE_AUTHORITY_HOST, which azure-identity reads too, or the cloud's own."""
    return environment.get("AZURE_AUTHORITY_HOST") or cloud.authority
