"""Which VM image a run's own pool is made of, on lists like Azure's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pytest
from azure.batch.models import BatchSupportedImage, BatchVmImageReference

from tasks.errors import InputError
from tasks.resources.image_choice import NEAR, choose
from tasks.resources.images import with_image
from tasks.run.settings import PoolSettings

NOW = datetime(2026, 11, 28, tzinfo=timezone.utc)
ENDED = datetime(2025, 4, 23, tzinfo=timezone.utc)
JAMMY_ENDS = datetime(2027, 6, 30, tzinfo=timezone.utc)
GENERATION_2 = "Generation2VMImage"
HPC = ["DockerCompatible", "SupportsRDMAOnly", GENERATION_2, "IntelMPIRuntimeInstalled"]
JAMMY = "canonical:0001-com-ubuntu-server-jammy"
NOBLE = "canonical:ubuntu-24_04-lts"
RESOLUTE = "canonical:ubuntu-26_04-lts"
GALLERY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/ours/images/align/versions/1.0.0"


def image(
    name: str, agent: str, *capabilities: str, end: datetime | None = None, verified: bool = True, os: str = "linux"
) -> BatchSupportedImage:
    publisher, offer, sku = name.split(":")
    return BatchSupportedImage(
        node_agent_sku_id=f"batch.node.{agent}",
        image_reference=BatchVmImageReference(publisher=publisher, offer=offer, sku=sku, version="latest"),
        os_type=os,
        capabilities=list(capabilities) or None,
        batch_support_end_of_life=end,
        verification_type="verified" if verified else "unverified",
    )


# As Azure listed them in 2024, with what has come since; arm64 and interim releases as Canonical names them.
AZURE = [
    image("almalinux:almalinux:9-gen1", "el 9"),
    image("almalinux:almalinux-hpc:8_6-hpc", "el 8", "SupportsRDMAOnly", verified=False),
    image("canonical:0001-com-ubuntu-server-focal:20_04-lts", "ubuntu 20.04", end=ENDED),
    image(f"{JAMMY}:22_04-lts", "ubuntu 22.04", end=JAMMY_ENDS),
    image(f"{JAMMY}:22_04-lts-gen2", "ubuntu 22.04", GENERATION_2, end=JAMMY_ENDS),
    image("canonical:ubuntu-24_10:server", "ubuntu 24.10", GENERATION_2),
    image("canonical:ubuntu-25_04:server", "ubuntu 25.04", GENERATION_2),
    image(f"{NOBLE}:minimal", "ubuntu 24.04", GENERATION_2),
    image(f"{NOBLE}:server", "ubuntu 24.04", GENERATION_2),
    image(f"{NOBLE}:server-arm64", "ubuntu 24.04-arm64", GENERATION_2),
    image(f"{NOBLE}:server-gen1", "ubuntu 24.04"),
    image(f"{NOBLE}:ubuntu-pro", "ubuntu 24.04", GENERATION_2),
    image("canonical:0001-com-ubuntu-pro-jammy:pro-22_04-lts", "ubuntu 22.04"),
    image("microsoft-azure-batch:ubuntu-server-container:20-04-lts", "ubuntu 20.04", "DockerCompatible", end=ENDED),
    image("microsoft-dsvm:ubuntu-hpc:2204", "ubuntu 22.04", *HPC, end=JAMMY_ENDS),
    image("microsoft-dsvm:ubuntu-hpc:2404", "ubuntu 24.04", *HPC),
    image("microsoft-dsvm:dsvm-win-2022:winserver-2022", "windows amd64", "DockerCompatible", os="windows"),
    image("microsoftwindowsserver:windowsserver:2022-datacenter", "windows amd64", os="windows"),
]
NEWEST = [image(f"{RESOLUTE}:server", "ubuntu 26.04", GENERATION_2), image(f"{RESOLUTE}:server-gen1", "ubuntu 26.04")]


def chosen(
    images: Sequence[BatchSupportedImage] = AZURE, now: datetime = NOW, **settings: str
) -> tuple[str, list[str]]:
    found = choose(images, PoolSettings.model_validate(settings), now)
    return found.name, list(found.warnings)


def refusal(images: Sequence[BatchSupportedImage] = AZURE, **settings: str) -> str:
    with pytest.raises(InputError) as error:
        choose(images, PoolSettings.model_validate(settings), NOW)
    return str(error.value)


@pytest.mark.parametrize("order", [1, -1])
def test_the_default_is_the_newest_verified_ubuntu_lts(order: int) -> None:
    assert chosen(AZURE[::order]) == (f"{NOBLE}:server:latest", [])
    assert chosen([*AZURE, *NEWEST][::order]) == (f"{RESOLUTE}:server:latest", [])
    assert choose(AZURE, PoolSettings(), NOW).reason == (
        "the newest verified Ubuntu LTS that the Batch account lists; no end of its support is announced"
    )


def test_an_unverified_release_is_not_chosen() -> None:
    unverified = image(f"{RESOLUTE}:server", "ubuntu 26.04", GENERATION_2, verified=False)
    assert chosen([*AZURE, unverified]) == (f"{NOBLE}:server:latest", [])


def test_containers_get_an_image_that_runs_them() -> None:
    assert chosen(container_image="team/align") == ("microsoft-dsvm:ubuntu-hpc:2404:latest", [])
    without = [each for each in AZURE if each.image_reference.sku != "2404"]
    found = choose(without, PoolSettings(container_image="team/align"), NOW)
    assert found.name == "microsoft-dsvm:ubuntu-hpc:2204:latest"
    assert found.reason.endswith("; supported by Azure Batch until 2027-06-30")


def test_an_image_whose_support_ends_soon_is_passed_over_with_a_warning() -> None:
    for end, name in (
        (NOW + NEAR, "server"),
        (NOW + NEAR - timedelta(seconds=1), "server-gen1"),
        (ENDED, "server-gen1"),
    ):
        images = [image(f"{NOBLE}:server", "ubuntu 24.04", GENERATION_2, end=end), AZURE[10]]
        warning = (
            f"Azure Batch supports {NOBLE}:server (until {end:%Y-%m-%d}) no longer, or not for long; the next is used"
        )
        assert chosen(images) == (f"{NOBLE}:{name}:latest", [] if name == "server" else [warning])


def test_no_image_is_chosen_whose_support_has_ended() -> None:
    assert refusal(AZURE[:3]) == (
        "this Batch account lists no image that is a verified Ubuntu LTS and fits the run: canonical:0001-com-ubuntu-"
        "server-focal:20_04-lts (until 2025-04-23); name one as image: almalinux:almalinux:9-gen1"
    )
    assert refusal(AZURE[:2]).startswith(
        "this Batch account lists no image that is a verified Ubuntu LTS and fits the run; name one as image: almalinux"
    )


def test_where_no_image_fits_the_reason_and_the_choice_are_named() -> None:
    assert refusal(container_image="team/align", vm_size="Standard_D2ps_v6") == (
        "this Batch account lists no image that is a verified Ubuntu LTS that runs containers and fits the run: "
        "vm_size Standard_D2ps_v6 has an ARM processor, and microsoft-dsvm:ubuntu-hpc:2404 is for an x86-64 one; "
        "name another vm_size, or use an existing pool"
    )


@pytest.mark.parametrize(
    ("vm_size", "sku"),
    [
        ("Standard_D2as_v5", "server"),
        ("Standard_D2s_v3", "server"),
        ("Standard_D2ads_v7", "server"),
        ("Standard_D2_v3", "server-gen1"),
        ("Standard_D2_v2_Promo", "server-gen1"),
        ("Standard_A2m_v2", "server-gen1"),
        ("Standard_D2ps_v6", "server-arm64"),
    ],
)
def test_the_image_fits_the_vm_size(vm_size: str, sku: str) -> None:
    assert chosen(vm_size=vm_size) == (f"{NOBLE}:{sku}:latest", [])


@pytest.mark.parametrize(
    ("vm_size", "name", "said"),
    [
        ("Standard_D2s_v6", f"{NOBLE}:server-gen1", "boots Generation 2 images only, and {} is Generation 1"),
        ("Standard_D2s_v6", f"{JAMMY}:22_04-lts", "boots Generation 2 images only, and {} is Generation 1"),
        ("Standard_D2_v3", f"{NOBLE}:server", "boots Generation 1 images only, and {} is Generation 2"),
        ("Standard_D2ps_v5", f"{NOBLE}:server", "has an ARM processor, and {} is for an x86-64 one"),
        ("Standard_D2s_v5", f"{NOBLE}:server-arm64", "has an x86-64 processor, and {} is for an ARM one"),
    ],
)
def test_a_named_image_that_the_vm_size_cannot_boot_is_refused(vm_size: str, name: str, said: str) -> None:
    message = refusal(image=name, vm_size=vm_size)
    assert message.startswith(f"vm_size {vm_size} {said.format(name)}; use another size, or another image: ")
    assert name not in message.partition("another image: ")[2].split(", ")


def test_a_named_image_keeps_its_version_and_warns_of_its_end() -> None:
    assert chosen(image=f"{NOBLE}:server:24.04.202609010") == (f"{NOBLE}:server:24.04.202609010", [])
    advice = "name another image before that, or none for the newest Ubuntu LTS"
    name = f"{JAMMY}:22_04-lts"
    assert chosen(image=name) == (f"{name}:latest", [f"Azure Batch supports {name} until 2027-06-30; {advice}"])
    (warning,) = chosen(now=JAMMY_ENDS, image=name)[1]
    assert warning == (
        f"Azure Batch has not supported {name} since 2027-06-30: a pool of it may get no nodes; name another image, or "
        "none for the newest Ubuntu LTS"
    )


def test_an_image_that_is_not_listed_is_refused_with_the_current_ones() -> None:
    message = refusal(image="canonical:ubuntuserver:18.04-lts")
    assert message.startswith("image 'canonical:ubuntuserver:18.04-lts' is not supported by this Batch account; ")
    assert f"{NOBLE}:server, " in message
    assert "20_04-lts" not in message


def test_a_gallery_image_has_the_end_of_the_images_with_its_agent() -> None:
    found = choose(AZURE, PoolSettings(image=GALLERY, node_agent_sku="batch.node.ubuntu 22.04"), NOW)
    assert found.name == found.image.image_reference.virtual_machine_image_id == GALLERY
    assert found.warnings == []  # one of them has none
    dated = [each for each in AZURE if each.batch_support_end_of_life]
    (warning,) = chosen(dated, image=GALLERY, node_agent_sku="batch.node.ubuntu 22.04")[1]
    assert warning.startswith("Azure Batch supports batch.node.ubuntu 22.04 until 2027-06-30; ")
    assert with_image(PoolSettings(), found).node_agent_sku == "batch.node.ubuntu 22.04"


def test_a_node_agent_that_the_account_has_not_is_refused() -> None:
    assert refusal(AZURE[:4], image=GALLERY, node_agent_sku="batch.node.ubuntu 18.04") == (
        "node_agent_sku 'batch.node.ubuntu 18.04' is none of this Batch account; name that of the image's operating "
        "system: batch.node.el 8, batch.node.el 9, batch.node.ubuntu 20.04, batch.node.ubuntu 22.04"
    )


def test_sizes_of_both_generations_have_no_image_in_common() -> None:
    assert refusal(vm_size="Standard_D2_v3,Standard_D2s_v5,Standard_D2s_v6") == (
        "vm_size has Standard_D2_v3, which boots Generation 1 images only, and Standard_D2s_v6, which boots Generation "
        "2 images only; no image boots on both: leave one of them out"
    )


def test_incomplete_entries_are_passed_over() -> None:
    unnamed = BatchSupportedImage({"osType": "linux", "verificationType": "verified"})
    partly = BatchSupportedImage({**image(f"{RESOLUTE}:server", "ubuntu 26.04"), "imageReference": {"offer": "x"}})
    assert chosen([unnamed, partly, *AZURE]) == (f"{NOBLE}:server:latest", [])
    for settings in ({}, {"image": f"{NOBLE}:server"}, {"image": GALLERY, "node_agent_sku": "batch.node.el 9"}):
        assert refusal([unnamed, partly], **settings) == (
            "this Batch account lists no Linux image; use an existing pool (existing_pool_id)"
        )


def test_the_choice_stands_once_it_is_made() -> None:
    settings = with_image(PoolSettings(), choose(AZURE, PoolSettings(), NOW))
    assert choose([*AZURE, *NEWEST], settings, NOW).name == settings.image == f"{NOBLE}:server:latest"
