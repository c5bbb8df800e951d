"""Addresses of pages in the Prefect UI."""

from __future__ import annotations

import functools
import ssl
from enum import Enum

import httpx
from prefect.settings import get_current_settings

_SECONDS = 5.0  # for the server's response; without one, Prefect's own address of its UI is used
_BY_MAKE_UI = "http://127.0.0.1:4200/v2"  # where `make ui` shows what a temporary server has recorded


class Page(str, Enum):
    RUN = "runs/flow-run"
    ARTIFACT = "artifacts/artifact"


_report = _cost = ""  # of the run that this process has reported on last


def address(page: Page, id: object) -> str:
    """The address of the page; for a temporary server, which has no UI, how to see it."""
    url = ui_url()
    where = f"{page.value}/{id}"
    return f"{url}/{where}" if url else f"make ui, then {_BY_MAKE_UI}/{where}"


def ui_url() -> str | None:
    """The address of the UI that the Prefect server shows by default; None without a server of its own.

    Prefect's settings know only the older of its two UIs.
    """
    settings = get_current_settings()
    if not (settings.api.url and settings.ui_url):
        return None
    url = settings.ui_url.rstrip("/")
    return url if settings.api.url.startswith(settings.cloud.api_url) else _default_ui(url)


@functools.lru_cache(maxsize=8)
def _default_ui(url: str) -> str:
    api = get_current_settings().api
    verify: ssl.SSLContext | bool = not api.tls_insecure_skip_verify
    if verify and api.ssl_cert_file:
        verify = ssl.create_default_context(cafile=api.ssl_cert_file)
    try:
        shown = httpx.get(f"{url}/ui-settings", timeout=_SECONDS, verify=verify).json()
        return url + (shown[f"{shown['default_ui']}_base_url"] or "").rstrip("/")
    except (
        httpx.HTTPError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # an older server, or an address that names the UI
        return url


def remember_report(artifact_id: object) -> str:
    """The report's address, also for the end of the command."""
    global _report
    _report = address(Page.ARTIFACT, artifact_id)
    return _report


def latest_report() -> str:
    """Empty where there is none."""
    return _report


def remember_cost(text: str) -> None:
    """What the run's nodes cost, in a line, for the end of the command."""
    global _cost
    _cost = text


def latest_cost() -> str:
    """Empty where it is not known, or nothing was billed."""
    return _cost


def forget_report() -> None:
    """For a command that begins: what this process reported on before is not its run."""
    global _report, _cost
    _report = _cost = ""
