"""Whole runs on an existing pool whose managed identity reads and stores blobs: no SAS reaches a node."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from azure.batch.models import (
    BatchJobCreateOptions,
    BatchNodeIdentityReference,
    BatchPoolInfo,
    BatchTaskCreateOptions,
    ResourceFile,
)
from azure.storage.blob import BlobServiceClient

from flows.top_words import top_words
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.check import check_accounts
from tasks.errors import InputError
from tasks.resources.images import image_of_pool
from tasks.run.results import Results
from tasks.run.settings import CleanUp, Disposal, PoolSettings
from tests.support.accounts import add_pool, clear
from tests.support.paths import DATA
from tests.support.polling import wait_until
from tests.support.runs import in_flow, new_run, own_pool

pytestmark = pytest.mark.usefixtures("prefect_server")

IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
GALLERY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/ours/images/align"
SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/ours/subnets/nodes"
OTHER = IDENTITY.replace("nodes", "other")
POOL = "with-identity"
KEEP = CleanUp(job=Disposal.KEEP, containers=Disposal.KEEP)


@pytest.fixture
def azure(keyless: Azure) -> Iterator[Azure]:
    """Accounts that take tokens alone, and a pool of one node with an identity."""
    add_pool(keyless, POOL, target_dedicated_nodes=1, task_slots_per_node=2)
    faults.ask("identity", {"poolId": POOL, "resourceId": IDENTITY})
    yield keyless
    clear(keyless, POOL)


def test_a_run_makes_no_sas_for_nodes(azure: Azure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(BlobServiceClient, "get_user_delegation_key")  # nor anything that could sign one
    summary = top_words(
        inputs=[str(DATA)],
        top_n=1,
        output_folder=str(tmp_path),
        pool=PoolSettings(existing_pool_id=POOL, node_identity=IDENTITY),
        files_per_task=2,  # so that one is processed alone
        clean_up=KEEP,
    )
    assert summary.by_file["count"].tolist() == [16, 35, 13]
    with azure.batch() as batch:
        tasks = [json.dumps(task.as_dict()) for task in batch.list_tasks(summary.folder.name)]
    assert len(tasks) == 2
    assert [task for task in tasks if "sig=" in task or IDENTITY not in task] == []
    with azure.blobs() as blobs:
        stored = list(blobs.get_container_client(f"{summary.folder.name}-output").list_blob_names())
    assert len([name for name in stored if name.endswith("stdout.txt")]) == len(tasks)
    clear(azure, summary.folder.name)


def test_a_pool_with_a_subnet_and_a_gallery_image_is_made_with_entra_id(
    azure: Azure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = new_run()
    settings = PoolSettings(image=GALLERY, node_agent_sku="batch.node.ubuntu 24.04", subnet_id=SUBNET)
    checked = in_flow(lambda: check_accounts(azure, settings, Results(folder=tmp_path)))
    assert checked.settings == settings
    own_pool(azure, run, settings)
    with azure.batch() as batch:
        pool = batch.get_pool(run.pool_id)
        assert pool.network_configuration is not None
        assert pool.network_configuration.subnet_id == SUBNET
        assert pool.virtual_machine_configuration is not None
        assert pool.virtual_machine_configuration.image_reference.virtual_machine_image_id == GALLERY
        there = image_of_pool(batch, PoolSettings(), run.pool_id)
        assert there is not None
        assert (there.name, there.image.node_agent_sku_id) == (GALLERY, settings.node_agent_sku)
        monkeypatch.setattr("tasks.resources.images._linux_images", lambda _: [])  # since the previous attempt
        with pytest.raises(InputError, match=rf"^pool {run.pool_id} of a previous attempt .*`az batch pool delete"):
            image_of_pool(batch, PoolSettings(), run.pool_id)
    clear(azure, run.pool_id)


def test_a_task_cannot_use_an_identity_that_its_pool_has_not(azure: Azure) -> None:
    reference = BatchNodeIdentityReference(resource_id=OTHER)
    url = f"{azure.storage_account.endpoint}/in/a"
    file = ResourceFile(http_url=url, file_path="a", identity_reference=reference)
    with azure.batch() as batch:
        batch.create_job(BatchJobCreateOptions(id=POOL, pool_info=BatchPoolInfo(pool_id=POOL)))
        batch.create_task(POOL, BatchTaskCreateOptions(id="task", command_line="true", resource_files=[file]))
        wait_until(lambda: batch.get_task(POOL, "task").state == "completed")
        info = batch.get_task(POOL, "task").execution_info
    assert info is not None
    assert info.failure_info is not None
    assert (info.failure_info.category, info.failure_info.code) == ("UserError", "BlobAccessDenied")
    asked = {"api-version": "2019-08-01", "resource": "https://storage.azure.com/", "mi_res_id": OTHER}
    headers = {"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"]}
    answer = requests.get(os.environ["IDENTITY_ENDPOINT"], params=asked, headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["statusCode"]) == (400, 400)


def test_an_identity_that_the_pool_has_not_is_refused_in_step_0(azure: Azure, tmp_path: Path) -> None:
    pool = PoolSettings(existing_pool_id=POOL, node_identity=OTHER)
    with pytest.raises(InputError) as error:
        top_words(inputs=[str(DATA)], output_folder=str(tmp_path), pool=pool)
    assert str(error.value) == (
        f"pool '{POOL}' has not the managed identity {OTHER}; it has {IDENTITY.lower()}: name one of these, or add it "
        "to the pool in the Azure portal"
    )
