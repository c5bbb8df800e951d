"""The local Batch service on a socket, and the unmodified SDK as its client."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from azure.batch import BatchClient
from azure.batch import models as m
from azure.batch.aio import BatchClient as AsyncBatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest

from local_azure.batch.http.server import Account, AutoStorage, Clock, Containers, Security, Timings, serve
from tests.support.contract import CheckedAsyncTransport, CheckedTransport
from tests.support.polling import LIMIT

T = TypeVar("T")
QUICK = Timings(allocation=0.01, boot=0.01, removal=0.01, termination=0.01)
SLOW = Timings(allocation=60, boot=60, removal=60, termination=60)
IMAGE = m.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
MACHINE = m.VirtualMachineConfiguration(image_reference=IMAGE, node_agent_sku_id="batch.node.ubuntu 24.04")


class RunningService:
    """A service in a thread of its own, with a loop of its own."""

    def __init__(self, data: Path, timings: Timings) -> None:
        self.data = data
        self.account = Account(name="localbatch", key=base64.b64encode(os.urandom(32)).decode())
        self.timings = timings
        self.clock = Clock()
        self.administered = True
        self.auto_storage: AutoStorage | None = None
        self.security = Security()
        self.containers = Containers.ENGINE
        self.endpoint = ""

    def start(self) -> None:
        ready = threading.Event()
        self._failure: BaseException | None = None

        def on_ready(endpoint: str) -> None:
            self.endpoint = endpoint
            ready.set()

        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await serve(
                self.data,
                self.account,
                ready=on_ready,
                stop=self._stop,
                clock=self.clock,
                timings=self.timings,
                administered=self.administered,
                auto_storage=self.auto_storage,
                security=self.security,
                containers=self.containers,
            )

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                self._failure = error
                ready.set()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert ready.wait(LIMIT), "the service does not get ready"
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "the service does not stop"
        if self._failure:
            raise self._failure

    def advance(self, **by: float) -> None:
        """Move the service's clock: advance(seconds=60)."""
        self._loop.call_soon_threadsafe(self.clock.advance, timedelta(**by))

    def admin(self, path: str, /, **body: Any) -> dict[str, Any]:
        """Carry out an operation of the service's own, signed like all others."""
        request = HttpRequest("POST", f"{self.endpoint}/$local/{path}?api-version=2025-06-01", json=body)
        answer = self.client(transport=RequestsTransport()).send_request(request)
        answer.raise_for_status()
        return dict(answer.json())

    def client(self, **kwargs: Any) -> BatchClient:
        credential = AzureNamedKeyCredential(self.account.name, self.account.key)
        return BatchClient(self.endpoint, credential, **{"transport": CheckedTransport(), **kwargs})

    def async_client(self, **kwargs: Any) -> AsyncBatchClient:
        credential = AzureNamedKeyCredential(self.account.name, self.account.key)
        return AsyncBatchClient(self.endpoint, credential, **{"transport": CheckedAsyncTransport(), **kwargs})


def wait_for(look: Callable[[], T | None], seconds: float = LIMIT) -> T:
    """Look, again and again, until there is something true to be seen; that is what clients of the service do."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"not so within {seconds} s"
        time.sleep(0.005)
    return found


def pool_options(pool_id: str = "pool", **options: Any) -> m.BatchPoolCreateOptions:
    return m.BatchPoolCreateOptions(
        **{
            "id": pool_id,
            "vm_size": "standard_d2s_v3",
            "virtual_machine_configuration": MACHINE,
            "target_dedicated_nodes": 1,
            **options,
        }
    )


def create_pool(client: BatchClient, pool_id: str = "pool", **options: Any) -> list[m.BatchNode]:
    """Create a pool and wait until its nodes can take tasks."""
    client.create_pool(pool_options(pool_id, **options))
    wanted = options.get("target_dedicated_nodes", 1) + options.get("target_low_priority_nodes", 0)
    return wait_for_nodes(client, pool_id, *["idle"] * wanted) if wanted else []


def wait_for_nodes(client: BatchClient, pool_id: str, *states: str) -> list[m.BatchNode]:
    """Wait until the pool has as many nodes as there are states here, in these states."""

    def nodes() -> list[m.BatchNode] | None:
        found = list(client.list_nodes(pool_id))
        return found if sorted(node.state for node in found) == sorted(states) else None

    return wait_for(nodes)


def create_job(client: BatchClient, job_id: str = "job", pool_id: str = "pool", **options: Any) -> None:
    client.create_job(m.BatchJobCreateOptions(id=job_id, pool_info=m.BatchPoolInfo(pool_id=pool_id), **options))


def task(task_id: str = "task", command_line: str = "/bin/true", **options: Any) -> m.BatchTaskCreateOptions:
    return m.BatchTaskCreateOptions(id=task_id, command_line=command_line, **options)


def shell(script: str) -> str:
    """A command line that has a shell run the script."""
    quoted = script.replace("'", "'\"'\"'")
    return f"/bin/sh -c '{quoted}'"


def run_task(client: BatchClient, command_line: str, task_id: str = "task", **options: Any) -> m.BatchTask:
    """Add a task to the job `job` and wait for its end."""
    client.create_task("job", task(task_id, command_line, **options))
    return wait_for_task(client, task_id)


def wait_for_task(
    client: BatchClient, task_id: str = "task", state: str = "completed", job: str = "job"
) -> m.BatchTask:
    def look() -> m.BatchTask | None:
        found = client.get_task(job, task_id)
        return found if found.state == state else None

    return wait_for(look)


def stdout(client: BatchClient, task_id: str = "task", job: str = "job") -> str:
    return b"".join(client.download_task_file(job, task_id, "stdout.txt")).decode()


class HttpFiles:
    """A web server for resource files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> HttpFiles:
        handler = partial(_QuietHandler, directory=str(self.directory))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def put(self, name: str, content: str) -> str:
        (self.directory / name).write_text(content, encoding="utf-8")
        return self.url(name)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
