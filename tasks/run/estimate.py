"""How long a run takes and what it uses: the formula of docs/scaling.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.run.groups import F, Group


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
    line: float  # bytes per second to Storage, where it is not known better
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
    line=100e6 / 8,
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
    line=1e9,
    storage=1e9,
    requests=1_000,
)


# US dollars per request to Storage, of a region in the United States in 2025; see docs/scaling.md.
WRITE_PRICE, READ_PRICE = 0.05 / 10_000, 0.004 / 10_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """The files of one run in their Batch tasks, and the nodes that process them.

    alone: Batch tasks of one file. largest: files of the largest Batch task. size, uploaded: bytes of all files, and of
    those that are not blobs already. cores: of all nodes. node_seconds: of a slot, that the script takes for one file.
    line: bytes per second to Storage; 0 where that is not known.
    """

    files: int
    batch_tasks: int
    alone: int
    largest: int
    size: int
    uploaded: int = 0
    nodes: int
    slots: int
    cores: int
    node_seconds: float = 0.0
    line: float = 0.0

    @classmethod
    def of(
        cls,
        groups: Sequence[Group[F]],
        *,
        uploaded: int,
        nodes: int,
        slots: int,
        cores: int,
        node_seconds: float = 0.0,
        line: float = 0.0,
    ) -> Load:
        """The load of these groups; there is at least one."""
        lengths = [len(group.files) for group in groups]
        return cls(
            files=sum(lengths),
            batch_tasks=len(groups),
            alone=lengths.count(1),
            largest=max(lengths),
            size=sum(group.size for group in groups),
            uploaded=uploaded,
            nodes=nodes,
            slots=slots,
            cores=cores,
            node_seconds=node_seconds,
            line=line,
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of each part of a run, seconds of all nodes together, and requests to Storage.

    least: seconds that the run takes at least, by Azure's documented limits and the time of the script alone.
    """

    start: float
    upload: float
    add: float
    work: float
    download: float
    node_seconds: float
    writes: int
    reads: int
    least: float

    @property
    def seconds(self) -> float:
        return self.start + self.upload + self.add + self.work + self.download

    @property
    def cost_of_requests(self) -> float:
        """US dollars."""
        return self.writes * WRITE_PRICE + self.reads * READ_PRICE


def estimate(load: Load, at: Place) -> Estimate:
    """What the run takes there."""
    grouped = load.batch_tasks - load.alone
    in_groups = load.files - load.alone
    # Of a group: its bundle, a list of records, two logs; read: the bundle, its own list, and the list by the client.
    # Of a file alone: the file, output, record, two logs; read: the file and its record.
    writes = (5 if load.uploaded else 4) * load.alone + 4 * grouped
    reads = 2 * load.alone + 3 * grouped + (0 if load.uploaded else in_groups)
    per_file = at.per_file + load.node_seconds
    slots = max(1, min(load.slots, load.batch_tasks))
    work = max(
        # One Batch task more, because the slots do not end at the same moment.
        (load.files * per_file + load.batch_tasks * at.per_batch_task) / slots
        + load.largest * per_file
        + at.per_batch_task,
        load.files * load.node_seconds / max(1, load.cores),
        load.size / at.storage,
        (writes + reads) / at.requests,
    )
    upload = load.alone * at.upload_alone + in_groups * at.upload
    return Estimate(
        start=at.start,
        upload=max(upload, load.uploaded / (load.line or at.line)) if load.uploaded else 0.0,
        add=load.batch_tasks * at.add,
        work=work,
        download=load.files * at.download,
        node_seconds=load.nodes * (at.start + work),
        writes=writes,
        reads=reads,
        least=max(load.batch_tasks * at.add, load.files * load.node_seconds / slots),
    )
