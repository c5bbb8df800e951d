"""python -m local_azure.faults: inject faults into a running local Batch service, or move its clock.

    python -m local_azure --faults --env-file local.env      # in one terminal
    export $(cat local.env)                                  # in another
    python -m local_azure.faults requests operation=create_job status=503 times=2
    python -m local_azure.faults preempt poolId=spot
    python -m local_azure.faults clock advance=PT2H
    python -m local_azure.faults reset

docs/local-batch-service.md lists the operations and their properties.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from azure.batch import BatchClient
from azure.core.credentials import AzureKeyCredential, AzureNamedKeyCredential
from azure.core.exceptions import AzureError
from azure.core.pipeline.policies import AzureKeyCredentialPolicy
from azure.core.rest import HttpRequest, HttpResponse

_API_VERSION = "2025-06-01"
_ACCOUNT = ("AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCOUNT")
_KEY, _HEADER = "AZURE_BATCH_ACCESS_KEY", "IDENTITY_HEADER"  # either will do


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m local_azure.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operation", help="for example requests, preempt, clock or reset")
    parser.add_argument("properties", nargs="*", metavar="NAME=VALUE", help="VALUE is a number, true, false or text")
    options = parser.parse_args(arguments)
    missing = [name for name in _ACCOUNT if not os.environ.get(name)]
    if not (os.environ.get(_KEY) or os.environ.get(_HEADER)):
        missing.append(f"{_KEY} (or {_HEADER})")
    if missing:
        parser.error(f"{', '.join(missing)} not set: `python -m local_azure --faults` prints them")
    try:
        print(json.dumps(ask(options.operation, dict(map(_property, options.properties)))))
    except AzureError as error:
        print(f"local Azure: {error.message.splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


def ask(operation: str, properties: dict[str, Any]) -> Any:
    """Send the operation to the service named by the environment; returns its response."""
    endpoint, account = (os.environ[name] for name in _ACCOUNT)
    # Where tokens are taken, what issues them is asked for instead: a fault may have made them useless.
    options = {} if (key := os.environ.get(_KEY)) else {"authentication_policy": _identity_header()}
    with BatchClient(endpoint, AzureNamedKeyCredential(account, key or ""), **options) as client:
        request = HttpRequest("POST", f"/$local/{operation}", params={"api-version": _API_VERSION}, json=properties)
        response = client.send_request(request)
        response.raise_for_status()
        return response.json()


def _identity_header() -> AzureKeyCredentialPolicy[HttpRequest, HttpResponse]:
    return AzureKeyCredentialPolicy(AzureKeyCredential(os.environ[_HEADER]), "X-IDENTITY-HEADER")


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
