"""The container image of a run: its settings, what pool and Batch tasks are told, and what is refused."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from pydantic import ValidationError

from tasks.accounts.registry import RegistryCredentials, registry_of, server_of
from tasks.errors import InputError
from tasks.packages.needed import Packages, refuse_container_image
from tasks.resources import container_image
from tasks.resources.container_image import (
    container_configuration,
    need_python,
    refuse_pool_without_containers,
    registries,
    task_settings,
)
from tasks.resources.images import image_of, machine
from tasks.run.identity import UsedPool
from tasks.run.settings import PoolSettings

IMAGE = "team.azurecr.io/tools/align:1.2"
IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/puller"
PASSWORD = "a password that must stay secret"
CREDENTIALS = RegistryCredentials(server="team.azurecr.io", username="robot", password=PASSWORD)
PLAIN, CONTAINERS, OLD = "canonical:ubuntu:24", "microsoft-dsvm:ubuntu-hpc:2204", "microsoft-azure-batch:centos:7"


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_image, "registry_credentials", lambda name: CREDENTIALS)


def refusal(**settings: Any) -> str:
    with pytest.raises(ValidationError) as error:
        PoolSettings(**settings)
    return str(error.value.errors()[0]["msg"]).removeprefix("Value error, ")


@pytest.mark.parametrize(
    "image",
    [
        "debian",
        "debian:12",
        "library/debian",
        "localhost:5000/a/b_c:Tag.1",
        "Registry.Example.com/team/align__x-y.z:1.2",
        f"ghcr.io/team/align@sha256:{'a1' * 32}",
        f"ghcr.io/team/align:1@sha256:{'a1' * 32}",
    ],
)
def test_an_image_is_written_as_for_docker_pull(image: str) -> None:
    assert PoolSettings(container_image=image).container_image == image


@pytest.mark.parametrize(
    "image", ["https://ghcr.io/a/b", "Debian", "a b", "a:", "a/", "/a", "-a", "a:1;rm", "a@sha256:1", "a\n", "$(a)"]
)
def test_what_is_no_image_is_refused(image: str) -> None:
    assert refusal(container_image=image).startswith(f"{image!r} is not a container image; write it as for docker pull")


def test_empty_fields_of_the_form_stand_for_no_container() -> None:
    assert PoolSettings(container_image="", container_registry="") == PoolSettings()


def test_a_registry_without_an_image_is_refused() -> None:
    assert refusal(container_registry="hub") == "container_registry is for a container_image, and there is none"


def test_an_identity_is_refused_for_a_new_pool() -> None:
    assert refusal(container_image=IMAGE, container_registry=IDENTITY).startswith(
        "container_registry is a managed identity, which Azure Batch gives only to pools that are made in the Azure"
    )
    with_pool = PoolSettings(container_image=IMAGE, container_registry=IDENTITY, existing_pool_id="team")
    assert with_pool.container_registry == IDENTITY


def test_what_is_neither_a_block_nor_an_identity_is_refused() -> None:
    said = refusal(container_image=IMAGE, container_registry="/subscriptions/s/identities/x", existing_pool_id="team")
    assert said.startswith("'/subscriptions/s/identities/x' is neither the name of a Prefect block nor the resource id")


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("debian:12", "docker.io"),
        ("team/debian", "docker.io"),
        ("docker.io/team/debian", "docker.io"),
        ("ghcr.io/team/debian", "ghcr.io"),
        ("localhost/debian", "localhost"),
        ("myhost:5000/debian", "myhost:5000"),
    ],
)
def test_the_registry_of_an_image_is_found(image: str, registry: str) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry.hub.docker.com", "docker.io"),
        ("https://Team.azurecr.io/", "team.azurecr.io"),
        ("team.azurecr.io", "team.azurecr.io"),
    ],
)
def test_the_address_of_a_registry_may_be_written_in_any_way(url: str, server: str) -> None:
    assert server_of(url) == server


def test_a_block_is_read_and_an_incomplete_one_refused() -> None:
    data = {"registry_url": "https://team.azurecr.io", "username": "robot", "password": PASSWORD}
    assert RegistryCredentials.of("acr", data) == CREDENTIALS
    assert PASSWORD not in repr(CREDENTIALS)
    with pytest.raises(InputError) as error:
        RegistryCredentials.of("acr", {**data, "password": ""})
    assert str(error.value).startswith("the block 'acr' (Docker Registry Credentials): password is empty; ")


def test_a_new_pool_signs_in_and_pulls_the_image(block: None) -> None:
    found = container_configuration(PoolSettings(container_image=IMAGE, container_registry="acr"))
    assert found is not None
    assert found.as_dict() == {
        "type": "dockerCompatible",
        "containerImageNames": [IMAGE],
        "containerRegistries": [{"registryServer": "team.azurecr.io", "username": "robot", "password": PASSWORD}],
    }
    assert container_configuration(PoolSettings()) is None


def test_a_public_image_needs_no_registry() -> None:
    found = container_configuration(PoolSettings(container_image="debian:12"))
    assert found is not None
    assert found.as_dict() == {"type": "dockerCompatible", "containerImageNames": ["debian:12"]}


def test_a_block_for_another_registry_is_refused(block: None) -> None:
    with pytest.raises(InputError) as error:
        registries("ghcr.io/team/align", "acr")
    assert str(error.value) == (
        "the block 'acr' signs in to team.azurecr.io, but ghcr.io/team/align comes from ghcr.io; "
        "name the block of that registry"
    )


def test_a_task_runs_in_the_image_as_root_with_our_command() -> None:
    pool = UsedPool(id="pool", slots_per_node=1, own=True, container_image=IMAGE)
    settings = task_settings(pool)
    assert settings is not None
    assert settings.as_dict() == {
        "imageName": IMAGE,
        "containerRunOptions": "--rm --user 0:0 --entrypoint=",
        "workingDirectory": "taskWorkingDirectory",
    }
    assert task_settings(replace(pool, container_image=None)) is None


def test_a_task_of_an_existing_pool_signs_in_with_its_identity() -> None:
    pool = UsedPool(id="pool", slots_per_node=1, own=False, container_image=IMAGE, container_registry=IDENTITY)
    settings = task_settings(pool)
    assert settings is not None
    assert settings.registry is not None
    assert settings.registry.as_dict() == {
        "registryServer": "team.azurecr.io",
        "identityReference": {"resourceId": IDENTITY},
    }


def test_a_missing_python_is_named_in_stderr() -> None:
    found = subprocess.run(
        ["/bin/sh", "-c", f"{need_python(IMAGE)}; exec python3"], env={"PATH": "/none"}, capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (
        127,
        f"the container image {IMAGE} has no python3, which fetches, checks and stores files; "
        "add Python 3.8 or later to the image\n",
    )


class Account:
    """A Batch account that lists images."""

    def __init__(self, *images: m.BatchSupportedImage) -> None:
        self._images = images

    def list_supported_images(self, filter: str) -> Sequence[m.BatchSupportedImage]:
        return self._images


def supported(name: str, *capabilities: str, ended: bool = False, verified: bool = True) -> m.BatchSupportedImage:
    publisher, offer, sku = name.split(":")
    return m.BatchSupportedImage(
        node_agent_sku_id="batch.node.ubuntu 22.04",
        image_reference=m.BatchVmImageReference(publisher=publisher, offer=offer, sku=sku),
        os_type="linux",
        verification_type="verified" if verified else "unverified",
        capabilities=list(capabilities) or None,
        batch_support_end_of_life=datetime(2024, 6, 30, tzinfo=timezone.utc) if ended else None,
    )


def account(*images: m.BatchSupportedImage) -> BatchClient:
    return cast(BatchClient, Account(supported(PLAIN), *images))


def test_an_image_that_cannot_run_containers_is_refused_naming_those_that_can() -> None:
    batch = account(
        supported(CONTAINERS, "SupportsRDMAOnly", "DockerCompatible"),
        supported(OLD, "DockerCompatible", ended=True),
        supported("a:b:c", "DockerCompatible", verified=False),
    )
    with pytest.raises(InputError) as error:
        image_of(batch, PoolSettings(image=PLAIN, container_image=IMAGE))
    assert str(error.value) == (
        f"image {PLAIN!r} cannot run containers, and container_image is {IMAGE!r}; use another image: {CONTAINERS}"
    )


def test_an_account_without_an_image_for_containers_says_so() -> None:
    with pytest.raises(InputError) as error:
        image_of(account(), PoolSettings(image=PLAIN, container_image=IMAGE))
    assert str(error.value).endswith(
        "this Batch account has no image that can: use an existing pool of an image of your own"
    )


def test_the_machine_of_a_pool_has_an_engine_only_for_containers() -> None:
    batch = account(supported(CONTAINERS, "DockerCompatible"))
    assert machine(batch, PoolSettings(image=PLAIN)).container_configuration is None
    found = machine(batch, PoolSettings(image=CONTAINERS, container_image=IMAGE))
    assert found.container_configuration is not None
    assert found.container_configuration.container_image_names == [IMAGE]


def existing(*, containers: bool = True, identity: str = "") -> m.BatchPool:
    configuration = m.BatchContainerConfiguration(type="dockerCompatible") if containers else None
    return m.BatchPool(
        {
            "id": "team",
            "virtualMachineConfiguration": {
                "imageReference": {},
                "nodeAgentSKUId": "",
                **({"containerConfiguration": configuration.as_dict()} if configuration else {}),
            },
            **(
                {"identity": {"type": "UserAssigned", "userAssignedIdentities": [{"resourceId": identity}]}}
                if identity
                else {}
            ),
        }
    )


def test_an_existing_pool_must_be_made_for_containers() -> None:
    wanted = PoolSettings(existing_pool_id="team", container_image=IMAGE)
    refuse_pool_without_containers(existing(), wanted)
    refuse_pool_without_containers(existing(containers=False), PoolSettings(existing_pool_id="team"))
    with pytest.raises(InputError) as error:
        refuse_pool_without_containers(existing(containers=False), wanted)
    assert str(error.value) == (
        "pool 'team' is not enabled for containers, which cannot be changed once it exists; name one that has a "
        "containerConfiguration, or no pool to have one made"
    )


def test_an_existing_pool_must_have_the_identity() -> None:
    wanted = PoolSettings(existing_pool_id="team", container_image=IMAGE, container_registry=IDENTITY)
    refuse_pool_without_containers(existing(identity=IDENTITY.lower()), wanted)
    with pytest.raises(InputError) as error:
        refuse_pool_without_containers(existing(), wanted)
    assert str(error.value).startswith(f"pool 'team' has not the managed identity {IDENTITY}; it has none: ")


def test_packages_are_refused_with_a_container_image() -> None:
    refuse_container_image(Packages(extra=(Path("helpers.py"),), requires_python=">=3.11"), IMAGE)
    refuse_container_image(Packages(requirements=Path("r.txt")), None)
    with pytest.raises(InputError) as error:
        refuse_container_image(Packages(requirements=Path("r.txt")), IMAGE)
    assert str(error.value) == (
        f"the Batch tasks run in the container image {IMAGE!r}, where the packages that r.txt names cannot be "
        "installed; put them in the image, and leave them out here"
    )
