"""The environment of a command on a node: built from nothing, as on a fresh machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from local_azure.batch.service import Service
from local_azure.batch.store import Document

# The base interpreter's directory comes first, so that `python3` on a node is an interpreter of the version that the
# service runs on; never a virtual environment's, whose packages a node would not have.
_PATH = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base(service: Service, *, pool: str, node: Document, root: Path, directory: Path) -> dict[str, str]:
    """What every command gets. `pool` is the id as written, `directory` the task's, above its working directory."""
    working = str(directory / "wd")
    return {
        "PATH": _PATH,
        "HOME": working,
        "PWD": working,
        # As on Azure's Linux images, whose locale is C.UTF-8: text is UTF-8, sorting is by code point.
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "USER": "_azbatch",
        "LOGNAME": "_azbatch",
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


def of_job(root: Path, job: Document, task_id: str) -> dict[str, str]:
    """What a task of a job gets beside that."""
    variables = {"AZ_BATCH_JOB_ID": job["id"], "AZ_BATCH_TASK_ID": task_id}
    if preparation := job.get("jobPreparationTask"):
        directory = root / job_directory(job["id"]) / preparation["id"]
        variables["AZ_BATCH_JOB_PREP_DIR"] = str(directory)
        variables["AZ_BATCH_JOB_PREP_WORKING_DIR"] = str(directory / "wd")
    return variables


def settings(*lists: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """The environment settings of lists, of which later ones win."""
    return {item["name"]: item.get("value", "") for items in lists for item in items or ()}


def job_directory(job: str) -> Path:
    """Where a job's tasks have their directories, below the node's root. A scheduled job's id is <schedule>:job-<n>."""
    schedule, _, number = job.partition(":")
    return Path("workitems", schedule, number or "job-1")


def job_root(job: str) -> Path:
    """All that a job has below the node's root; a job schedule's jobs share the directory above."""
    return job_directory(job) if ":" in job else job_directory(job).parent


def _free_bytes(root: Path) -> int:
    free = os.statvfs(root)
    return free.f_bavail * free.f_frsize
