"""The network and the image of a run's own pool, in the request that creates it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest
from azure.batch import BatchClient
from azure.batch.models import BatchPoolCreateOptions, BatchSupportedImage
from pydantic import SecretStr

from local_azure.batch.engine import pool_specs
from local_azure.batch.rest import shapes
from tasks.accounts.environment import BatchAccount
from tasks.errors import InputError
from tasks.resources.network import refuse_account_key
from tasks.resources.pool import Pool
from tasks.run.identity import Run
from tasks.run.settings import PoolSettings, PublicIp

GALLERY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/ours/images/align/versions/1.0.0"
AGENT = "batch.node.ubuntu 24.04"
SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/ours/subnets/nodes"


class Account:
    """A Batch account with one image, which keeps the body of the pool that it is to create."""

    body: dict[str, Any]

    def list_supported_images(self, filter: str) -> list[BatchSupportedImage]:
        reference = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
        shown = {
            "nodeAgentSKUId": AGENT,
            "imageReference": reference,
            "osType": "linux",
            "verificationType": "verified",
        }
        return [BatchSupportedImage(shown)]

    def create_pool(self, options: BatchPoolCreateOptions) -> None:
        self.body = shapes.check(options.as_dict(), "BatchPoolCreateOptions")


def created(settings: PoolSettings) -> dict[str, Any]:
    """The body of the request, as the local Batch service has checked it."""
    account = Account()
    lifetime = timedelta(hours=1)
    run = Run(workload="align", flow_run_id="c0de", started=datetime.now(timezone.utc), lifetime=lifetime)
    Pool(cast(BatchClient, account), run, settings).create()
    return pool_specs.with_defaults(account.body)


@pytest.mark.parametrize(
    ("public_ip", "provision"), [(PublicIp.MANAGED, "batchmanaged"), (PublicIp.NONE, "nopublicipaddresses")]
)
def test_nodes_join_the_subnet(public_ip: PublicIp, provision: str) -> None:
    assert created(PoolSettings(subnet_id=SUBNET, public_ip=public_ip))["networkConfiguration"] == {
        "subnetId": SUBNET,
        "publicIPAddressConfiguration": {"provision": provision},
        "dynamicVNetAssignmentScope": "none",
    }


def test_without_a_subnet_the_network_is_azure_s_own() -> None:
    assert "networkConfiguration" not in created(PoolSettings())


def test_a_gallery_image_has_its_id_and_the_named_agent() -> None:
    machine = created(PoolSettings(image=GALLERY, node_agent_sku=AGENT))["virtualMachineConfiguration"]
    assert machine == {"imageReference": {"virtualMachineImageId": GALLERY}, "nodeAgentSKUId": AGENT}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (PoolSettings(subnet_id=SUBNET), "subnet_id"),
        (PoolSettings(image=GALLERY, node_agent_sku=AGENT), "image (of a gallery)"),
        (PoolSettings(image=GALLERY, node_agent_sku=AGENT, subnet_id=SUBNET), "subnet_id and image (of a gallery)"),
    ],
)
def test_the_account_key_is_refused_where_azure_wants_entra_id(settings: PoolSettings, named: str) -> None:
    account = BatchAccount(name="team", endpoint="https://team.westeurope.batch.azure.com", key=SecretStr("a2V5"))
    with pytest.raises(InputError) as error:
        refuse_account_key(account, settings)
    assert str(error.value) == (
        f"{named} is set, and Azure Batch takes that only from a client that has signed in with Microsoft Entra ID, "
        "not with the key of the account team; unset AZURE_BATCH_ACCESS_KEY, or leave the key out of the block with "
        "the accounts, and run `az login`"
    )
    refuse_account_key(account, PoolSettings())
    refuse_account_key(BatchAccount(name="team", endpoint=account.endpoint), settings)
