"""Steps 1 and 8: the application, input and output containers."""

from __future__ import annotations

from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.errors.service import SERVICE_FAILURES, ServiceError
from tasks.resources.container import Container
from tasks.resources.ownership import Ending, create_or_adopt, dispose
from tasks.run.identity import Role, Run
from tasks.run.settings import Disposal
from tasks.step import RETRIES_OF_DELETES, step


@step("1 create containers")
def create_containers(azure: Azure, run: Run, disposal: Disposal = Disposal.DELETE) -> None:
    """Create the run's three containers, or adopt those that a previous attempt of this run created."""
    with azure.blobs() as blobs:
        for role in Role:
            container = Container(blobs, run, role, disposal)
            created = create_or_adopt(run, container)
            get_run_logger().info("%s: %s", container.title, "created" if created else "already exists, reusing it")


@step("8 delete containers", retries=RETRIES_OF_DELETES)
def delete_containers(azure: Azure, run: Run, disposal: Disposal, held: bool | None = False) -> None:
    """Delete the run's containers with all their blobs; one that is gone, or not this run's, is left alone.

    An error with one does not stop the others. Where outputs in them are nowhere else, they stay until they expire,
    and a retry of the run reuses them: with `held`, or with None as a previous attempt has tagged them.
    """
    logger = get_run_logger()
    problems: list[ServiceError] = []
    with azure.blobs() as blobs:
        for role in Role:
            container = Container(blobs, run, role, disposal)
            try:
                ending = dispose(run, container, disposal, held=held)
                until = f" ({run.expires_text})" if ending is Ending.HELD else ""
                logger.info("%s: %s%s", container.title, ending.value, until)
            except SERVICE_FAILURES as error:
                problems.append(ServiceError.of(error))
    if problems:
        raise min(problems, key=lambda problem: not problem.transient)  # one that is worth another try, if any is
