"""The Python of a pool's nodes, from what the Batch account says of the image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import InputError

# Python (`python3`) and glibc of operating systems, by the end of the id of the node agent that their images have.
_SYSTEMS = {
    "ubuntu 20.04": ("3.8", (2, 31)),
    "ubuntu 22.04": ("3.10", (2, 35)),
    "ubuntu 24.04": ("3.12", (2, 39)),
    "ubuntu 26.04": ("3.14", (2, 43)),
    "debian 11": ("3.9", (2, 31)),
    "debian 12": ("3.11", (2, 36)),
    "debian 13": ("3.13", (2, 41)),
    "el 8": ("3.6", (2, 28)),
    "el 9": ("3.9", (2, 34)),
    "el 10": ("3.12", (2, 39)),
}
_OLDEST_GLIBC = (2, 28)  # of the systems above: where the image is another one
_OLDEST_PYTHON = (3, 8)

# Standard_D2ps_v5: of the letters after the number of cores, p means an ARM processor.
_ARM = re.compile(r"[a-z]+_[a-z]+\d+(-\d+)?[a-z]*p[a-z]*(_|$)", re.IGNORECASE)


def is_arm(vm_size: str) -> bool:
    """Whether nodes of that VM size have ARM processors."""
    return _ARM.match(vm_size) is not None


@dataclass(frozen=True, kw_only=True)
class NodePython:
    """The Python for which packages are resolved, and the platform whose wheels it can install."""

    version: str  # such as "3.12"
    machine: str  # "x86_64" or "aarch64"
    glibc: tuple[int, int]

    def __str__(self) -> str:
        return f"Python {self.version} on {self.machine}"

    @property
    def platforms(self) -> list[str]:
        """The platform tags of wheels that the nodes can install, the most specific first."""
        older = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        tags = []
        for minor in range(self.glibc[1], 4, -1):
            tags.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in older:
                tags.append(f"{older[minor]}_{self.machine}")
        return [*tags, f"linux_{self.machine}"]


def node_python(
    *, image: str, node_agent: str, capabilities: Sequence[str], vm_size: str, version: str | None = None
) -> NodePython:
    """The Python of the nodes of that image and VM size; `version` is what the settings say it is.

    What the image's capabilities list, such as Python3.11, x86_64 and glibc2.36, is taken before what is known of its
    operating system. Raises InputError, with the setting to use, where the version is unknown or too old.
    """
    system = node_agent.lower().removeprefix("batch.node.").removesuffix("-arm64")
    python, glibc = _SYSTEMS.get(system, (None, _OLDEST_GLIBC))
    machine = "aarch64" if is_arm(vm_size) else "x86_64"
    for capability in capabilities:
        if found := re.fullmatch(r"Python(3\.\d+)", capability):
            python = found[1]
        elif found := re.fullmatch(r"glibc(\d+)\.(\d+)", capability):
            glibc = int(found[1]), int(found[2])
        elif capability in ("x86_64", "aarch64"):
            machine = capability
    return NodePython(version=_checked(version or python, image), machine=machine, glibc=glibc)


def _checked(version: str | None, image: str) -> str:
    if version is None:
        raise InputError(
            f"image {image!r}: the Python version of its nodes is not known, so no packages can be resolved for them; "
            "set node_python to the version of their python3, such as 3.12"
        )
    if tuple(map(int, version.split("."))) < _OLDEST_PYTHON:
        raise InputError(
            f"image {image!r}: its nodes have Python {version}, which is too old for packages; use another image, or "
            "set node_python to a later version that is installed on this image, such as 3.9"
        )
    return version
