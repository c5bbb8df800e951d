"""Prices by Azure's Retail Prices API, against a server that answers in the form that is documented."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tasks.reporting.prices import dearest, price_of
from tasks.reporting.retail_prices import PriceLookup, RetailPrices, cache_folder, linux_price
from tasks.run.price import Price

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
SIZE = "Standard_D2ads_v5"


def meter(name: str, price: Any, product: str = "Virtual Machines Dadsv5 Series", **changes: Any) -> dict[str, Any]:
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": price,
        "unitPrice": price,
        "armRegionName": "westeurope",
        "location": "EU West",
        "effectiveStartDate": "2023-10-01T00:00:00Z",
        "meterId": "7e35f19a-40a7-5ae7-9892-13e7b607d63a",
        "meterName": name,
        "productName": product,
        "skuName": f"Standard_{name}",
        "serviceName": "Virtual Machines",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": SIZE,
        **changes,
    }


METERS = [
    meter("D2ads v5", 0.217, "Virtual Machines Dadsv5 Series Windows"),
    meter("D2ads v5", 0.217, "Dadsv5 Series Cloud Services"),
    meter("D2ads v5 Low Priority", 0.025),
    meter("D2ads v5 Spot", 0.04, "Virtual Machines Dadsv5 Series Windows"),
    meter("D2ads v5 Spot", 0.0231),
    meter("D2ads v5", 0.125),
]


class Api(ThreadingHTTPServer):
    """Stands for the API; `pages` are the lists of meters that it answers, one a request."""

    def __init__(self) -> None:
        self.pages: list[Any] = [METERS]
        self.asked: list[dict[str, list[str]]] = []
        self.hosts: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/retail/prices"


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        api = self.server
        api.may_answer.wait(10)
        asked = parse_qs(urlsplit(self.path).query)
        api.asked.append(asked)
        api.hosts.append(self.headers["Host"])
        page = int(asked.get("$skip", ["0"])[0])
        link = f"{api.address}?$skip={page + 1}" if page + 1 < len(api.pages) else None
        found = api.pages[page]
        body = found if isinstance(found, str) else json.dumps({"Items": found, "NextPageLink": link, "Count": 1})
        self.send_response(500 if body == "500" else 200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.may_answer.set()
    server.shutdown()
    server.server_close()
    thread.join()


def prices(api: Api, folder: Path, now: datetime = NOON, seconds: float = 4.0) -> RetailPrices:
    return RetailPrices(address=api.address, folder=folder, now=lambda: now, seconds=seconds)


LIST = Price(
    per_hour=0.125,
    spot_per_hour=0.0231,
    source="Azure's list price for Linux, pay-as-you-go, in westeurope, of 2026-11-22",
)


def test_the_price_is_that_of_linux_and_of_spot(api: Api, tmp_path: Path) -> None:
    assert prices(api, tmp_path).price_of(SIZE, "westeurope") == LIST
    (asked,) = api.asked
    assert asked["currencyCode"] == ["USD"]
    assert asked["$filter"] == [
        "serviceName eq 'Virtual Machines' and armRegionName eq 'westeurope' "
        "and armSkuName eq 'Standard_D2ads_v5' and priceType eq 'Consumption'"
    ]


def test_a_price_is_kept_for_a_day(api: Api, tmp_path: Path) -> None:
    prices(api, tmp_path).price_of(SIZE, "westeurope")
    assert prices(api, tmp_path, NOON + timedelta(hours=23)).price_of(SIZE, "westeurope") == LIST
    assert len(api.asked) == 1
    assert prices(api, tmp_path, NOON + timedelta(hours=24)).price_of(SIZE, "westeurope") is not None
    assert len(api.asked) == 2


def test_a_damaged_cache_is_asked_for_again(api: Api, tmp_path: Path) -> None:
    prices(api, tmp_path).price_of(SIZE, "westeurope")
    (kept,) = tmp_path.iterdir()
    of_noon = kept.read_text(encoding="utf-8")
    for text in ("{", "[]", '{"fetched": "2026-11-22T12:00:00+00:00", "per_hour": -1, "spot_per_hour": null}'):
        kept.write_text(text, encoding="utf-8")
        assert prices(api, tmp_path).price_of(SIZE, "westeurope") == LIST
    kept.write_text(of_noon.replace("+00:00", ""), encoding="utf-8")  # a time of no zone
    assert prices(api, tmp_path).price_of(SIZE, "westeurope") == LIST


def test_further_pages_are_read(api: Api, tmp_path: Path) -> None:
    api.pages = [METERS[:3], METERS[3:]]
    assert prices(api, tmp_path).price_of(SIZE, "westeurope") == LIST
    assert len(api.asked) == 2


@pytest.mark.parametrize("answer", ["500", "<html>", "[]", '"x"', '{"Items": 3}', '{"Items": ["x"]}'])
def test_an_answer_in_another_form_is_no_price(api: Api, tmp_path: Path, answer: str) -> None:
    api.pages = [answer]
    assert prices(api, tmp_path).price_of(SIZE, "westeurope") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"retailPrice": -0.1},
        {"retailPrice": 0},
        {"retailPrice": "0.1"},
        {"retailPrice": True},
        {"retailPrice": 1e9},
        {"currencyCode": "EUR"},
        {"unitOfMeasure": "1 Month"},
        {"type": "Reservation"},
        {"armRegionName": "eastus"},
        {"armSkuName": "Standard_D4ads_v5"},
        {"effectiveStartDate": "2026-12-01T00:00:00Z"},
        {"effectiveStartDate": "soon"},
        {"productName": "Virtual Machines Dadsv5 Series Windows"},
    ],
    ids=lambda changes: f"{next(iter(changes))} {next(iter(changes.values()))}",
)
def test_a_meter_that_is_not_the_one_asked_for_is_no_price(changes: dict[str, Any]) -> None:
    assert linux_price([meter("D2ads v5", 0.125) | changes], SIZE, "westeurope", NOON) is None


def test_the_latest_price_is_in_force() -> None:
    newer = meter("D2ads v5", 0.11, effectiveStartDate="2026-10-01T00:00:00Z")
    found = linux_price([newer, *METERS], SIZE, "westeurope", NOON)
    assert found is not None
    assert found.per_hour == 0.11


@pytest.mark.parametrize("link", [5, ["x"], "//127.0.0.1/x", "https://127.0.0.1/x", "http://127.0.0.1:1/x"], ids=str)
def test_a_link_that_is_not_of_the_api_is_not_followed(api: Api, tmp_path: Path, link: object) -> None:
    api.pages = [json.dumps({"Items": METERS, "NextPageLink": link})]
    assert prices(api, tmp_path).price_of(SIZE, "westeurope") == LIST


def test_an_answer_that_is_too_large_is_no_price(api: Api, tmp_path: Path) -> None:
    api.pages = [json.dumps({"Items": METERS, "more": "x" * 4_000_000})]
    assert prices(api, tmp_path).price_of(SIZE, "westeurope") is None


def test_low_priority_stands_for_spot_where_that_is_not_listed() -> None:
    found = linux_price([METERS[2], METERS[5]], SIZE, "westeurope", NOON)
    assert found is not None
    assert found.spot_per_hour == 0.025


ENDPOINT = "https://mybatch.westeurope.batch.azure.com"


def test_a_run_gets_the_price_of_today(api: Api, tmp_path: Path) -> None:
    lookup = PriceLookup(ENDPOINT, prices(api, tmp_path))
    lookup.start([SIZE])
    assert lookup.of(SIZE) == LIST


def test_a_slow_api_does_not_delay_a_run(api: Api, tmp_path: Path) -> None:
    api.may_answer.clear()
    lookup = PriceLookup(ENDPOINT, prices(api, tmp_path, seconds=0.05))
    lookup.start([SIZE])
    assert lookup.of(SIZE) == price_of(SIZE, "westeurope")


def test_a_slow_api_delays_a_run_with_many_sizes_no_longer(api: Api, tmp_path: Path) -> None:
    api.may_answer.clear()
    sizes = [f"Standard_D{cores}ads_v5" for cores in range(2, 12)]
    lookup = PriceLookup(ENDPOINT, prices(api, tmp_path, seconds=0.1))
    lookup._threads = dict.fromkeys(sizes, threading.Thread(target=api.may_answer.wait, args=(10,)))
    lookup._threads[SIZE].start()
    began = time.monotonic()
    assert [lookup.of(size) for size in sizes] == [price_of(size, "westeurope") for size in sizes]
    assert time.monotonic() - began < 0.6


def test_what_keeps_the_api_from_being_asked_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    lookup = PriceLookup(ENDPOINT, RetailPrices(folder=tmp_path))
    lookup.start([SIZE])
    assert lookup.of(SIZE) == price_of(SIZE, "westeurope")
    lookup._threads[SIZE].join()  # pytest fails where it has raised


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:4711", "https://mybatch.usgovvirginia.batch.usgovcloudapi.net", "https://batch.example"],
)
def test_nothing_is_asked_for_a_local_azure_or_another_cloud(api: Api, tmp_path: Path, endpoint: str) -> None:
    lookup = PriceLookup(endpoint, prices(api, tmp_path))
    lookup.start([SIZE])
    lookup.of(SIZE)
    assert api.asked == []


def test_a_proxy_of_the_environment_is_used(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{api.server_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    asking = RetailPrices(address="http://prices.example/api/retail/prices", folder=tmp_path, now=lambda: NOON)
    assert asking.price_of(SIZE, "westeurope") == LIST
    assert api.hosts == ["prices.example"]


def test_a_name_that_could_end_the_filter_is_not_asked_for(api: Api, tmp_path: Path) -> None:
    assert prices(api, tmp_path).price_of("x' or 1 eq 1", "westeurope") is None
    assert api.asked == []


def test_the_cache_is_where_the_user_has_it(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "prefect-azure-batch"


def test_of_several_sizes_the_dearest_counts() -> None:
    other = Price(per_hour=0.1, source="other")
    assert dearest([LIST, other]) == Price(per_hour=0.125, spot_per_hour=0.1, source=LIST.source)
    assert dearest([LIST, None]) is None
    assert dearest([]) is None
