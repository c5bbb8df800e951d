"""Containers in specifications of pools and tasks: what is valid, and what this machine can do."""

from __future__ import annotations

import shlex

from local_azure.batch.engine.images import DOCKER, IMAGES, runs_containers
from local_azure.batch.node.containers import NoEngine, find_engine
from local_azure.batch.state.errors import BatchError, Code, invalid_property, not_implemented
from local_azure.batch.state.store import Document

_SIGN_IN = "sign in to the registry with `docker login` or `podman login` on this machine, and leave it out"


def check_machine(machine: Document) -> None:
    """Check a pool's containerConfiguration. Raises BatchError."""
    configuration = machine.get("containerConfiguration")
    if not configuration:
        return
    path = "virtualMachineConfiguration.containerConfiguration"
    if configuration["type"].lower() != "dockercompatible":
        raise not_implemented(f"The type {configuration['type']} of {path}")
    if configuration.get("containerRegistries"):
        raise not_implemented(f"The property {path}.containerRegistries", _SIGN_IN)
    if not runs_containers(machine["imageReference"]):
        able = ", ".join("/".join(image.name) for image in IMAGES if DOCKER in image.capabilities)
        reason = f"the image has not the capability {DOCKER}; use {able}"
        raise invalid_property(path, configuration["type"], reason)
    _require_engine(path)


def check_task(settings: Document | None, path: str) -> None:
    """Check the containerSettings of a task; `path` is the task's in the body, ending in a dot. Raises BatchError."""
    if not settings:
        return
    path += "containerSettings"
    if settings.get("registry"):
        raise not_implemented(f"The property {path}.registry", _SIGN_IN)
    if not settings["imageName"].strip() or settings["imageName"].startswith("-"):
        raise invalid_property(f"{path}.imageName", settings["imageName"], "it is not the name of an image")
    try:
        shlex.split(settings.get("containerRunOptions", ""))
    except ValueError as error:
        reason = f"it cannot be parsed: {error}"
        raise invalid_property(f"{path}.containerRunOptions", settings["containerRunOptions"], reason) from None
    _require_engine(path)


def check_pool_of_task(task: Document, pool: Document | None) -> None:
    """Refuse a container on a pool that was not made for containers; None: there is no such pool yet."""
    if (
        task.get("containerSettings")
        and pool
        and not pool.get("virtualMachineConfiguration", {}).get("containerConfiguration")
    ):
        reason = "the pool of the job has no containerConfiguration"
        raise invalid_property("containerSettings", task["containerSettings"]["imageName"], reason)


def _require_engine(path: str) -> None:
    try:
        find_engine()
    except NoEngine as error:
        raise BatchError(Code.NotImplemented, f"The property {path}: {error}.", What=f"The property {path}") from None
