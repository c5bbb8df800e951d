"""What runs over the files: a node script, its arguments, and how its outputs are joined."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tasks.errors import InputError
from tasks.run.results import Outputs

T = TypeVar("T")  # one output, as it is read
J = TypeVar("J")  # what all outputs are joined into


_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST_NAME = 38  # with the run's id and the container's role at most 63 characters, Azure's limit for a container
_SCRIPT_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def _nothing(joined: object) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Workload(Generic[T, J]):
    """A program to run over many files, a Batch task per file.

    name: the flow's name; the names of the run's resources and of its results folder begin with it. Up to 38 lower-case
    letters, digits and single dashes, by Azure's rules for the names of containers.

    node_script: a file on this machine; docs/your-own-work.md says what it is given and what it has to do.

    arguments: of the node script, the same for each Batch task.

    read: reads the output of one file, by the file's name and the output's path. Raises where it is not an output: that
    file has failed then.

    join: joins the outputs of the files that succeeded, once all are in the results folder.

    report: what the run's report shows of what was joined, as markdown.
    """

    name: str
    node_script: Path
    arguments: Sequence[str] = ()
    read: Callable[[str, Path], T]
    join: Callable[[Outputs[T]], J]
    report: Callable[[J], str] = _nothing

    def __post_init__(self) -> None:
        """Raises InputError, before anything is created, for what cannot work."""
        if not _NAME.fullmatch(self.name) or len(self.name) > _LONGEST_NAME:
            raise InputError(
                f"workload name {self.name!r}: containers are named after it; use 1 to {_LONGEST_NAME} lower-case "
                "letters, digits and single dashes, such as line-count"
            )
        if not _SCRIPT_NAME.fullmatch(self.node_script.name):
            raise InputError(
                f"node script {str(self.node_script)!r}: its file name becomes part of command lines on the nodes; "
                "use letters, digits, dots, dashes and underscores"
            )
        if not os.access(self.node_script, os.R_OK) or not self.node_script.is_file():
            raise InputError(f"node script {str(self.node_script)!r}: cannot be read; check the path and permissions")
