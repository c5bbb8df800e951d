"""Copies files to nodes and from nodes, in threads, with the failureInfo of the API where that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local_azure.batch.node import transfer
from local_azure.batch.node.transfer_common import no_tokens
from local_azure.batch.node.work import Result, Work, failure
from local_azure.batch.state.auto_storage import PROPERTY, AutoStorage
from local_azure.batch.state.store import Document

TRANSFERS = 8  # concurrent file transfers of all nodes

LOSS = "the local Blob Storage was killed; changes shortly before that may be lost"


class Staging:
    """The file transfers of all nodes."""

    def __init__(
        self, auto_storage: asyncio.Future[AutoStorage] | None, storage_token: Callable[[], str] | None
    ) -> None:
        self._auto_storage = auto_storage
        self._storage_token = storage_token
        self._threads = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def stage_in(self, work: Work, target: Path) -> Result | None:
        """Fetch the resource files; returns the result of the work if that fails."""
        if not work.resource_files:
            return None
        linked = None
        if self._auto_storage and any(PROPERTY in file for file in work.resource_files):
            linked = await asyncio.shield(self._auto_storage)  # cancelling this work must not cancel the account
        try:
            await self._in_thread(
                transfer.stage_in,
                work.resource_files,
                target,
                auto_storage=linked,
                token_of=self._tokens_of(work),
            )
        except transfer.TransferFailed as error:
            return Result(failure=self._failure(error))
        return None

    async def stage_out(self, work: Work, *, succeeded: bool) -> Document | None:
        """Store the output files; returns the failureInfo if that fails."""
        try:
            await self._in_thread(
                transfer.stage_out,
                work.output_files,
                work.directory / "wd",
                succeeded=succeeded,
                environment=work.environment,
                token_of=self._tokens_of(work),
            )
        except transfer.TransferFailed as error:
            return self._failure(error)
        return None

    def _tokens_of(self, work: Work) -> Callable[[str], str]:
        def token_of(identity: str) -> str:
            if self._storage_token is None or identity.lower() not in work.identities:
                return no_tokens(identity)
            return self._storage_token()

        return token_of

    def _failure(self, error: transfer.TransferFailed) -> Document:
        """The failureInfo; a missing blob or container of a storage that was killed gets the detail DataLoss."""
        details = error.details
        linked = self._auto_storage.result() if self._auto_storage and self._auto_storage.done() else None
        if linked and linked.killed_at and error.code in ("BlobNotFound", "FileUploadContainerNotFound"):
            place = details.get("BlobSource") or details.get("Destination") or ""
            if place.startswith(linked.blob_endpoint):
                details = {**details, "DataLoss": f"{linked.killed_at:%Y-%m-%d %H:%M:%S} UTC: {LOSS}"}
        return failure(error.category, error.code, error.message, **details)

    async def _in_thread(self, function: Callable[..., None], *args: object, **kwargs: object) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))
