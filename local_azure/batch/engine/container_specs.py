"""Containers in specifications of pools and tasks: what is valid, and what of it this machine can run."""

from __future__ import annotations

import shlex

from local_azure.batch.engine.images import DOCKER, IMAGES, runs_containers
from local_azure.batch.node.containers import SIGN_IN, Containers, NoEngine, find_engine
from local_azure.batch.state.errors import invalid_property
from local_azure.batch.state.store import Document

_DOCKER = "dockerCompatible"  # the type of engines that are used here


def check_machine(machine: Document) -> None:
    """Check a pool's containerConfiguration. Raises BatchError."""
    configuration = machine.get("containerConfiguration")
    if not configuration:
        return
    path = "virtualMachineConfiguration.containerConfiguration"
    if configuration["type"] == _DOCKER and not runs_containers(machine["imageReference"]):
        able = ", ".join("/".join(image.name) for image in IMAGES if DOCKER in image.capabilities)
        reason = f"the image has not the capability {DOCKER}; use {able}"
        raise invalid_property(path, configuration["type"], reason)


def check_task(settings: Document | None, path: str) -> None:
    """Check the containerSettings of a task; `path` is the task's in the body, ending in a dot. Raises BatchError.

    The password of a registry is removed, since passwords are not stored.
    """
    if not settings:
        return
    path += "containerSettings"
    settings.get("registry", {}).pop("password", None)
    if not settings["imageName"].strip() or settings["imageName"].startswith("-"):
        raise invalid_property(f"{path}.imageName", settings["imageName"], "it is not the name of an image")
    try:
        shlex.split(settings.get("containerRunOptions", ""))
    except ValueError as error:
        reason = f"it cannot be parsed: {error}"
        raise invalid_property(f"{path}.containerRunOptions", settings["containerRunOptions"], reason) from None


def check_pool_of_task(task: Document, pool: Document | None) -> None:
    """Refuse a container on a pool that was not made for containers; None: there is no such pool yet."""
    if (
        task.get("containerSettings")
        and pool
        and not pool.get("virtualMachineConfiguration", {}).get("containerConfiguration")
    ):
        reason = "the pool of the job has no containerConfiguration"
        raise invalid_property("containerSettings", task["containerSettings"]["imageName"], reason)


def why_unavailable(configuration: Document, mode: Containers) -> str:
    """Why this machine has no nodes with this containerConfiguration; empty if it has."""
    if mode is Containers.HOST:
        return ""
    if configuration["type"] != _DOCKER:
        return f"no engine of this machine is {configuration['type']}"
    if configuration.get("containerRegistries"):
        return f"containerRegistries: {SIGN_IN}"
    try:
        find_engine()
    except NoEngine as error:
        return str(error)
    return ""
