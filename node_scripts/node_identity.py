"""Tokens of the pool's managed identity, with which the node reads and stores blobs where it is given no SAS."""

from __future__ import annotations

import json
import os
import time

from blob_requests import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RESOURCE = "https://storage.azure.com/"  # the audience of Blob Storage, in all clouds
# https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
METADATA_SERVICE = "http://169.254.169.254/metadata/identity/oauth2/token"
EARLY = 300.0  # seconds before its end that a token is replaced
SILENCE = 10.0  # seconds without an answer

tokens: dict[str, tuple[str, float]] = {}  # by identity, with their end in seconds since 1970


def token(identity: str, exit_code: int, *, clock: Callable[[], float] = time.time) -> str:
    """A token of the identity, a resource id; kept until shortly before its end.

    Raises Failure with that exit code where there will be none, OSError where another request may get one.
    """
    kept, end = tokens.get(identity, ("", 0.0))
    if clock() < end - EARLY:
        return kept
    try:
        tokens[identity] = ask(identity, exit_code)
    except OSError:
        if clock() >= end:  # else the one that is kept still serves, and the next request asks again
            raise
    return tokens[identity][0]


def forget(identity: str) -> None:
    """Have the next request ask for another token."""
    tokens.pop(identity, None)


def ask(identity: str, exit_code: int) -> tuple[str, float]:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(*where(identity))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows this machine's identity
    try:
        with opener.open(request, timeout=SILENCE) as response:
            found = json.load(response)
            return str(found["access_token"]), float(found["expires_on"])
    except urllib.error.HTTPError as error:
        reason = f"HTTP {error.code} {text_of(error.read())}".rstrip()
        if error.code in (404, 408, 410, 429) or error.code >= 500:  # 404 and 410: the service is being updated
            raise OSError(f"no token of the managed identity: {reason}") from None
        advice = "Add the identity to the pool, or leave node_identity out."
        raise Failure(f"No token of the managed identity {identity}: {reason}. {advice}", exit_code) from None
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"no token of the managed identity: the answer is none ({type(error).__name__})") from None


def where(identity: str) -> tuple[str, None, dict[str, str]]:
    """URL, body and headers of the request: to the endpoint that the environment names, or to the metadata service."""
    import urllib.parse

    endpoint, secret = os.environ.get("IDENTITY_ENDPOINT", ""), os.environ.get("IDENTITY_HEADER", "")
    if endpoint and secret:
        query = {"api-version": "2019-08-01", "resource": RESOURCE, "mi_res_id": identity}
        headers = {"X-IDENTITY-HEADER": secret}
    else:
        endpoint = METADATA_SERVICE
        query = {"api-version": "2018-02-01", "resource": RESOURCE, "msi_res_id": identity}
        headers = {"Metadata": "true"}
    return f"{endpoint}?{urllib.parse.urlencode(query)}", None, headers


def text_of(body: bytes) -> str:
    """The error in the answer."""
    try:
        answer = json.loads(body)
        return f"{answer.get('error', '')} {answer.get('error_description') or answer.get('message') or ''}".strip()
    except (ValueError, AttributeError):
        return ""
