"""Nodes sign in to a container registry with a block whose type Prefect's server has, so it needs no package."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate

from tasks.accounts.registry import registry_credentials
from tasks.errors import InputError

PASSWORD = "a password that must stay secret"


@pytest.fixture(scope="module")
def block(prefect_server: None) -> Iterator[UUID]:
    """The block "acr", as the form in the UI makes it."""
    with get_client(sync_client=True) as client:
        kind = client.read_block_type_by_slug("docker-registry-credentials")
        schema = client.get_most_recent_block_schema_for_block_type(kind.id)
        assert schema
        document = client.create_block_document(
            BlockDocumentCreate(
                name="acr",
                data={"registry_url": "https://team.azurecr.io", "username": "robot", "password": PASSWORD},
                block_schema_id=schema.id,
                block_type_id=kind.id,
            )
        )
        yield document.id


def test_the_block_of_the_ui_is_read_without_its_package(block: UUID) -> None:
    found = registry_credentials("acr")
    assert (found.server, found.username, found.password) == ("team.azurecr.io", "robot", PASSWORD)


def test_a_block_that_is_not_there_is_named_with_those_that_are(block: UUID) -> None:
    with pytest.raises(InputError) as error:
        registry_credentials("arc")
    assert str(error.value) == (
        "there is no block 'arc' of the type Docker Registry Credentials, there is 'acr'; make it under Blocks in the "
        "Prefect UI, with the registry, a user name and a password"
    )
