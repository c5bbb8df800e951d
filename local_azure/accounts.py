"""The two accounts of a data directory: random keys that live, and can be read, nowhere else."""

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
    """Base64, as both services' SharedKey schemes want them."""

    batch: str = field(repr=False)
    storage: str = field(repr=False)


class Unusable(Exception):
    """A file that cannot be used; the message names it."""


def keys_of(data: Path) -> Keys:
    """The keys of a data directory, made at the first call; the file is readable by its owner only.

    Raises Unusable if the file is not one that this function made.
    """
    path = data / "keys.json"
    if not path.exists():
        fresh = {service: base64.b64encode(secrets.token_bytes(size)).decode() for service, size in _KEY_BYTES.items()}
        write_private(path, json.dumps(fresh))
    try:
        return Keys(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise Unusable(f"{path} holds no keys; delete it, and new ones are made") from None


def settings(keys: Keys, batch_endpoint: str, blob_endpoint: str) -> dict[str, str]:
    """The five settings with which `az`, the SDKs and the flow find the local Azure."""
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
    """Whether the file is empty or holds nothing but settings that a local Azure wrote."""
    ours = settings(Keys(batch="", storage=""), "", "")
    return all(line.split("=", 1)[0] in ours for line in path.read_text(errors="replace").splitlines())


def write_private(path: Path, text: str) -> None:
    """Write a file that is, at every moment, readable by its owner only, and whole when it has its name."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
