"""Faults and the clock of a running local Batch service, from the command line.

    python -m local_azure.batch.control clock advance=PT1H
    python -m local_azure.batch.control requests operation=create_tasks status=503 times=2

The service is that of AZURE_BATCH_ENDPOINT, AZURE_BATCH_ACCOUNT and AZURE_BATCH_ACCESS_KEY, and must have been started
so that it lets itself be administered. The operations and their properties are those of admin.py.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from local_azure.batch.admin import PREFIX
from local_azure.batch.auth import Account, SignedRequest, sign
from local_azure.batch.wire import http_date

_QUERY = "api-version=2025-06-01"
_SETTINGS = ("AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ACCESS_KEY")


class Refused(Exception):
    """The service did not do it; the message says why."""


def control(endpoint: str, account: Account, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """Carry out an operation of the service's own; its answer. Raises Refused."""
    content = json.dumps(body).encode()
    path = urlsplit(endpoint).path.rstrip("/") + PREFIX + operation
    headers = {
        "ocp-date": http_date(datetime.now(timezone.utc)),
        "content-type": "application/json",
        "content-length": str(len(content)),
    }
    request = SignedRequest(method="POST", raw_path=path, query=_QUERY, headers=headers)
    headers["authorization"] = sign(request, account)
    url = f"{endpoint.rstrip('/')}{PREFIX}{operation}?{_QUERY}"
    # No proxy: the service is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, content, headers)) as answer:
            document: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise Refused(json.load(error)["message"]["value"]) from error
    except urllib.error.URLError as error:
        raise Refused(f"{endpoint} cannot be reached: {error.reason}") from error
    document.pop("odata.metadata", None)
    return document


def _body(arguments: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is a number or true or false if it reads as one, and otherwise text."""
    body: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise Refused(f"{argument!r} is not NAME=VALUE")
        try:
            body[name] = json.loads(text)
        except ValueError:
            body[name] = text
    return body


def main(arguments: list[str]) -> str:
    missing = [name for name in _SETTINGS if not os.environ.get(name)]
    if not arguments or missing:
        raise Refused(f"Not set: {', '.join(missing)}" if missing else str(__doc__))
    endpoint, name, key = (os.environ[setting] for setting in _SETTINGS)
    return json.dumps(control(endpoint, Account(name=name, key=key), arguments[0], _body(arguments[1:])))


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except Refused as error:
        sys.exit(str(error))
