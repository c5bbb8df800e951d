"""The Batch and storage accounts of a data directory: their random keys, and the settings for clients."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

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
    connection_string = (
        f"DefaultEndpointsProtocol=http;AccountName={NAME};AccountKey={keys.storage};BlobEndpoint={blob_endpoint};"
    )
    return {
        "AZURE_BATCH_ACCOUNT": NAME,
        "AZURE_BATCH_ENDPOINT": batch_endpoint,
        "AZURE_BATCH_ACCESS_KEY": keys.batch,
        "AZURE_STORAGE_ACCOUNT": NAME,
        "AZURE_STORAGE_CONNECTION_STRING": connection_string,
    }


def is_settings_file(path: Path) -> bool:
    """True if the file contains only settings written by a local Azure, or nothing."""
    ours = settings(Keys(batch="", storage=""), "", "")
    return all(line.split("=", 1)[0] in ours for line in path.read_text(errors="replace").splitlines())


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner only from the start."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
