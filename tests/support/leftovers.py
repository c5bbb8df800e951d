"""Pools, jobs and containers with the tags that runs give them, in accounts of the tests' own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone

import pytest
from azure.batch import BatchClient
from azure.batch.models import (
    BatchJobCreateOptions,
    BatchMetadataItem,
    BatchPoolCreateOptions,
    BatchPoolInfo,
    BatchVmImageReference,
    VirtualMachineConfiguration,
)
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect import flow

from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.resources.leftovers import delete_each
from tasks.resources.ownership import Ending
from tasks.resources.resource import Found
from tasks.run.identity import Role, Run
from tasks.run.settings import CleanUp, TimeLimits
from tasks.run.tags import PROJECT
from tests.support.accounts import azure_with_faults, list_leftovers

LIMIT = 120.0  # seconds


@flow(name="top-words")
def a_flow(inputs: list[str], clean_up: CleanUp = CleanUp(), accounts: str | None = None) -> None:
    """As far as a sweep or a hook looks at the flow that died."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A local Azure for these tests alone, which look at the accounts as a whole, and which makes faults."""
    with azure_with_faults(tmp_path_factory.mktemp("azure")) as settings:
        yield settings


@pytest.fixture
def accounts(no_azure: None, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """Accounts with nothing in them; of what a test leaves, faults included, nothing is there for the next."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    azure = Azure.from_environment(settings)
    assert azure is not None
    yield azure
    faults.ask("reset", {})
    faults.ask("clock", {"advance": "PT1H"})  # past what a test has slowed down
    with azure.batch() as batch, azure.blobs() as blobs:
        for container in blobs.list_containers():
            blobs.delete_container(container.name)
        wait_until(lambda: not clear(batch))


def clear(batch: BatchClient) -> list[str]:
    """Delete all pools and jobs; what is still there."""
    things: list[tuple[Callable[[str], object], str | None]] = []
    things += [(batch.begin_delete_job, job.id) for job in batch.list_jobs()]
    things += [(batch.begin_delete_pool, pool.id) for pool in batch.list_pools()]
    for delete, name in things:
        try:
            delete(str(name))
        except (ResourceExistsError, ResourceNotFoundError):  # it is being deleted, or gone since it was listed
            continue
    return [str(name) for _, name in things]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tags(flow_run: str, expires_in: timedelta, **more: str) -> dict[str, str]:
    """The tags of a run, which began an hour before it expires."""
    expires = datetime.now(timezone.utc) + expires_in
    times = {
        "created": (expires - timedelta(hours=1)).isoformat(timespec="seconds"),
        "expires": expires.isoformat(timespec="seconds"),
    }
    return {"project": PROJECT, "flow_run": flow_run, **times, **more}


PAST = timedelta(hours=-2)
FUTURE = timedelta(hours=2)


def items(tags: dict[str, str] | None) -> list[BatchMetadataItem] | None:
    return None if tags is None else [BatchMetadataItem(name=name, value=value) for name, value in tags.items()]


def make_pool(azure: Azure, name: str, tags: dict[str, str] | None, nodes: int = 0) -> None:
    image = BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
    machine = VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
    with azure.batch() as batch:
        batch.create_pool(
            BatchPoolCreateOptions(
                id=name,
                vm_size="standard_d2s_v3",
                virtual_machine_configuration=machine,
                target_dedicated_nodes=nodes - nodes // 2,
                target_low_priority_nodes=nodes // 2,
                metadata=items(tags),
            )
        )
        wait_until(lambda: nodes_of(batch, name) == nodes)


def nodes_of(batch: BatchClient, pool: str) -> int:
    found = batch.get_pool(pool)
    return (found.current_dedicated_nodes or 0) + (found.current_low_priority_nodes or 0)


def make_job(azure: Azure, name: str, tags: dict[str, str] | None) -> None:
    with azure.batch() as batch:
        batch.create_job(BatchJobCreateOptions(id=name, pool_info=BatchPoolInfo(pool_id="none"), metadata=items(tags)))


def make_container(azure: Azure, name: str, tags: dict[str, str] | None) -> None:
    with azure.blobs() as blobs:
        blobs.create_container(name, metadata=tags)
        blobs.get_blob_client(name, "a.txt").upload_blob(b"a")


MAKE: dict[str, Callable[[Azure, str, dict[str, str] | None], None]] = {
    "pool": make_pool,
    "job": make_job,
    "container": make_container,
}


def make_three(azure: Azure, name: str, tags: dict[str, str] | None) -> set[str]:
    """A pool, a job and a container of that name with these tags; how the tests speak of them."""
    for make in MAKE.values():
        make(azure, name, tags)
    return three(name)


def three(*names: str) -> set[str]:
    return {f"{kind} {name}" for name in names for kind in MAKE}


def make_run(azure: Azure, run: Run, extra: dict[str, str] | None = None) -> set[str]:
    """All that a run creates, under the names that it gives them."""
    metadata = {**run.tags.metadata(), **(extra or {})}
    make_pool(azure, run.pool_id, metadata)
    make_job(azure, run.job_id, metadata)
    for role in Role:
        make_container(azure, run.container(role), metadata)
    return everything(run)


def everything(run: Run) -> set[str]:
    return {f"pool {run.pool_id}", f"job {run.job_id}", *(f"container {run.container(role)}" for role in Role)}


def run_of(flow_run_id: object = None) -> Run:
    return Run.start(str(flow_run_id or uuid.uuid4()), "top-words", TimeLimits())


def there(azure: Azure) -> set[str]:
    """What is in the accounts and not being deleted."""
    with azure.batch() as batch, azure.blobs() as blobs:
        return {
            *(f"pool {pool.id}" for pool in batch.list_pools() if pool.state != "deleting"),
            *(f"job {job.id}" for job in batch.list_jobs() if job.state != "deleting"),
            *(f"container {container.name}" for container in blobs.list_containers()),
        }


def kept(azure: Azure) -> set[str]:
    return {leftover.name for leftover in list_leftovers(azure) if leftover.tags.kept}


def endings(azure: Azure, leftovers: Iterable[Found]) -> dict[str, Ending]:
    return {deletion.leftover.name: deletion.ending for deletion in delete_each(azure, leftovers)}
