"""A workload that cannot work is refused when it is made, before anything is created."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.packages.needed import NO_PACKAGES, Packages
from tasks.run.results import Outputs
from tasks.run.workload import Workload

SCRIPT = Path(__file__)


def workload(
    name: str = "line-count", node_script: Path = SCRIPT, packages: Packages = NO_PACKAGES
) -> Workload[str, int]:
    def join(outputs: Outputs[str]) -> int:
        return len(outputs.read)

    return Workload(name=name, node_script=node_script, packages=packages, read=lambda file, folder: file, join=join)


@pytest.mark.parametrize("name", ["line-count", "a", "9" * 38])
def test_a_name_that_containers_can_have_is_taken(name: str) -> None:
    assert workload(name).name == name


@pytest.mark.parametrize("name", ["", "Line_Count", "line--count", "-line", "line-", "zählen", "a" * 39])
def test_a_name_that_containers_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^workload name .*: containers are named after it; use 1 to 38 lower-case"):
        workload(name)


@pytest.mark.parametrize("name", ["count lines.py", "it's (1).py", "$(x).py", "zähle.py"])
def test_a_script_name_that_a_shell_would_split_is_replaced_on_the_nodes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("#!/bin/sh\n")
    made = workload(node_script=tmp_path / name)
    assert re.fullmatch(r"[\w.-]+\.py", made.script_name, re.ASCII)
    assert made.application[made.script_name] == tmp_path / name


@pytest.mark.parametrize("name", ["one_file.py", "run_group"])
def test_a_module_that_nodes_would_not_find_is_refused(name: str) -> None:
    packages = Packages(extra=(Path(name),))
    with pytest.raises(InputError, match=rf"^module '{name}': nodes have a module '\w+' of their own; rename it$"):
        workload(packages=packages)


def test_a_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^script .*/absent\.py': does not exist, seen from .*; check the path"):
        workload(node_script=tmp_path / "absent.py")
    with pytest.raises(InputError, match="is not a regular file"):
        workload(node_script=tmp_path)
