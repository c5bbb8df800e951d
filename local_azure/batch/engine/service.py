"""The Batch account as operations and background work see it: state, clock, reconciler."""

from __future__ import annotations

import json
from asyncio import Future
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from local_azure.batch.engine.reconciler import Reconciler
from local_azure.batch.node.containers import Containers
from local_azure.batch.state.access import ALL, Access, Entra
from local_azure.batch.state.account import Account
from local_azure.batch.state.auto_storage import AutoStorage
from local_azure.batch.state.clock import Clock, Timings
from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.faults import Faults
from local_azure.batch.state.paths import write_private
from local_azure.batch.state.store import Document, Row, Store
from local_azure.batch.state.wire import next_etag, parse_timestamp, timestamp


@dataclass(kw_only=True)
class Service:
    """One Batch account. Operations change the state and wake the reconciler."""

    account: Account
    store: Store
    clock: Clock
    usual_timings: Timings
    data: Path
    reconciler: Reconciler
    faults: Faults = field(default_factory=Faults)
    containers: Containers = Containers.ENGINE
    auto_storage: Future[AutoStorage] | None = None  # the linked storage account; it may still be starting
    endpoint: str = ""  # set once the service listens
    entra: Entra | None = None  # without it no tokens are taken
    usual_access: Access = ALL  # to both accounts
    storage_access_file: Path | None = None  # where Blob Storage reads its own
    identity_endpoint: str = ""  # that issues tokens, set once the service listens
    storage_token: Callable[[], str] | None = None  # for Blob Storage, of the identity that all tokens are of
    trusted: Path | None = None  # the certificates that nodes trust; None if they are those of the machine

    @property
    def timings(self) -> Timings:
        return self.faults.timings or self.usual_timings

    @property
    def access(self) -> Access:
        return self.faults.batch_access or self.usual_access

    def publish_storage_access(self) -> None:
        """Write who may use Blob Storage to the file that its process reads."""
        if self.storage_access_file:
            access = self.faults.storage_access or self.usual_access
            write_private(self.storage_access_file, json.dumps(asdict(access)))

    def now(self) -> datetime:
        return self.clock.now()

    def touch(self, document: Document, now: datetime | None = None) -> None:
        """Mark a resource as modified: by a client, or where the service itself changes what is documented to count.

        That is the state of a job, and the targets of a pool, but not the states of pools, nodes and tasks.
        """
        now = now or self.now()
        document["eTag"] = next_etag(document.get("eTag"), now)
        document["lastModified"] = timestamp(now)

    def due(self, document: Document, seconds: float, state: str = "state") -> datetime | None:
        """The time at which a resource will have been in its state for these seconds; None if that has passed."""
        due = parse_timestamp(document[f"{state}TransitionTime"]) + timedelta(seconds=seconds)
        return due if due > self.now() else None

    def node_directory(self, pool: str, node: str) -> Path:
        """The node's root directory; both ids in lower case."""
        return self.data / "nodes" / pool / node

    def discard(self, path: Path) -> None:
        """Remove a directory after the commit of this transaction."""
        self.store.execute("INSERT INTO remains VALUES (?)", str(path.relative_to(self.data)))
        self.reconciler.wake("remains")

    def pool(self, pool: str) -> Row:
        return self.store.pools.get(pool.lower()) or _missing(Code.PoolNotFound)

    def node(self, pool: str, node: str) -> Row:
        self.pool(pool)
        return self.store.nodes.get(pool.lower(), node.lower()) or _missing(Code.NodeNotFound)

    def identities(self, pool: str) -> frozenset[str]:
        """The resource ids, in lower case, of the managed identities of a pool; none where no tokens are issued."""
        if self.entra is None:
            return frozenset()
        row = self.store.pools.get(pool.lower())
        assigned = row.document.get("identity", {}).get("userAssignedIdentities", ()) if row else ()
        return frozenset(each["resourceId"].lower() for each in assigned)

    def job(self, job: str) -> Row:
        return self.store.jobs.get(job.lower()) or _missing(Code.JobNotFound)

    def schedule(self, schedule: str) -> Row:
        return self.store.schedules.get(schedule.lower()) or _missing(Code.JobScheduleNotFound)

    def task(self, job: str, task: str) -> Row:
        self.job(job)
        return self.store.tasks.get(job.lower(), task.lower()) or _missing(Code.TaskNotFound)


def _missing(code: Code) -> Row:
    raise BatchError(code)
