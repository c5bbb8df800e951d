"""Prices of nodes per hour from the table in prices.csv, and what nodes cost by them.

The table has pay-as-you-go list prices of Linux VMs in US dollars with the day on which each was read: the European
regions from a public record of Azure's Retail Prices API, the American ones from Apache Libcloud, which recorded
Azure's price calculator and has no spot prices. A price here is for an estimate only: what is billed depends on the
offer, the currency and the day. retail_prices.py asks Azure for those of today.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path

from tasks.run.price import Price

SOURCE = "Azure's list price for Linux, pay-as-you-go"
LEFT_OUT = "disks, network, storage, and any discount of yours"

_TABLE = Path(__file__).with_name("prices.csv")
_ELSEWHERE = ("westeurope", "eastus")  # whose prices stand for those of regions that the table lacks
_OTHER_CLOUDS = ("usgov", "usdod", "china")  # how the names of their regions begin; their prices are others


def dearest(prices: Sequence[Price | None]) -> Price | None:
    """A price that none of these exceeds, for a pool that may get any of their VM sizes; None where one is unknown."""
    known = [price for price in prices if price]
    if not known or len(known) < len(prices):
        return None
    most = max(known, key=lambda price: price.per_hour)
    return Price(per_hour=most.per_hour, spot_per_hour=max(price.spot for price in known), source=most.source)


def price_of(vm_size: str, region: str | None = None) -> Price | None:
    """The price of a Linux node by the table, or None where none is known.

    In a region without prices it is that of another, and its source names it.
    """
    if not is_public(region):
        return None
    prices = _table().get(vm_size.lower(), {})
    found = next((name for name in (region, *_ELSEWHERE) if name in prices), None)
    if found is None:
        return None
    elsewhere = f", which may differ from that in {region}" if region and region != found else ""
    per_hour, spot, read = prices[found]
    return Price(per_hour=per_hour, spot_per_hour=spot, source=f"{SOURCE}, in {found}{elsewhere}, of {read}")


def is_public(region: str | None) -> bool:
    """Whether the region may be one of Azure's public cloud."""
    return not (region and region.startswith(_OTHER_CLOUDS))


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Mapping[str, tuple[float, float | None, date]]]:
    table: dict[str, dict[str, tuple[float, float | None, date]]] = {}
    with _TABLE.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            spot = float(row["spot"]) if row["spot"] else None
            prices = float(row["dedicated"]), spot, date.fromisoformat(row["read"])
            table.setdefault(row["vm_size"], {})[row["region"]] = prices
    return table
