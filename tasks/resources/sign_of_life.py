"""The sign of life that a run gives in Azure, so that who looks for it does not depend on the Prefect server.

While a run lives it writes an empty blob again and again. Who wonders whether it lives reads the blob's ETag twice: no
clocks of two machines are compared.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Event, Thread
from types import TracebackType

from azure.storage.blob import BlobClient, BlobServiceClient
from typing_extensions import Self

from tasks.accounts.clients import Azure
from tasks.errors.service import SERVICE_FAILURES
from tasks.run.identity import Role, Run

INTERVAL = 30.0  # seconds, as between two heartbeats for the Prefect server
_BLOB = "run/alive"  # no file that a run puts into this container has a folder in its name


class SignOfLife:
    """A context in which a run gives its sign of life, in a thread of its own; the container may come later."""

    def __init__(self, azure: Azure, run: Run, interval: float = INTERVAL) -> None:
        self._azure = azure
        self._run = run
        self._interval = interval
        self._over = Event()

    def __enter__(self) -> Self:
        Thread(target=self._give, name="sign-of-life", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()

    def _give(self) -> None:
        with self._azure.blobs() as blobs:
            blob = _blob(blobs, self._run)
            while not self._over.wait(self._interval):
                with suppress(*SERVICE_FAILURES):  # another one follows
                    blob.upload_blob(b"", overwrite=True)


def read_sign(blobs: BlobServiceClient, run: Run) -> str | None:
    """The last sign of life; another value than before means that the run lives. None where none can be read."""
    with suppress(*SERVICE_FAILURES):
        return _blob(blobs, run).get_blob_properties().etag
    return None


def _blob(blobs: BlobServiceClient, run: Run) -> BlobClient:
    return blobs.get_blob_client(run.container(Role.APPLICATION), _BLOB)
