"""What runs over the files: a node script, its arguments, and how its outputs are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tasks.run.results import Outputs

T = TypeVar("T")  # one output, as it is read
J = TypeVar("J")  # what all outputs are joined into


def _nothing(joined: object) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Workload(Generic[T, J]):
    """A program to run over many files, a Batch task per file.

    name: the flow's name; the names of the run's resources and of its results folder begin with it.

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
