"""Sign-in of nodes to a container registry: the Prefect block "Docker Registry Credentials".

Prefect's server knows the type, so the block is made in its UI, or with prefect-docker; neither is needed to read it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from tasks.accounts.block import saved_blocks
from tasks.errors import InputError

DOCKER_HUB = "docker.io"
_TYPE = "Docker Registry Credentials"
_SLUG = "docker-registry-credentials"
_NAMES_OF_DOCKER_HUB = {"index.docker.io", "registry.hub.docker.com", "registry-1.docker.io", "hub.docker.com"}


@dataclass(frozen=True, kw_only=True)
class RegistryCredentials:
    """User name and password for a registry."""

    server: str  # such as team.azurecr.io
    username: str
    password: str = field(repr=False)

    @classmethod
    def of(cls, name: str, data: Mapping[str, Any]) -> RegistryCredentials:
        """The credentials in the data of a block. Raises InputError where a field is empty."""
        values = {field: str(data.get(field) or "").strip() for field in ("registry_url", "username", "password")}
        if missing := ", ".join(field for field, value in values.items() if not value):
            raise InputError(f"the block {name!r} ({_TYPE}): {missing} is empty; fill it in under Blocks in the UI")
        return cls(server=server_of(values["registry_url"]), username=values["username"], password=values["password"])


def registry_credentials(name: str) -> RegistryCredentials:
    """What is in the block of this name. Raises InputError where there is none, or where it is incomplete."""
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(name, _SLUG, include_secrets=True)
        except ObjectNotFound:
            there = ", ".join(repr(other) for other in saved_blocks(_SLUG)) or "none at all"
            raise InputError(
                f"there is no block {name!r} of the type {_TYPE}, there is {there}; make it under Blocks in the "
                "Prefect UI, with the registry, a user name and a password"
            ) from None
    return RegistryCredentials.of(name, document.data)


def server_of(url: str) -> str:
    """The host of a registry, with its port, however its address is written."""
    server = re.sub(r"^https?://", "", url.strip().lower()).partition("/")[0]
    return DOCKER_HUB if server in _NAMES_OF_DOCKER_HUB else server


def registry_of(image: str) -> str:
    """The registry that a container image is pulled from."""
    first, slash, _ = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return server_of(first) if is_host else DOCKER_HUB
