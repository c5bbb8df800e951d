"""The network of a run's own pool, and what of its settings needs sign-in with Microsoft Entra ID."""

from __future__ import annotations

from azure.batch.models import BatchPublicIpAddressConfiguration, IpAddressProvisioningType, NetworkConfiguration

from tasks.accounts.environment import BatchAccount
from tasks.errors import InputError
from tasks.run.settings import PoolSettings, PublicIp, is_gallery_image


def network(settings: PoolSettings) -> NetworkConfiguration | None:
    """That of a new pool; None for Azure's own, with public IP addresses that Azure Batch manages."""
    if not settings.subnet_id:
        return None
    provisioning = {
        PublicIp.MANAGED: IpAddressProvisioningType.BATCH_MANAGED,
        PublicIp.NONE: IpAddressProvisioningType.NO_PUBLIC_IP_ADDRESSES,
    }
    return NetworkConfiguration(
        subnet_id=settings.subnet_id,
        public_ip_address_configuration=BatchPublicIpAddressConfiguration(
            ip_address_provisioning_type=provisioning[settings.public_ip]
        ),
    )


def refuse_account_key(account: BatchAccount, settings: PoolSettings) -> None:
    """Raise InputError where a new pool needs sign-in with Entra ID and the Batch account is used with its key.

    Azure Batch then answers AuthenticationFailed: "SharedKey is not allowed when external resources of type Network are
    linked", or of type Compute.
    """
    needs = {"subnet_id": settings.subnet_id, "image (of a gallery)": is_gallery_image(settings.image)}
    if account.key is None or not (named := " and ".join(name for name, needed in needs.items() if needed)):
        return
    raise InputError(
        f"{named} is set, and Azure Batch takes that only from a client that has signed in with Microsoft Entra ID, "
        f"not with the key of the account {account.name}; unset AZURE_BATCH_ACCESS_KEY, or leave the key out of the "
        "block with the accounts, and run `az login`"
    )
