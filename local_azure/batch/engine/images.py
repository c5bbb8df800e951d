"""The images that a pool may name, each with its node agent."""

from __future__ import annotations

import platform
import sys

from local_azure.batch.state.store import Document

DOCKER = "DockerCompatible"  # the capability of images whose nodes run containers

# Publisher, offer, SKU and node agent. Whichever is chosen, tasks run on this machine.
IMAGES = (
    ("almalinux", "almalinux-hpc", "8_10-hpc-gen2", "batch.node.el 8"),
    ("almalinux", "almalinux-x86_64", "9-gen1", "batch.node.el 9"),
    ("almalinux", "almalinux-x86_64", "9-gen2", "batch.node.el 9"),
    ("canonical", "0001-com-ubuntu-server-focal", "20_04-lts", "batch.node.ubuntu 20.04"),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "batch.node.ubuntu 22.04"),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", "batch.node.ubuntu 22.04"),
    ("canonical", "ubuntu-24_04-lts", "server", "batch.node.ubuntu 24.04"),
    ("canonical", "ubuntu-24_04-lts", "server-gen1", "batch.node.ubuntu 24.04"),
    ("debian", "debian-12", "12", "batch.node.debian 12"),
    ("debian", "debian-12", "12-gen2", "batch.node.debian 12"),
    ("microsoft-dsvm", "ubuntu-hpc", "2204", "batch.node.ubuntu 22.04"),
)
_WITH_DOCKER = {("microsoft-dsvm", "ubuntu-hpc", "2204")}  # those of the list above, in Azure's own answers


def capabilities(publisher: str, offer: str, sku: str) -> list[str]:
    """Whether containers run on the image, as in Azure; and what Azure does not list: `python3` and its platform."""
    library, version = platform.libc_ver()
    python = f"Python{sys.version_info.major}.{sys.version_info.minor}"
    docker = [DOCKER] if (publisher, offer, sku) in _WITH_DOCKER else []
    return [*docker, python, platform.machine(), *([library + version] if library else [])]


def node_agent_of(reference: Document) -> str | None:
    """The node agent of an image reference; None if the image is not supported."""
    agents = {image[:3]: image[3] for image in IMAGES}
    return agents.get(_names(reference))


def runs_containers(reference: Document) -> bool:
    return _names(reference) in _WITH_DOCKER


def _names(reference: Document) -> tuple[str, str, str]:
    publisher, offer, sku = (str(reference.get(name, "")).lower() for name in ("publisher", "offer", "sku"))
    return publisher, offer, sku
