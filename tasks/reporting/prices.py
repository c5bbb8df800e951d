"""Prices of nodes per hour, as far as known, and the estimated cost of a run's nodes.

The figures are Azure's pay-as-you-go list prices for Linux, as Apache Libcloud recorded them from Azure's own price
calculator; the date is that of its file, and single figures in it may be older. A price here is for an estimate only:
what is billed depends on the offer, the currency and the day, and https://prices.azure.com/api/retail/prices knows it.
There is no spot price in it, because spot prices change by the day; they never exceed the pay-as-you-go price.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit

from tasks.accounts.clouds import cloud_of

PRICES_OF = date(2025, 3, 2)
SOURCE = "Azure's list price for Linux, pay-as-you-go"
LEFT_OUT = "disks, network, storage, and any discount of yours"

_REGIONS = ("eastus", "westus2", "westeurope", "northeurope")
_USD_PER_HOUR = {
    "standard_a1_v2": (0.043, 0.036, 0.041, 0.041),
    "standard_a2_v2": (0.091, 0.076, 0.087, 0.087),
    "standard_a4_v2": (0.191, 0.159, 0.183, 0.183),
    "standard_d2_v3": (0.096, 0.096, 0.12, 0.107),
    "standard_d4_v3": (0.192, 0.192, 0.24, 0.214),
    "standard_d8_v3": (0.384, 0.384, 0.48, 0.428),
    "standard_d2s_v3": (0.096, 0.096, 0.12, 0.107),
    "standard_d4s_v3": (0.192, 0.192, 0.24, 0.214),
    "standard_d8s_v3": (0.384, 0.384, 0.48, 0.428),
    "standard_d16s_v3": (0.768, 0.768, 0.96, 0.856),
    "standard_d2s_v4": (0.096, 0.096, 0.115, 0.107),
    "standard_d4s_v4": (0.192, 0.192, 0.23, 0.214),
    "standard_d8s_v4": (0.384, 0.384, 0.46, 0.428),
    "standard_d2as_v4": (0.096, 0.096, 0.115, 0.107),
    "standard_d4as_v4": (0.192, 0.192, 0.23, 0.214),
    "standard_d8as_v4": (0.384, 0.384, 0.46, 0.428),
    "standard_e2s_v3": (0.126, 0.126, 0.16, 0.141),
    "standard_e4s_v3": (0.252, 0.252, 0.32, 0.282),
    "standard_e8s_v3": (0.504, 0.504, 0.64, 0.564),
    "standard_f2s_v2": (0.0846, 0.0846, 0.097, 0.096),
    "standard_f4s_v2": (0.169, 0.169, 0.194, 0.192),
    "standard_f8s_v2": (0.338, 0.338, 0.388, 0.384),
    "standard_f16s_v2": (0.677, 0.677, 0.776, 0.768),
}


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars for one node and hour, and where the figure comes from."""

    per_hour: float
    source: str

    def of(self, node_seconds: float) -> float:
        """US dollars for that many seconds of a node; Azure bills by the second."""
        return self.per_hour * node_seconds / 3600


def price_of(vm_size: str, region: str | None = None) -> Price | None:
    """The price of a dedicated Linux node, or None where none is known.

    In a region without prices it is that of East US, and its source names it.
    """
    prices = _USD_PER_HOUR.get(vm_size.lower())
    if prices is None:
        return None
    if region in _REGIONS:
        return Price(per_hour=prices[_REGIONS.index(region)], source=f"{SOURCE}, in {region}, of {PRICES_OF}")
    elsewhere = f", which may differ from that in {region}" if region else ""
    return Price(per_hour=prices[0], source=f"{SOURCE}, in eastus{elsewhere}, of {PRICES_OF}")


def region_of(batch_endpoint: str) -> str | None:
    """The region in the endpoint of a Batch account, such as https://mybatch.westeurope.batch.azure.com."""
    host = urlsplit(batch_endpoint if "//" in batch_endpoint else f"//{batch_endpoint}").hostname or ""
    found = re.fullmatch(rf"[a-z0-9]+\.([a-z0-9]+)\.{re.escape(cloud_of(batch_endpoint).batch)}", host)
    return found[1] if found else None
