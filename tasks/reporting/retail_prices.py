"""Prices of nodes by Azure's public Retail Prices API, which needs no sign-in; kept for a day in the user's cache.

Its form is that of "Azure Retail Prices overview" in Microsoft's REST reference: `$filter` compares with case from
2023-01-01-preview on, all prices in USD are Microsoft's own, and pages follow at NextPageLink. Of a VM size it lists
meters for Linux and for Windows (productName), as VM and as Cloud Service (productName), and each of them as it is,
as "Spot" and as "Low Priority" (meterName). Batch gave up low priority on 2025-09-30; its spot nodes are Spot VMs. What
low priority cost stands for the spot price where Azure lists no other.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tasks.accounts.clouds import region_of
from tasks.reporting.prices import SOURCE, is_public, price_of
from tasks.run.price import Price

ADDRESS = "https://prices.azure.com/api/retail/prices"
API_VERSION = "2023-01-01-preview"
SECONDS = 4.0  # for a request; the run never waits longer than that for prices
KEPT_FOR = timedelta(days=1)

_MOST_PAGES = 3  # one has the meters of a VM size
_MOST_BYTES = 4_000_000  # of a page, which has up to 1,000 meters
_MOST_PER_HOUR = 1_000.0  # US dollars; no VM costs that much, so that more is a misread answer
_NAMES = re.compile(r"[A-Za-z0-9_.-]+")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this user's programs keep what they can fetch again."""
    if sys.platform == "win32":
        base = Path(environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "prefect-azure-batch"


@dataclass(frozen=True, kw_only=True)
class RetailPrices:
    """Asks the API, or the cache. The address, the folder and the clock are injected."""

    address: str = ADDRESS
    folder: Path = field(default_factory=cache_folder)
    now: Callable[[], datetime] = _now
    seconds: float = SECONDS

    def price_of(self, vm_size: str, region: str) -> Price | None:
        """The price of today, or of the last day; None where the API does not answer, or not as documented."""
        if not (_NAMES.fullmatch(vm_size) and _NAMES.fullmatch(region)):
            return None
        kept = self.folder / f"price-{region}-{vm_size.lower()}.json"
        if found := self._read(kept):
            return found
        try:
            meters = list(self._meters(vm_size, region))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError):
            return None
        price = linux_price(meters, vm_size, region, self.now())
        if price:
            self._keep(kept, price)
        return price

    def _meters(self, vm_size: str, region: str) -> Iterator[Any]:
        wanted = {
            "serviceName": "Virtual Machines",
            "armRegionName": region,
            "armSkuName": vm_size,
            "priceType": "Consumption",
        }
        parameters = {
            "api-version": API_VERSION,
            "currencyCode": "USD",
            "$filter": " and ".join(f"{name} eq '{value}'" for name, value in wanted.items()),
        }
        # Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).
        with httpx.Client(timeout=self.seconds) as client:
            page = self._page(client, httpx.URL(self.address, params=parameters))
            for _ in range(_MOST_PAGES):
                yield from page["Items"] if isinstance(page, dict) and isinstance(page.get("Items"), list) else ()
                link = page.get("NextPageLink") if isinstance(page, dict) else None
                if not isinstance(link, str) or urlsplit(link)[:2] != urlsplit(self.address)[:2]:
                    return
                page = self._page(client, httpx.URL(link))

    def _page(self, client: httpx.Client, url: httpx.URL) -> Any:
        """Raises ValueError where the answer is too large, or takes too long altogether."""
        text, until = bytearray(), time.monotonic() + self.seconds
        with client.stream("GET", url) as response:
            for part in response.raise_for_status().iter_bytes():
                text += part
                if len(text) > _MOST_BYTES or time.monotonic() > until:
                    raise ValueError("not the answer of a price list")
        return json.loads(text)

    def _read(self, kept: Path) -> Price | None:
        try:
            found = json.loads(kept.read_text(encoding="utf-8"))
            fetched = datetime.fromisoformat(found["fetched"])
            price = Price(
                per_hour=_dollars(found["per_hour"]),
                spot_per_hour=None if found["spot_per_hour"] is None else _dollars(found["spot_per_hour"]),
                source=str(found["source"]),
            )
            return price if timedelta() <= self.now() - fetched < KEPT_FOR else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self, kept: Path, price: Price) -> None:
        text = json.dumps(
            {
                "fetched": self.now().isoformat(),
                "per_hour": price.per_hour,
                "spot_per_hour": price.spot_per_hour,
                "source": price.source,
            }
        )
        partly = kept.with_name(f"{kept.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partly.write_text(text, encoding="utf-8")
            partly.replace(kept)
        except OSError:  # the next run asks again
            partly.unlink(missing_ok=True)


def linux_price(meters: Sequence[Any], vm_size: str, region: str, now: datetime) -> Price | None:
    """The price by the meters that the API lists of a VM size; None where none is as documented."""
    found: dict[str, tuple[str, float]] = {}
    for meter in meters:
        if not _is_of_linux(meter, vm_size, region, now):
            continue
        name = str(meter.get("meterName"))
        kind = next((kind for kind in ("Spot", "Low Priority") if name.endswith(kind)), "")
        # The latest price is in force; of two of that day, the higher.
        found[kind] = max(
            found.get(kind, ("", 0.0)), (str(meter["effectiveStartDate"]), _dollars(meter["retailPrice"]))
        )
    if "" not in found:
        return None
    spot = found.get("Spot") or found.get("Low Priority")
    source = f"{SOURCE}, in {region}, of {now:%Y-%m-%d}"
    return Price(per_hour=found[""][1], spot_per_hour=spot[1] if spot else None, source=source)


def _is_of_linux(meter: Any, vm_size: str, region: str, now: datetime) -> bool:
    if not isinstance(meter, Mapping):
        return False
    product, name = str(meter.get("productName")), str(meter.get("meterName"))
    try:
        _dollars(meter["retailPrice"])
        in_force = datetime.fromisoformat(str(meter["effectiveStartDate"])) <= now
    except (KeyError, ValueError, TypeError):
        return False
    return (
        in_force
        and str(meter.get("armSkuName")).lower() == vm_size.lower()
        and meter.get("armRegionName") == region
        and meter.get("currencyCode") == "USD"
        and meter.get("unitOfMeasure") == "1 Hour"
        and meter.get("type") == "Consumption"
        and product.startswith("Virtual Machines")
        and not product.endswith("Windows")
        and "Expired" not in name
    )


def _dollars(value: object) -> float:
    """Raises ValueError where it is no price."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no price")
    if not (math.isfinite(value) and 0 < value < _MOST_PER_HOUR):
        raise ValueError(f"{value!r} is no price of a VM")
    return float(value)


class PriceLookup:
    """Prices of VM sizes for one run, fetched in the background; by the table where the API does not answer in time.

    Where the Batch account is not in a region of Azure's public cloud, nothing is fetched: a local Azure costs nothing,
    and the API knows no other cloud.
    """

    def __init__(self, batch_endpoint: str, retail: RetailPrices | None = None) -> None:
        self._region = region_of(batch_endpoint)
        self._retail = retail or RetailPrices()
        self._fetched: dict[str, Price] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._waits_until: float | None = None  # by the monotonic clock

    def start(self, vm_sizes: Sequence[str]) -> None:
        """Begin to fetch, and return at once."""
        if self._region is None or not is_public(self._region):
            return
        for vm_size in vm_sizes:
            if vm_size not in self._threads:
                thread = threading.Thread(target=self._fetch, args=(vm_size,), daemon=True)
                self._threads[vm_size] = thread
                thread.start()

    def of(self, vm_size: str, *, wait: bool = True) -> Price | None:
        """The price; for those of all sizes together it waits no longer than a request may take."""
        if wait and (thread := self._threads.get(vm_size)):
            self._waits_until = self._waits_until or time.monotonic() + self._retail.seconds
            thread.join(max(0.0, self._waits_until - time.monotonic()))
        return self._fetched.get(vm_size) or price_of(vm_size, self._region)

    def _fetch(self, vm_size: str) -> None:
        assert self._region
        with suppress(Exception):  # whatever proxies, certificates and answers lead to, the table has a price
            if price := self._retail.price_of(vm_size, self._region):
                self._fetched[vm_size] = price
