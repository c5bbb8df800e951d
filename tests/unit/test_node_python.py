"""The Python of a pool's nodes, and the wheels that it can install."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tasks.errors import InputError
from tasks.packages.node_python import NodePython, node_python


def found(
    agent: str, vm_size: str = "Standard_D2s_v3", capabilities: Sequence[str] = (), version: str | None = None
) -> NodePython:
    return node_python(
        image="p:offer:sku", node_agent=agent, capabilities=capabilities, vm_size=vm_size, version=version
    )


@pytest.mark.parametrize(
    ("agent", "version", "glibc"),
    [
        ("batch.node.ubuntu 22.04", "3.10", (2, 35)),
        ("batch.node.ubuntu 24.04", "3.12", (2, 39)),
        ("batch.node.debian 11", "3.9", (2, 31)),
        ("batch.node.debian 12", "3.11", (2, 36)),
        ("batch.node.el 9", "3.9", (2, 34)),
    ],
)
def test_the_operating_system_has_the_python(agent: str, version: str, glibc: tuple[int, int]) -> None:
    assert found(agent) == NodePython(version=version, machine="x86_64", glibc=glibc)


def test_what_the_image_lists_is_taken_before_its_operating_system() -> None:
    listed = ["DockerCompatible", "Python3.11", "aarch64", "glibc2.36"]
    python = found("batch.node.ubuntu 24.04", capabilities=listed)
    assert python == NodePython(version="3.11", machine="aarch64", glibc=(2, 36))
    assert str(python) == "Python 3.11 on aarch64"


def test_the_setting_is_taken_first() -> None:
    assert found("batch.node.el 8", version="3.11", capabilities=["Python3.6"]).version == "3.11"
    assert found("batch.node.new 1", version="3.13") == NodePython(version="3.13", machine="x86_64", glibc=(2, 28))


@pytest.mark.parametrize(
    ("vm_size", "machine"),
    [
        ("Standard_D2ps_v5", "aarch64"),
        ("standard_d16plds_v6", "aarch64"),
        ("Standard_E4pds_v5", "aarch64"),
        ("Standard_B2pts_v2", "aarch64"),
        ("Standard_D2s_v3", "x86_64"),
        ("Standard_NP10s", "x86_64"),
        ("Standard_NC24ads_A100_v4", "x86_64"),
        ("Standard_M128-32ms", "x86_64"),
        ("Standard_DS2_v2_Promo", "x86_64"),
        ("Basic_A1", "x86_64"),
    ],
)
def test_the_vm_size_has_the_processor(vm_size: str, machine: str) -> None:
    assert found("batch.node.ubuntu 24.04", vm_size).machine == machine


def test_an_unknown_and_an_old_python_are_refused_with_the_setting() -> None:
    with pytest.raises(
        InputError, match=r"^image 'p:offer:sku': the Python version of its nodes is not known, .* 3\.12"
    ):
        found("batch.node.new 1")
    with pytest.raises(InputError, match=r"its nodes have Python 3\.6, which is too old for packages; .* node_python"):
        found("batch.node.el 8")


def test_platforms_are_all_that_the_glibc_can_run() -> None:
    tags = NodePython(version="3.12", machine="x86_64", glibc=(2, 18)).platforms
    assert tags[:3] == ["manylinux_2_18_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
    assert tags[-3:] == ["manylinux_2_5_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    assert len(tags) == 14 + 3 + 1
