"""One session of the live tests: its account, which flow runs it began, and what it records."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from tasks.accounts.claims import Identity
from tasks.accounts.clients import Azure
from tasks.accounts.identity import signer
from tasks.resources.leftovers import delete_each, list_in_batch, list_in_storage
from tasks.run.identity import Run
from tasks.run.settings import PoolSettings
from tasks.run.vm_sizes import DEFAULT_SIZES
from tests.support.polling import eventually
from tests.support.recording import Scrubber

T = TypeVar("T")

SETTING = "LIVE_TEST_SESSION"  # the session's folder; without it, the tests run on the local Azure
RECORD = "LIVE_TEST_RECORD"  # the folder for recordings
VM_SIZE = "LIVE_TEST_VM_SIZE"  # sizes of the node, with commas; without it, those of the flows
RECORDINGS = Path(__file__).parent / "recordings"

ONE_NODE = PoolSettings(
    dedicated_nodes=1,
    vm_size=tuple(os.environ.get(VM_SIZE, "").split(",")) if os.environ.get(VM_SIZE) else DEFAULT_SIZES,
)
LIFETIME = timedelta(minutes=45)


@dataclass(frozen=True, kw_only=True)
class Session:
    """The folder of a session, in which the ids of its flow runs stand before they create anything."""

    folder: Path

    @classmethod
    def current(cls) -> Session | None:
        """The session that `python -m tests.live` has begun; None where the tests run on the local Azure."""
        folder = os.environ.get(SETTING)
        return cls(folder=Path(folder)) if folder else None

    @property
    def _ids(self) -> Path:
        return self.folder / "flow-runs"

    def note(self, flow_run_id: str) -> None:
        """What this flow run creates is deleted at the end of the session."""
        with self._ids.open("a", encoding="utf-8") as ids:
            ids.write(f"{flow_run_id}\n")

    def sweep(self, azure: Azure) -> Sequence[str]:
        """Delete what the session's flow runs have left; returns a line for each of them."""
        ids = set(self._ids.read_text(encoding="utf-8").split()) if self._ids.exists() else set()
        left = [each for each in list_in_batch(azure) + list_in_storage(azure) if each.tags.flow_run in ids]
        left = [each for each in left if not each.is_being_deleted]
        return [
            f"{deletion.leftover.title}: {deletion.ending.value} {deletion.reason}".rstrip()
            for deletion in delete_each(azure, left)
        ]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The accounts, and how long what happens in them may take."""

    azure: Azure
    settings: Mapping[str, str] = field(repr=False)
    session: Session | None

    @property
    def limit(self) -> float:
        """Seconds in which a node is ready, or a Batch task that does nothing has completed."""
        return 900.0 if self.session else 60.0

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return 2.0 if self.session else 0.05

    def wait_for(self, what: str, found: Callable[[], T | None]) -> T:
        """What `found` returns once that is true; fails, naming `what`, after the limit."""
        return eventually(what, found, self.limit, self.interval)

    @property
    def time_limit(self) -> timedelta:
        """Of a Batch task that is to reach it."""
        return timedelta(seconds=5 if self.session else 1)

    def new_run(self, workload: str = "live-tests") -> Run:
        """The names and tags of what a test creates."""
        id = str(uuid.uuid4())
        if self.session:
            self.session.note(id)
        return Run(workload=workload, flow_run_id=id, started=datetime.now(timezone.utc), lifetime=LIFETIME)


def scrubber(azure: Azure, flow_run_ids: Sequence[str]) -> Scrubber:
    """Replaces the names of accounts, identity and flow runs, and refuses what has one of the keys in it."""
    batch, storage = azure.batch_account, azure.storage_account
    names = {
        batch.endpoint.partition("://")[2]: "account.region.batch.azure.com",
        storage.endpoint.partition("://")[2]: "storage.blob.core.windows.net",
        batch.name: "account",
        storage.name: "storage",
    }
    who = signer(azure, batch) or Identity()
    names |= {
        who.name: "user@example.org",
        who.tenant: "{tenant}",
        who.object_id: "{object id}",
        who.app_id: "{app id}",
    }
    names.pop("", None)
    for number, id in enumerate(flow_run_ids):
        placeholder = f"00000000-0000-0000-{number:04}-000000000000"
        names |= {id: placeholder, id[-12:]: placeholder[-12:]}
    keys = [account.key.get_secret_value() for account in (batch, storage) if account.key]
    return Scrubber(names, keys)
