"""What runs over the files: a node script, its arguments, and how its outputs are joined."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tasks.errors import InputError
from tasks.inputs.content import Content
from tasks.packages.archive import files_of
from tasks.packages.needed import NO_PACKAGES, Packages
from tasks.run.program import Program
from tasks.run.results import Outputs
from tasks.run.scripts import OUR_SCRIPTS, name_on_nodes, refuse_bad_arguments, refuse_bad_modules, refuse_bad_script

T = TypeVar("T")  # one output, as it is read
J = TypeVar("J")  # what all outputs are joined into


_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST_NAME = 38  # with the run's id and the container's role at most 63 characters, Azure's limit for a container


def _nothing(joined: object) -> str:
    return ""


def _digests(packages: Packages) -> list[str]:
    named = packages.requirements
    modules = files_of(packages.extra).items()
    return ([Content.of(named).md5.hex()] if named else []) + [
        f"{name} {Content.of(path).md5.hex()}" for name, path in modules
    ]


@dataclass(frozen=True, kw_only=True)
class Workload(Generic[T, J]):
    """A program to run over many files, a Batch task per file or group of small files.

    name: the flow's name; the names of the run's resources and of its results folder begin with it. Up to 38 lower-case
    letters, digits and single dashes, by Azure's rules for the names of containers.

    node_script: any executable on this machine; docs/your-own-work.md says what it finds and where it leaves outputs.

    arguments: of the node script, the same for each input file but for the placeholders in them.

    read: reads the outputs of one file, by the file's name and the folder with its outputs. Raises where they are none:
    that file has failed then.

    join: joins the outputs of the files that succeeded, once all are in the results folder.

    report: what the run's report shows of what was joined, as markdown.

    tables: the names of the tables that join leaves in the results folder, so that no input's folder has one of them.

    packages: what the script imports on the nodes besides the standard library.
    """

    name: str
    node_script: Path
    arguments: Sequence[str] = ()
    read: Callable[[str, Path], T]
    join: Callable[[Outputs[T]], J]
    report: Callable[[J], str] = _nothing
    tables: Collection[str] = ()
    packages: Packages = NO_PACKAGES

    def __post_init__(self) -> None:
        """Raises InputError, before anything is created, for what cannot work."""
        if not _NAME.fullmatch(self.name) or len(self.name) > _LONGEST_NAME:
            raise InputError(
                f"workload name {self.name!r}: containers are named after it; use 1 to {_LONGEST_NAME} lower-case "
                "letters, digits and single dashes, such as line-count"
            )
        refuse_bad_script(self.node_script)
        refuse_bad_arguments(self.arguments)
        refuse_bad_modules(self.packages.extra)

    @property
    def script_name(self) -> str:
        """The node script's name on the nodes."""
        return name_on_nodes(self.node_script)

    @property
    def program(self) -> Program:
        """What decides the outputs besides the input. Raises InputError where the script can no longer be read."""
        return Program.of(self.node_script, self.arguments, *_digests(self.packages))

    @property
    def application(self) -> Mapping[str, Path]:
        """What the nodes need besides their input files, by its name there."""
        return {**OUR_SCRIPTS, self.script_name: self.node_script}
