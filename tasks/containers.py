"""Steps 1 and 8: the application, input and output containers."""

from __future__ import annotations

from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.errors import SERVICE_FAILURES, ServiceError
from tasks.resources.base import keep, make, remove
from tasks.resources.container import Container, hold
from tasks.run.identity import Role, Run
from tasks.run.settings import Disposal
from tasks.step import RETRIES_OF_DELETES, step


@step("1 create containers")
def create_containers(azure: Azure, run: Run, disposal: Disposal = Disposal.DELETE) -> None:
    """Create the run's three containers, or adopt those that an earlier try of this run created."""
    with azure.blobs() as blobs:
        for role in Role:
            created = make(run, Container(blobs, run, role, disposal))
            get_run_logger().info("Container %s %s", run.container(role), "created" if created else "is there already")


@step("8 delete containers", retries=RETRIES_OF_DELETES)
def delete_containers(azure: Azure, run: Run, disposal: Disposal, held: bool | None = False) -> None:
    """Delete the run's containers with all their blobs; one that is gone, or not this run's, is left alone.

    One that cannot be deleted keeps no other from it. Where outputs in them are nowhere else, they stay until they
    expire, and a retry of the run reuses them: with `held`, or with None as a previous attempt has tagged them.
    """
    logger = get_run_logger()
    problems: list[ServiceError] = []
    with azure.blobs() as blobs:
        for role in Role:
            container = Container(blobs, run, role, disposal)
            try:
                if disposal is Disposal.KEEP:
                    done = "kept" if keep(run, container) else "is not there"
                elif held or (held is None and container.is_held()):
                    done = (
                        f"stays until {run.expires_text}" if hold(run, container) else "is not there, or not this run's"
                    )
                else:
                    done = "deleted" if remove(run, container) else "is not there, or not this run's"
                logger.info("Container %s %s", run.container(role), done)
            except SERVICE_FAILURES as error:
                problems.append(ServiceError.of(error))
    if problems:
        raise min(problems, key=lambda problem: not problem.transient)  # one that is worth another try, if any is
