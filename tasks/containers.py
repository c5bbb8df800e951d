"""Steps 1 and 8: the application, input and output containers."""

from __future__ import annotations

from functools import partial

from azure.storage.blob import ContainerClient
from prefect.logging import get_run_logger

from tasks.azure import Azure
from tasks.ownership import make, remove
from tasks.settings import Disposal, Role, Run
from tasks.steps import step


@step("1 create containers")
def create_containers(azure: Azure, run: Run) -> None:
    """Create the run's three containers, or adopt those that an earlier try of this run created."""
    logger = get_run_logger()
    with azure.blobs() as blobs:
        for role in Role:
            name = run.container(role)
            container = blobs.get_container_client(name)
            created = make(
                run,
                f"container {name}",
                partial(container.create_container, metadata=run.tags),
                partial(_tags, container),
                exists="ContainerAlreadyExists",
            )
            logger.info("Container %s %s", run.container(role), "created" if created else "is there already")


@step("8 delete containers")
def delete_containers(azure: Azure, run: Run, disposal: Disposal) -> None:
    """Delete the run's containers with all their blobs; one that is gone, or not this run's, is left alone."""
    logger = get_run_logger()
    if disposal is Disposal.KEEP:
        logger.info("Containers kept: %s", ", ".join(run.container(role) for role in Role))
        return
    with azure.blobs() as blobs:
        for role in Role:
            container = blobs.get_container_client(run.container(role))
            deleted = remove(run, container.delete_container, partial(_tags, container), going="ContainerBeingDeleted")
            logger.info(
                "Container %s %s",
                run.container(role),
                "deleted" if deleted else "is not there, or not this run's",
            )


def _tags(container: ContainerClient) -> dict[str, str]:
    return container.get_container_properties().metadata or {}
