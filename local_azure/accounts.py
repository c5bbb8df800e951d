"""The Batch and storage accounts of a data directory: their random keys, and the settings for clients."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from local_azure.batch.state.access import Entra
from local_azure.batch.state.paths import write_private
from local_azure.loopback import PAST_PROXIES, TRUST

NAME = "localazure"
_KEY_BYTES = {"batch": 64, "storage": 64}  # as long as Azure's own


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The SharedKey of each account, in base64."""

    batch: str = field(repr=False)
    storage: str = field(repr=False)


class Unusable(Exception):
    """A file or port cannot be used; the message names it and the remedy."""


def keys_of(data: Path) -> Keys:
    """Read the keys of a data directory, or create them; the file is readable by its owner only.

    Raises Unusable if the file holds anything else.
    """
    path = data / "keys.json"
    if not path.exists():
        fresh = {service: base64.b64encode(secrets.token_bytes(size)).decode() for service, size in _KEY_BYTES.items()}
        write_private(path, json.dumps(fresh))
    try:
        return Keys(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise Unusable(f"{path} does not contain account keys: delete it, and new keys are created") from None


def settings(keys: Keys, batch_endpoint: str, blob_endpoint: str) -> dict[str, str]:
    """The five environment variables that `az`, the SDKs and the flow read."""
    protocol = urlsplit(blob_endpoint).scheme
    # `source` takes semicolons only between quotes, which `export $(cat FILE)` keeps. Here they end two addresses that
    # nobody uses, so that it is a connection string to all clients with them and without them.
    connection_string = (
        f"QueueEndpoint=http://no-queue-storage.invalid/';DefaultEndpointsProtocol={protocol};AccountName={NAME};"
        f"AccountKey={keys.storage};BlobEndpoint={blob_endpoint};TableEndpoint=http://no-table-storage.invalid/';"
    )
    return {
        "AZURE_BATCH_ACCOUNT": NAME,
        "AZURE_BATCH_ENDPOINT": batch_endpoint,
        "AZURE_BATCH_ACCESS_KEY": keys.batch,
        "AZURE_STORAGE_ACCOUNT": NAME,
        "AZURE_STORAGE_CONNECTION_STRING": connection_string,
    }


def keyless_settings(entra: Entra, identity_endpoint: str, batch_endpoint: str, blob_endpoint: str) -> dict[str, str]:
    """The variables without any key: those of the accounts, and by which `DefaultAzureCredential` gets its tokens."""
    return {
        "AZURE_BATCH_ACCOUNT": NAME,
        "AZURE_BATCH_ENDPOINT": batch_endpoint,
        "AZURE_STORAGE_ACCOUNT": NAME,
        "AZURE_STORAGE_SERVICE_ENDPOINT": blob_endpoint,
        "IDENTITY_ENDPOINT": identity_endpoint,
        "IDENTITY_HEADER": entra.header,
    }


def is_settings_file(path: Path) -> bool:
    """True if the file contains only settings written by a local Azure, or nothing."""
    keys = Keys(batch="", storage="")
    ours = {*settings(keys, "", ""), *keyless_settings(Entra.of(""), "", "", ""), *TRUST, *PAST_PROXIES}
    names = {line.split("=", 1)[0] for line in path.read_text(errors="replace").splitlines()}
    return names <= ours and (not names or "AZURE_BATCH_ACCOUNT" in names)
