"""The container image in which Batch tasks run: what pool and tasks say of it."""

from __future__ import annotations

from azure.batch.models import (
    BatchContainerConfiguration,
    BatchNodeIdentityReference,
    BatchPool,
    BatchTaskContainerSettings,
    ContainerRegistryReference,
    ContainerType,
    ContainerWorkingDirectory,
)

from tasks.accounts.registry import registry_credentials, registry_of
from tasks.errors import InputError
from tasks.run.identity import UsedPool
from tasks.run.settings import PoolSettings, is_identity

# The directories of a Batch task belong to a user of the node that no image knows, so the container runs as root; and
# what is run is our command, not the image's own.
_OPTIONS = "--rm --user 0:0 --entrypoint="


def container_configuration(settings: PoolSettings) -> BatchContainerConfiguration | None:
    """Those of a new pool, whose nodes sign in and pull the image once, before they take tasks."""
    if not settings.container_image:
        return None
    return BatchContainerConfiguration(
        type=ContainerType.DOCKER_COMPATIBLE,
        container_image_names=[settings.container_image],
        container_registries=registries(settings.container_image, settings.container_registry) or None,
    )


def task_settings(pool: UsedPool) -> BatchTaskContainerSettings | None:
    """Those of a Batch task; in a pool of somebody else also how to sign in to the registry."""
    if not pool.container_image:
        return None
    registry = registries(pool.container_image, pool.container_registry)
    return BatchTaskContainerSettings(
        image_name=pool.container_image,
        container_run_options=_OPTIONS,
        registry=registry[0] if registry else None,
        working_directory=ContainerWorkingDirectory.TASK_WORKING_DIRECTORY,
    )


def need_python(image: str) -> str:
    """A shell command that ends a Batch task, with the reason, where the image has no python3."""
    return (
        f'command -v python3 >/dev/null || {{ echo "the container image {image} has no python3, which fetches, checks '
        'and stores files; add Python 3.8 or later to the image" >&2; exit 127; }'
    )


def registries(image: str | None, registry: str | None) -> list[ContainerRegistryReference]:
    """How to sign in to the registry of the image; empty for one that is public.

    Raises InputError where the block is not there, or is for another registry.
    """
    if not image or not registry:
        return []
    server = registry_of(image)
    if is_identity(registry):
        identity = BatchNodeIdentityReference(resource_id=registry)
        return [ContainerRegistryReference(registry_server=server, identity_reference=identity)]
    found = registry_credentials(registry)
    if found.server != server:
        raise InputError(
            f"the block {registry!r} signs in to {found.server}, but {image} comes from {server}; name the block of "
            "that registry"
        )
    return [ContainerRegistryReference(registry_server=server, username=found.username, password=found.password)]


def refuse_pool_without_containers(pool: BatchPool, settings: PoolSettings) -> None:
    """Raise InputError where an existing pool cannot run the container image, or has not the identity."""
    if not settings.container_image:
        return
    machine = pool.virtual_machine_configuration
    if not machine or not machine.container_configuration:
        raise InputError(
            f"pool {pool.id!r} is not enabled for containers, which cannot be changed once it exists; name one that "
            "has a containerConfiguration, or no pool to have one made"
        )
    if is_identity(settings.container_registry):
        refuse_pool_without_identity(pool, settings.container_registry)


def refuse_pool_without_identity(pool: BatchPool, wanted: str | None) -> None:
    """Raise InputError where an existing pool has not the user-assigned managed identity that the settings name."""
    identities = [each.resource_id.lower() for each in (pool.identity and pool.identity.user_assigned_identities) or ()]
    if wanted and wanted.lower() not in identities:
        raise InputError(
            f"pool {pool.id!r} has not the managed identity {wanted}; it has {', '.join(identities) or 'none'}: name "
            "one of these, or add it to the pool in the Azure portal"
        )
