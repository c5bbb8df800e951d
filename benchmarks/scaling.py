"""Estimate the time and cost of a run with very many files: the formula of docs/scaling.md.

    python -m benchmarks.scaling --files 1000000 --bytes 10000000 --nodes 100 --node-seconds 0.33

It prints what each part takes on Azure, by documented limits and the constants below. `LOCAL` has the constants of one
machine with the embedded local Azure, so that the formula can be compared with a run that `benchmarks.flow` measures.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from math import ceil

from tasks.run.groups import form

MOST_FILES_OF_A_RUN = 100_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """What does not depend on the work: seconds, bytes per second and requests per second."""

    start: float  # seconds until nodes run Batch tasks, together with all else that happens once
    upload: float  # seconds per file in a group
    upload_alone: float  # and per file alone
    add: float  # seconds per Batch task
    per_batch_task: float  # seconds of a slot, beside its files
    per_file: float  # seconds of a slot, beside the script
    download: float  # seconds per file
    storage: float  # bytes per second from a storage account to all nodes
    requests: float  # per second, of a storage account


# See docs/scaling.md for where these come from.
AZURE = Place(
    start=300,
    upload=0.0002,
    upload_alone=0.01,
    add=60 / 20_000,
    per_batch_task=2,
    per_file=0.004,
    download=0.0008,
    storage=50e9 / 8,
    requests=20_000,
)
LOCAL = Place(
    start=2.5,
    upload=0.00007,
    upload_alone=0.002,
    add=0.0001,
    per_batch_task=0.1,
    per_file=0.001,
    download=0.0005,
    storage=1e9,
    requests=1_000,
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Files of one size, and the nodes that process them.

    node_seconds: of a core, that the script takes for one file.

    line: bytes per second to Azure; 0 where blobs are read in place.

    price: US dollars per node and hour; write_price and read_price: per request to Storage.
    """

    files: int
    size: int
    nodes: int
    cores_per_node: int = 2
    slots_per_node: int = 2
    node_seconds: float = 0.0
    line: float = 0.0
    price: float = 0.096
    write_price: float = 0.05 / 10_000
    read_price: float = 0.004 / 10_000

    @property
    def slots(self) -> int:
        return self.nodes * self.slots_per_node


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Runs, Batch tasks and files in one; seconds of each part; requests to Storage; US dollars."""

    runs: int
    batch_tasks: int
    files_per_task: int
    start: float
    upload: float
    add: float
    work: float
    download: float
    requests: int
    cost_of_nodes: float
    cost_of_requests: float

    @property
    def seconds(self) -> float:
        return self.start + self.upload + self.add + self.work + self.download


@dataclass(frozen=True)
class _File:
    size: int
    name: str = ""
    task_id: str = ""


def estimate(load: Load, at: Place) -> Estimate:
    """What the files take, one run after the other where they are more than one run has."""
    runs = ceil(load.files / MOST_FILES_OF_A_RUN)
    of_a_run = ceil(load.files / runs)
    groups = form([_File(load.size)] * of_a_run, slots=load.slots)
    most = max(len(group.files) for group in groups)
    batch_tasks = runs * len(groups)
    alone = most == 1
    # Of a group: its bundle, a list of records, two logs; read: the bundle, its own list, and the list by the client.
    # Of a file alone: the file, output, record, two logs; read: the file and its record.
    writes = (5 if alone else 4) * batch_tasks - (load.files if alone and not load.line else 0)
    reads = (2 if alone else 3) * batch_tasks + (load.files if not alone and not load.line else 0)
    per_file = at.per_file + load.node_seconds
    slot_seconds = load.files * per_file + batch_tasks * at.per_batch_task
    last = runs * (most * per_file + at.per_batch_task)  # the slots do not end at the same moment
    work = max(
        slot_seconds / min(load.slots, len(groups)) + last,
        load.files * load.node_seconds / (load.nodes * load.cores_per_node),
        load.files * load.size / at.storage,
        (writes + reads) / at.requests,
    )
    start = runs * at.start
    upload = load.files * (at.upload_alone if alone else at.upload) if load.line else 0.0
    return Estimate(
        runs=runs,
        batch_tasks=batch_tasks,
        files_per_task=most,
        start=start,
        upload=max(upload, load.files * load.size / load.line) if load.line else 0.0,
        add=batch_tasks * at.add,
        work=work,
        download=load.files * at.download,
        requests=writes + reads,
        cost_of_nodes=load.nodes * (start + work) / 3600 * load.price,
        cost_of_requests=writes * load.write_price + reads * load.read_price,
    )


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
    found = estimate(Load(**options), place)
    for field in fields(found):
        value = getattr(found, field.name)
        print(f"{field.name:<17} {value:>14,}" if isinstance(value, int) else f"{field.name:<17} {value:>14,.2f}")
    print(f"{'seconds':<17} {found.seconds:>14,.0f}")


if __name__ == "__main__":
    main()
