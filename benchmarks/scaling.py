"""Estimate the time and cost of a run with very many files: the formula of docs/scaling.md.

    python -m benchmarks.scaling --files 1000000 --bytes 10000000 --nodes 100 --node-seconds 0.33

It prints what each part takes on Azure, by documented limits and the constants in tasks/run/estimate.py. `--local`
takes those of one machine with the embedded local Azure, so that the formula can be compared with a run that
`benchmarks.flow` measures.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from math import ceil

from tasks.inputs.files import MOST_FILES
from tasks.run.estimate import AZURE, LOCAL, Estimate, Load, Place, estimate
from tasks.run.groups import form


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of one size, and the nodes that process them.

    node_seconds: of a core, that the script takes for one file.

    line: bytes per second to Azure; 0 where blobs are read in place.

    price: US dollars per node and hour.
    """

    files: int
    size: int
    nodes: int
    cores_per_node: int = 2
    slots_per_node: int = 2
    node_seconds: float = 0.0
    line: float = 0.0
    price: float = 0.096


@dataclass(frozen=True)
class _File:
    size: int
    name: str = ""
    task_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Equal runs one after the other, where the files are more than one run has."""

    runs: int
    load: Load
    one: Estimate  # of one run
    given: Files

    @property
    def batch_tasks(self) -> int:
        return self.runs * self.load.batch_tasks

    @property
    def seconds(self) -> dict[str, float]:
        """Of each part, of all runs."""
        return {part: self.runs * asdict(self.one)[part] for part in ("start", "upload", "add", "work", "download")}

    @property
    def requests(self) -> int:
        return self.runs * (self.one.writes + self.one.reads)

    @property
    def cost_of_nodes(self) -> float:
        return self.runs * self.one.node_seconds / 3600 * self.given.price

    @property
    def cost_of_requests(self) -> float:
        return self.runs * self.one.cost_of_requests


def scaled(given: Files, at: Place) -> Scaled:
    """What the files take, in as many runs as they need."""
    runs = ceil(given.files / MOST_FILES)
    slots = given.nodes * given.slots_per_node
    load = Load.of(
        form([_File(given.size)] * ceil(given.files / runs), slots=slots),
        uploaded=ceil(given.files / runs) * given.size if given.line else 0,
        nodes=given.nodes,
        slots=slots,
        cores=given.nodes * given.cores_per_node,
        node_seconds=given.node_seconds,
        line=given.line,
    )
    return Scaled(runs=runs, load=load, one=estimate(load, at), given=given)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=10_000_000, dest="size", help="of a file")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--cores-per-node", type=int, default=2)
    parser.add_argument("--slots-per-node", type=int, default=2)
    parser.add_argument("--node-seconds", type=float, default=0.33, help="of the script, for one file")
    parser.add_argument("--line", type=float, default=0.0, help="bytes per second to Azure; 0: blobs are read in place")
    parser.add_argument("--price", type=float, default=0.096, help="US dollars per node and hour")
    parser.add_argument("--local", action="store_true", help="on one machine with the embedded local Azure")
    return parser


def main() -> None:
    options = vars(arguments().parse_args())
    place = LOCAL if options.pop("local") else AZURE
    found = scaled(Files(**options), place)
    numbers = {"runs": found.runs, "batch_tasks": found.batch_tasks, "files_per_task": found.load.largest}
    for name, number in {**numbers, "requests": found.requests}.items():
        print(f"{name:<17} {number:>14,}")
    costs = {"cost_of_nodes": found.cost_of_nodes, "cost_of_requests": found.cost_of_requests}
    for name, value in {**found.seconds, **costs}.items():
        print(f"{name:<17} {value:>14,.2f}")
    print(f"{'seconds':<17} {sum(found.seconds.values()):>14,.0f}")


if __name__ == "__main__":
    main()
