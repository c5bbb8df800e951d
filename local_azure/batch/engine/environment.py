"""The environment of a command on a node; nothing of the service's own is inherited."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from local_azure.batch.engine.service import Service
from local_azure.batch.node.containers import Containers
from local_azure.batch.state.access import Entra
from local_azure.batch.state.paths import make_private
from local_azure.batch.state.store import Document
from local_azure.loopback import trusting

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TRUSTED = "trusted.pem"  # the certificates that commands trust, below the node's root
_PYTHON = "python"  # the Python of all nodes, below the data directory
# Azure's Ubuntu images have python3 only. These hide programs of this machine, whose packages a node would not have.
_ABSENT = ("python", "pip", "pip3")
_NOT_FOUND = """#!/bin/sh
echo "${0##*/}: not found: Azure's Ubuntu images have python3 only, without pip" >&2
exit 127
"""


def make_python(data: Path) -> None:
    """Create the `python3` of all nodes: the service's interpreter with the standard library only.

    It is a virtual environment without packages, which also hides packages of the base interpreter and of the user's
    home, and does so for programs that a task starts by `sys.executable`.
    """
    directory, interpreter = data / _PYTHON, Path(getattr(sys, "_base_executable", None) or sys.executable)
    shutil.rmtree(directory, ignore_errors=True)  # of the previous service, which may have had another interpreter
    programs = directory / "bin"
    make_private(programs)
    for name in ("python3", f"python3.{sys.version_info.minor}"):
        (programs / name).symlink_to(interpreter)
    for name in _ABSENT:
        (programs / name).touch(mode=0o700)
        (programs / name).write_text(_NOT_FOUND)
    (directory / "pyvenv.cfg").touch(mode=0o600)
    (directory / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\ninclude-system-site-packages = false\n")


def base(service: Service, task: Document, *, pool: str, node: Document, root: Path, directory: Path) -> dict[str, str]:
    """The variables of a task's command. `pool` is the id as written, `directory` the parent of the working directory.

    In a container, the image sets those that are not Batch's own.
    """
    working = str(directory / "wd")
    in_container = task.get("containerSettings") and service.containers is Containers.ENGINE
    of_machine = {
        "PATH": f"{service.data / _PYTHON / 'bin'}:{_PATH}",
        "HOME": working,
        "PWD": working,
        # The locale of Azure's Linux images: text is UTF-8, sorting is by code point.
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "USER": "_azbatch",
        "LOGNAME": "_azbatch",
    }
    return {
        **({} if in_container else of_machine),
        **(_trust(service.trusted, root) if service.trusted else {}),
        **(_identity(service, service.entra) if service.entra and service.identities(pool) else {}),
        "AZ_BATCH_ACCOUNT_NAME": service.account.name,
        "AZ_BATCH_ACCOUNT_URL": service.endpoint + "/",
        "AZ_BATCH_CERTIFICATES_DIR": str(directory / "certs"),
        "AZ_BATCH_NODE_ID": node["id"],
        "AZ_BATCH_NODE_IS_DEDICATED": str(node["isDedicated"]).lower(),
        "AZ_BATCH_NODE_MOUNTS_DIR": str(root / "fsmounts"),
        "AZ_BATCH_NODE_ROOT_DIR": str(root),
        "AZ_BATCH_NODE_SHARED_DIR": str(root / "shared"),
        "AZ_BATCH_NODE_STARTUP_DIR": str(root / "startup"),
        "AZ_BATCH_NODE_STARTUP_WORKING_DIR": str(root / "startup" / "wd"),
        "AZ_BATCH_POOL_ID": pool,
        "AZ_BATCH_TASK_DIR": str(directory),
        "AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES": str(_free_bytes(root)),
        "AZ_BATCH_TASK_WORKING_DIR": working,
    }


def _identity(service: Service, entra: Entra) -> dict[str, str]:
    """The variables that stand for Azure's metadata service, whose address this machine cannot have."""
    return {"IDENTITY_ENDPOINT": service.identity_endpoint, "IDENTITY_HEADER": entra.header}


def _trust(trusted: Path, root: Path) -> dict[str, str]:
    """The variables by which a command trusts the services of this machine, as a node of Azure trusts Azure's.

    They name a copy in the node's directory, which containers have too.
    """
    copy = root / _TRUSTED
    if not copy.exists() or copy.stat().st_mtime_ns != trusted.stat().st_mtime_ns:
        make_private(root)
        shutil.copy2(trusted, copy)
    return trusting(str(copy))


def of_task(
    service: Service, task: Document, job: Document, *, pool: str, node: Document, root: Path, directory: Path
) -> dict[str, str]:
    """All variables of a task of a job; those that its client sets take precedence."""
    return {
        **base(service, task, pool=pool, node=node, root=root, directory=directory),
        **of_job(root, job, task["id"]),
        **settings(job.get("commonEnvironmentSettings"), task.get("environmentSettings")),
    }


def of_job(root: Path, job: Document, task_id: str) -> dict[str, str]:
    """The additional variables of a job's tasks."""
    variables = {"AZ_BATCH_JOB_ID": job["id"], "AZ_BATCH_TASK_ID": task_id}
    if preparation := job.get("jobPreparationTask"):
        directory = root / job_directory(job["id"]) / preparation["id"]
        variables["AZ_BATCH_JOB_PREP_DIR"] = str(directory)
        variables["AZ_BATCH_JOB_PREP_WORKING_DIR"] = str(directory / "wd")
    return variables


def settings(*lists: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """The environment settings of several lists; later ones take precedence."""
    return {item["name"]: item.get("value", "") for items in lists for item in items or ()}


def job_directory(job: str) -> Path:
    """The directory of a job's tasks, relative to the node's root. A scheduled job's id is <schedule>:job-<n>."""
    schedule, _, number = job.partition(":")
    return Path("workitems", schedule, number or "job-1")


def job_root(job: str) -> Path:
    """The directory that is removed with a job; the jobs of a job schedule share the directory above."""
    return job_directory(job) if ":" in job else job_directory(job).parent


def _free_bytes(root: Path) -> int:
    free = os.statvfs(root)
    return free.f_bavail * free.f_frsize
