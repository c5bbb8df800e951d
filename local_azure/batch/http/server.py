"""Runs the local Batch service: locks its data directory, recovers, listens, and drains at the end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from local_azure.batch.engine import environment
from local_azure.batch.engine.allocator import Allocator
from local_azure.batch.engine.job_tasks import JobTasks
from local_azure.batch.engine.lifecycle import Lifecycle
from local_azure.batch.engine.nodes import Nodes
from local_azure.batch.engine.reconciler import Reconciler
from local_azure.batch.engine.scheduler import Scheduler
from local_azure.batch.engine.schedules import Schedules
from local_azure.batch.engine.service import Service
from local_azure.batch.http.app import App
from local_azure.batch.http.connections import HOST, accepting, listen
from local_azure.batch.http.identity import PATH, IdentityApp, token_of
from local_azure.batch.http.routes import Router
from local_azure.batch.node.containers import Containers
from local_azure.batch.node.node_agent import NodeAgent
from local_azure.batch.node.runner import Runner
from local_azure.batch.rest import tokens
from local_azure.batch.state.access import ALL, Access, Entra
from local_azure.batch.state.account import Account
from local_azure.batch.state.auto_storage import AutoStorage
from local_azure.batch.state.clock import Clock, Profile, Timings
from local_azure.batch.state.paths import make_private
from local_azure.batch.state.store import Store, UnusableState
from local_azure.batch.state.wire import parse_timestamp

__all__ = [
    "Access",
    "Account",
    "AutoStorage",
    "Clock",
    "Containers",
    "DataDirectoryInUse",
    "Entra",
    "Profile",
    "Security",
    "Timings",
    "UnusableState",
    "serve",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Security:
    """TLS, and sign-in with tokens. Without any of them the service speaks plain HTTP and takes the account's key."""

    tls: ssl.SSLContext | None = None
    trusted: Path | None = None  # the certificates that nodes are to trust
    entra: Entra | None = None
    identity_listener: socket.socket | None = None  # on which tokens are issued
    access: Access = ALL  # to both accounts
    storage_access_file: Path | None = None  # where Blob Storage reads who may use it

    @property
    def identity_endpoint(self) -> str:
        """The URL at which tokens are issued; empty where none are."""
        listener = self.identity_listener
        return f"http://{HOST}:{listener.getsockname()[1]}{PATH}" if listener else ""


PLAIN = Security()
FAST = Profile.FAST.timings()


class DataDirectoryInUse(Exception):
    """Another service uses the data directory."""


async def serve(
    data: Path,
    account: Account,
    *,
    port: int = 0,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    clock: Clock | None = None,
    timings: Timings = FAST,
    administered: bool = False,
    auto_storage: AutoStorage | asyncio.Future[AutoStorage] | None = None,
    security: Security = PLAIN,
    containers: Containers = Containers.ENGINE,
) -> None:
    """Serve until `stop` is set; `ready` is called with the endpoint once requests are accepted.

    At the end no new requests are accepted, running commands are ended (the next service on the directory runs them
    again), and the state is closed. `administered` lets clients inject faults and move the clock. `auto_storage` is the
    storage account linked to the Batch account; it may be a future, which is awaited where the account is needed.
    `security` is TLS and sign-in with tokens, `containers` where tasks with containerSettings run. Raises
    DataDirectoryInUse, UnusableState, and OSError if the port is in use.
    """
    make_private(data)
    with _locked(data):
        clock = clock or Clock()
        store = Store(data / "batch.db")
        try:
            _continue_clock(clock, store)
            service = Service(
                account=account,
                store=store,
                clock=clock,
                usual_timings=timings,
                data=data.resolve(),
                reconciler=Reconciler(clock),
                auto_storage=_as_future(auto_storage),
                entra=security.entra,
                usual_access=security.access,
                storage_access_file=security.storage_access_file,
                trusted=security.trusted,
                containers=containers,
            )
            service.publish_storage_access()
            await _serve(service, port, administered, ready, stop, security)
        finally:
            store.close()


def _issuing(service: Service, security: Security) -> AbstractAsyncContextManager[None]:
    """Serve the identity endpoint, if there is one, while the context lasts."""
    if security.entra is None or security.identity_listener is None:
        return nullcontext()
    return accepting(IdentityApp(service, security.entra), security.identity_listener)


def _as_future(account: AutoStorage | asyncio.Future[AutoStorage] | None) -> asyncio.Future[AutoStorage] | None:
    if not isinstance(account, AutoStorage):
        return account
    future: asyncio.Future[AutoStorage] = asyncio.get_running_loop().create_future()
    future.set_result(account)
    return future


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Lock the data directory. The kernel releases the lock of a killed process, so it is never stale."""
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = f"Another local Batch service uses the data directory {data}"
            raise DataDirectoryInUse(f"{reason}: stop it, or use another directory.") from None
        yield
    finally:
        os.close(descriptor)


def _continue_clock(clock: Clock, store: Store) -> None:
    """Continue from the latest recorded time, if the machine's clock is behind it; pending work would not be due."""
    latest = store.latest()
    if latest is None or parse_timestamp(latest) <= clock.now():
        return
    logger.warning("Clock: behind the data directory; the service's time continues from %s", latest)
    clock.not_before(parse_timestamp(latest))


async def _serve(
    service: Service,
    port: int,
    administered: bool,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    security: Security,
) -> None:
    for name in ("nodes", "attempts"):
        make_private(service.data / name)
    runner = Runner(service.store.instance)
    if killed := await asyncio.to_thread(runner.kill_leftovers):
        logger.warning("Data directory: killed %d leftover processes of the previous service", len(killed))
    environment.make_python(service.data)
    listener = listen(port)
    service.endpoint = f"{'https' if security.tls else 'http'}://{HOST}:{listener.getsockname()[1]}"
    if security.entra and security.identity_listener:
        service.identity_endpoint = security.identity_endpoint
        service.storage_token = partial(token_of, service, security.entra, tokens.STORAGE)
    agent = NodeAgent(runner, service.data / "trash", service.auto_storage, service.storage_token, service.containers)
    job_tasks = JobTasks(service, agent)
    controllers = (
        Lifecycle(service, agent, job_tasks),
        Scheduler(service, agent, job_tasks),
        Allocator(service),
        Nodes(service, agent),
        Schedules(service),
    )
    for controller in controllers:
        controller.resume()
    agent.empty_trash()
    reconciler = asyncio.create_task(service.reconciler.run())
    try:
        app = App(service, Router(), administered=administered)
        async with accepting(app, listener, security.tls), _issuing(service, security):
            ready(service.endpoint)
            await stop.wait()
    finally:
        reconciler.cancel()
        await asyncio.gather(reconciler, return_exceptions=True)
        await agent.close()
