"""python -m local_azure.faults: inject faults into a running local Batch service, or move its clock.

    python -m local_azure --faults --env-file local.env      # in one terminal
    export $(cat local.env)                                  # in another
    python -m local_azure.faults requests operation=create_job status=503 times=2
    python -m local_azure.faults preempt poolId=spot
    python -m local_azure.faults clock advance=PT2H
    python -m local_azure.faults reset

The page on the local Batch service lists the operations and their properties.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from local_azure.batch.rest.auth import SignedRequest, sign
from local_azure.batch.state.account import Account

_API_VERSION = "2025-06-01"
_ENDPOINT, _NAME = "AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCOUNT"
_KEY, _HEADER = "AZURE_BATCH_ACCESS_KEY", "IDENTITY_HEADER"  # either will do
_TIMEOUT = 60.0  # seconds


class FaultRefused(Exception):
    """The service refused the operation, or does not answer; the message has its error code."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m local_azure.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operation", help="for example requests, preempt, clock or reset")
    parser.add_argument("properties", nargs="*", metavar="NAME=VALUE", help="VALUE is a number, true, false or text")
    options = parser.parse_args(arguments)
    missing = [name for name in (_ENDPOINT, _NAME) if not os.environ.get(name)]
    if not (os.environ.get(_KEY) or os.environ.get(_HEADER)):
        missing.append(f"{_KEY} (or {_HEADER})")
    if missing:
        parser.error(f"{', '.join(missing)} not set: `python -m local_azure --faults` prints them")
    try:
        print(json.dumps(ask(options.operation, dict(map(_property, options.properties)))))
    except FaultRefused as error:
        print(f"local Azure: {error}", file=sys.stderr)
        return 1
    return 0


def ask(operation: str, properties: Mapping[str, Any], settings: Mapping[str, str] = os.environ) -> Any:
    """Send the operation to the service of these settings; returns its response. Raises FaultRefused."""
    path, query = f"/$local/{operation}", urlencode({"api-version": _API_VERSION})
    url, body = f"{settings[_ENDPOINT]}{path}?{query}", json.dumps(properties).encode()
    headers = {"Content-Type": "application/json", **_credentials(settings, path, query, len(body))}
    trusted = ssl.create_default_context(cafile=settings.get("SSL_CERT_FILE"))
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=trusted))
    try:
        with opener.open(Request(url, body, headers), timeout=_TIMEOUT) as response:
            return json.load(response)
    except HTTPError as error:
        answer = json.load(error)
        raise FaultRefused(f"({answer['code']}) {answer['message']['value'].splitlines()[0]}") from None
    except OSError as error:
        raise FaultRefused(f"{settings[_ENDPOINT]} does not answer: {getattr(error, 'reason', error)}") from None


def _credentials(settings: Mapping[str, str], path: str, query: str, length: int) -> dict[str, str]:
    # Where tokens are taken, what issues them is asked for instead: a fault may have made them useless.
    if not (key := settings.get(_KEY)):
        return {"X-IDENTITY-HEADER": settings[_HEADER]}
    date = format_datetime(datetime.now(timezone.utc), usegmt=True)
    headers = {"content-type": "application/json", "content-length": str(length), "date": date}
    request = SignedRequest(method="POST", raw_path=path, query=query, headers=headers)
    return {"Date": date, "Authorization": sign(request, Account(name=settings[_NAME], key=key))}


def _property(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise SystemExit(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())
