"""The accounts that tests work on: local Azures with faults, what is in them, and pools and jobs made there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch.models import (
    BatchMetadataItem,
    BatchPoolCreateOptions,
    BatchVmImageReference,
    VirtualMachineConfiguration,
)
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from local_azure import LocalAzure
from tasks.accounts.clients import Azure
from tasks.resources.leftovers import list_in_batch, list_in_storage
from tasks.resources.resource import Found
from tests.support.polling import wait_until


@contextmanager
def azure_with_faults(folder: Path, *options: str) -> Iterator[dict[str, str]]:
    """The settings of a local Azure that makes faults on demand, and lives as long as the context."""
    with LocalAzure("--faults", f"--data={folder / 'data'}", *options) as azure:
        yield azure.settings


def accounts_of(settings: dict[str, str], environment: pytest.MonkeyPatch) -> Azure:
    """The accounts, also set in the environment."""
    for name, value in settings.items():
        environment.setenv(name, value)
    azure = Azure.from_environment(settings)
    assert azure is not None
    return azure


def job_and_pool_ids(batch: BatchClient) -> set[str]:
    return {job.id for job in batch.list_jobs()} | {pool.id for pool in batch.list_pools()}


def left_over(azure: Azure) -> list[str]:
    """What is, or is becoming, of any run in the accounts; things that are being deleted do not count.

    The accounts are shared with tests of the services, which leave containers of their own.
    """
    with azure.batch() as batch, azure.blobs() as blobs:
        pools = [f"pool {pool.id}" for pool in batch.list_pools() if pool.state != "deleting"]
        jobs = [f"job {job.id}" for job in batch.list_jobs() if job.state != "deleting"]
        containers = blobs.list_containers(name_starts_with="top-words-")
        return pools + jobs + [f"container {container.name}" for container in containers]


def list_leftovers(azure: Azure) -> list[Found]:
    """All that runs have left in both accounts."""
    return list_in_batch(azure) + list_in_storage(azure)


def clear(azure: Azure, name: str) -> None:
    """Delete what there is of that name, and wait until it is gone, also where it is being deleted already."""
    with azure.batch() as batch, azure.blobs() as blobs:
        for delete in (batch.begin_delete_job, batch.begin_delete_pool):
            with suppress(ResourceNotFoundError, ResourceExistsError):
                delete(name)
        for container in blobs.list_containers(name_starts_with=name):
            blobs.delete_container(container.name)
        wait_until(lambda: name not in job_and_pool_ids(batch))


def add_pool(azure: Azure, name: str, tags: Mapping[str, str] | None = None, **options: Any) -> None:
    """A pool of a test's own, whose nodes are ready at once unless the options hold a start task."""
    image = BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server", version="latest")
    machine = VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
    with azure.batch() as batch:
        batch.create_pool(
            BatchPoolCreateOptions(
                id=name,
                vm_size="standard_d2s_v3",
                virtual_machine_configuration=machine,
                metadata=[BatchMetadataItem(name=key, value=value) for key, value in (tags or {}).items()] or None,
                **options,
            )
        )
