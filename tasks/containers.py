"""Steps 1 and 8: the application, input and output containers."""

from __future__ import annotations

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient
from prefect.logging import get_run_logger

from tasks.azure import Azure
from tasks.errors import ConflictError, error_code
from tasks.settings import Disposal, Role, Run
from tasks.steps import step


@step("1 create containers")
def create_containers(azure: Azure, run: Run) -> None:
    """Create the run's three containers, or adopt those that an earlier try of this run created."""
    logger = get_run_logger()
    with azure.blobs() as blobs:
        for role in Role:
            created = _make_container(blobs, run, run.container(role))
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
            deleted = _remove_container(blobs, run, run.container(role))
            logger.info(
                "Container %s %s",
                run.container(role),
                "deleted" if deleted else "is not there, or not this run's",
            )


def _make_container(blobs: BlobServiceClient, run: Run, name: str) -> bool:
    try:
        blobs.create_container(name, metadata=run.tags)
        return True
    except ResourceExistsError as error:
        if error_code(error) != "ContainerAlreadyExists":  # such as ContainerBeingDeleted, which passes
            raise
    if not run.owns(blobs.get_container_client(name).get_container_properties().metadata):
        raise ConflictError(f"container {name} exists and was not created by this run; delete it or run again")
    return False


def _remove_container(blobs: BlobServiceClient, run: Run, name: str) -> bool:
    container = blobs.get_container_client(name)
    try:
        if not run.owns(container.get_container_properties().metadata):
            return False
        container.delete_container()
    except ResourceNotFoundError:
        return False
    except ResourceExistsError as error:
        if error_code(error) != "ContainerBeingDeleted":
            raise
    return True
