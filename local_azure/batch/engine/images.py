"""The images that a pool may name, each with its node agent."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from local_azure.batch.state.store import Document

DOCKER = "DockerCompatible"  # the capability of images whose nodes run containers
_GENERATION_2 = "Generation2VMImage"
_WINDOWS = "batch.node.windows amd64"
_CORE = ("-core", "-core-g2", "-core-smalldisk", "-core-smalldisk-g2")  # kinds of Windows Server without a desktop


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image as Azure lists it. Whichever of Linux is chosen, tasks run on this machine."""

    name: tuple[str, str, str]  # publisher, offer and SKU
    agent: str
    capabilities: tuple[str, ...] = ()
    verified: bool = True
    end_of_life: str = ""  # of its support by Azure Batch

    @property
    def os_type(self) -> str:
        return "windows" if self.agent == _WINDOWS else "linux"


def _images() -> tuple[Image, ...]:
    """Those in Azure's own answers, as far as they differ in what a client chooses by.

    From the answer recorded in azure-cli's tests in 2024, Azure/Batch#178 for Ubuntu 24.04, and Azure/Batch#174, #197
    and #200 for the ends of support. Those that Azure refuses since then (Azure/Batch#179, #180) are left out.
    """
    ubuntu_20, ubuntu_22, ubuntu_24 = (f"batch.node.ubuntu {release}" for release in ("20.04", "22.04", "24.04"))
    ended, ends = "2025-04-23T00:00:00Z", "2027-06-30T00:00:00Z"
    hpc = (DOCKER, "SupportsRDMAOnly", _GENERATION_2, "IntelMPIRuntimeInstalled")
    focal, jammy, noble = "0001-com-ubuntu-server-focal", "0001-com-ubuntu-server-jammy", "ubuntu-24_04-lts"
    gen2 = (_GENERATION_2,)
    return (
        Image(name=("almalinux", "almalinux-hpc", "8_10-hpc-gen2"), agent="batch.node.el 8", capabilities=gen2),
        Image(name=("almalinux", "almalinux-x86_64", "9-gen1"), agent="batch.node.el 9"),
        Image(name=("almalinux", "almalinux-x86_64", "9-gen2"), agent="batch.node.el 9", capabilities=gen2),
        Image(name=("canonical", focal, "20_04-lts"), agent=ubuntu_20, end_of_life=ended),
        Image(name=("canonical", jammy, "22_04-lts"), agent=ubuntu_22, end_of_life=ends),
        Image(name=("canonical", jammy, "22_04-lts-gen2"), agent=ubuntu_22, capabilities=gen2, end_of_life=ends),
        Image(name=("canonical", noble, "minimal"), agent=ubuntu_24, capabilities=gen2, verified=False),
        Image(name=("canonical", noble, "server"), agent=ubuntu_24, capabilities=gen2),
        Image(name=("canonical", noble, "server-arm64"), agent=f"{ubuntu_24}-arm64", capabilities=gen2),
        Image(name=("canonical", noble, "server-gen1"), agent=ubuntu_24),
        Image(name=("debian", "debian-12", "12"), agent="batch.node.debian 12"),
        Image(name=("debian", "debian-12", "12-gen2"), agent="batch.node.debian 12", capabilities=gen2),
        Image(
            name=("microsoft-azure-batch", "ubuntu-server-container", "20-04-lts"),
            agent=ubuntu_20,
            capabilities=(DOCKER,),
            end_of_life=ended,
        ),
        Image(
            name=("microsoft-dsvm", "dsvm-win-2019", "winserver-2019"),
            agent=_WINDOWS,
            capabilities=(DOCKER,),
            verified=False,
        ),
        Image(name=("microsoft-dsvm", "ubuntu-hpc", "2204"), agent=ubuntu_22, capabilities=hpc, end_of_life=ends),
        Image(name=("microsoft-dsvm", "ubuntu-hpc", "2404"), agent=ubuntu_24, capabilities=hpc),
        *_windows_server("2016", "", "-gensecond", "-smalldisk", end_of_life="2027-01-12T00:00:00Z"),
        *_windows_server("2019", "", "-gensecond", "-smalldisk", *_CORE),
        *_windows_server("2022", "", "-g2", "-smalldisk", *_CORE),
    )


def _windows_server(release: str, *kinds: str, end_of_life: str = "") -> Iterator[Image]:
    for kind in kinds:
        of_generation_2 = kind.endswith(("-g2", "-gensecond"))
        yield Image(
            name=("microsoftwindowsserver", "windowsserver", f"{release}-datacenter{kind}"),
            agent=_WINDOWS,
            capabilities=(_GENERATION_2,) if of_generation_2 else (),
            verified=not of_generation_2,
            end_of_life=end_of_life,
        )


IMAGES = _images()
NODE_AGENTS = frozenset(image.agent for image in IMAGES)
_BY_NAME = {image.name: image for image in IMAGES}


def of_nodes() -> list[str]:
    """Capabilities that Azure does not list: `python3` of the nodes, and its platform."""
    library, version = platform.libc_ver()
    python = f"Python{sys.version_info.major}.{sys.version_info.minor}"
    return [python, platform.machine(), *([library + version] if library else [])]


def node_agent_of(reference: Document) -> str | None:
    """The node agent of an image reference; None if the image is not supported."""
    image = _named(reference)
    return image.agent if image else None


def is_windows(machine: Document) -> bool:
    """Whether nodes of this virtualMachineConfiguration run Windows."""
    return str(machine.get("nodeAgentSKUId", "")).lower() == _WINDOWS


def runs_containers(reference: Document) -> bool:
    image = _named(reference)
    return image is not None and DOCKER in image.capabilities


def _named(reference: Document) -> Image | None:
    publisher, offer, sku = (str(reference.get(name, "")).lower() for name in ("publisher", "offer", "sku"))
    return _BY_NAME.get((publisher, offer, sku))
