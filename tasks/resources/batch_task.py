"""The Batch task of a group of input files, or of one: what its node fetches, runs and stores."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote

from azure.batch.models import (
    BatchNodeIdentityReference,
    BatchTaskConstraints,
    BatchTaskCreateOptions,
    EnvironmentSetting,
    OutputFile,
    OutputFileBlobContainerDestination,
    OutputFileDestination,
    OutputFileUploadCondition,
    OutputFileUploadConfiguration,
    ResourceFile,
)

from tasks.accounts.clients import Azure
from tasks.accounts.sas import Signer
from tasks.inputs.names import blob_name
from tasks.resources.container_image import need_python, task_settings
from tasks.run.destination import Destination
from tasks.run.groups import Group, as_ranges
from tasks.run.identity import Role, Run, UsedPool
from tasks.run.outcomes import STREAMS, log_blob
from tasks.run.previous_attempt import GROUP_DIGEST, GROUP_MEMBERS, INPUT_NAME, SAS_EXPIRES
from tasks.run.records import GROUPS, quoted
from tasks.run.scripts import FOR_GROUPS, FOR_IDENTITY, RUN_FILE
from tasks.run.settings import TimeLimits
from tasks.run.uploads import UploadedFile, Uploads

_LONGEST_NAME = 255  # bytes, of a file name on the nodes' file systems
_TOKENS = ("RECORD_SAS_TOKEN", "OUTPUT_SAS_TOKEN")  # of which there are none where nodes have an identity
_BUNDLE = "bundle"  # where a node puts it
_INLINE = 64 << 10  # bytes of an output that may stand in its record; outputs that are kept are blobs


@dataclass(frozen=True, kw_only=True)
class Work:
    """What each Batch task is to do with its input files.

    place_of: the folder of an input file's outputs, by the file's name.
    """

    limits: TimeLimits
    slots: int = 1  # that one task takes
    script: str  # its name on the nodes
    arguments: Sequence[str] = ()
    destination: Destination | None = None  # else the run's own output container
    place_of: Callable[[str], str] = blob_name
    files_per_task: int | None = None  # see groups.form
    isolate: bool = False  # a process for each file, also in a group


class BatchTasks:
    """Makes the Batch tasks of a run."""

    def __init__(self, azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work) -> None:
        self._pool = pool
        self._uploads = uploads
        self._work = work
        self._run = run
        self._container = task_settings(pool)
        self._identity = BatchNodeIdentityReference(resource_id=azure.node_identity) if azure.node_identity else None
        self._records = f"{azure.storage_account.endpoint}/{run.container(Role.OUTPUT)}"
        # One token for all tasks: Entra ID signs slowly.
        signer = Signer(azure, run.expires)
        self._destination = destination = work.destination or Destination.of(azure, run, "")
        self._record_token = signer.write_token(run.container(Role.OUTPUT))
        self._group_token = signer.write_token(run.container(Role.OUTPUT), read=True) if uploads.bundles else ""
        self._output_token = (
            signer.write_token(destination.container, destination.endpoint) if destination.kept else self._record_token
        )

    def make(self, group: Group[UploadedFile], members: Sequence[int], first_list: int = 0) -> BatchTaskCreateOptions:
        """The Batch task that processes files of the group.

        members: their places in the group. first_list: the number of the first list of records that it may write.
        """
        limits = self._work.limits
        minutes = limits.task_minutes
        if group.id in self._uploads.bundles:
            path, url = _BUNDLE, self._uploads.bundles[group.id].blob.sas_url
            own = self._group_environment(group, members, first_list)
            minutes = min(minutes * len(members) + 1, limits.run_minutes)
        else:
            (file,) = group.files
            path, url = _path_on_node(file), file.sas_url
            own = self._file_environment(file, path)
        values = {name: value for name, value in {**own, **self._environment()}.items() if value or name not in _TOKENS}
        return BatchTaskCreateOptions(
            id=group.id,
            command_line=self._command_line(),
            resource_files=[
                ResourceFile(http_url=url, file_path=path, identity_reference=self._identity),
                *self._brought(group),
            ],
            output_files=[self._kept(group.id, stream) for stream in STREAMS],
            environment_settings=[EnvironmentSetting(name=name, value=value) for name, value in values.items()],
            required_slots=self._work.slots,
            container_settings=self._container,
            constraints=BatchTaskConstraints(
                max_wall_clock_time=timedelta(minutes=minutes), max_task_retry_count=limits.task_retries
            ),
        )

    @property
    def _folder(self) -> str:
        """Where the application is: where the start task has put it, unless the Batch tasks bring it along."""
        return "application" if self._brings else '"$AZ_BATCH_NODE_SHARED_DIR"'

    @property
    def _brings(self) -> bool:
        return not self._pool.own or self._pool.outdated

    def _brought(self, group: Group[UploadedFile]) -> list[ResourceFile]:
        if not self._brings:
            return []
        left_out = {
            *(() if group.id in self._uploads.bundles else FOR_GROUPS),
            *(() if self._identity else FOR_IDENTITY),
        }
        return [
            ResourceFile(
                http_url=file.sas_url,
                file_path=f"{self._folder}/{file.name}",
                file_mode="0755",
                identity_reference=self._identity,
            )
            for file in self._uploads.application
            if file.name not in left_out
        ]

    def _command_line(self) -> str:
        """The same for every Batch task: its file comes in through the environment, so no name needs quoting."""
        script = f"{self._folder}/{self._work.script}"
        command = f"exec python3 {self._folder}/{RUN_FILE} {script} {shlex.join(self._work.arguments)}"
        if image := self._pool.container_image:
            command = f"{need_python(image)}; {command}"
        return f"/bin/sh -c {shlex.quote(command.rstrip())}"

    # What run_file.py is given. Not on its command line, which far more people can read.

    def _file_environment(self, file: UploadedFile, path: str) -> dict[str, str]:
        known = {"INPUT_ETAG": file.etag} if file.etag else {}
        return {
            **known,
            "INPUT_FILE": path,
            INPUT_NAME: quoted(file.name),
            "INPUT_SIZE": f"{file.size}",
            "INPUT_MD5": file.md5,
            "OUTPUT_PREFIX": self._destination.folder(self._work.place_of(file.name)),
            "RECORD_URL": f"{self._records}/{quote(file.record)}",
            "RECORD_SAS_TOKEN": self._record_token,
        }

    def _group_environment(self, group: Group[UploadedFile], members: Sequence[int], first_list: int) -> dict[str, str]:
        values = {
            "GROUP_FILE": _BUNDLE,
            GROUP_DIGEST: self._uploads.bundles[group.id].digest,
            GROUP_MEMBERS: as_ranges(members),
            "FILE_SECONDS": f"{self._work.limits.task_minutes * 60}",
            "RECORD_URL": f"{self._records}/{GROUPS}/{group.id}",
            "RECORD_SAS_TOKEN": self._group_token,
            "RECORDS_FROM": f"{first_list}",
        }
        return {**values, "ISOLATE": "1"} if self._work.isolate else values

    def _environment(self) -> dict[str, str]:
        return {
            "OUTPUT_URL": self._destination.url,
            "OUTPUT_SAS_TOKEN": self._output_token,
            "OUTPUT_INLINE": f"{0 if self._destination.kept else _INLINE}",
            SAS_EXPIRES: self._run.expires.isoformat(),
            **({"NODE_IDENTITY": self._identity.resource_id or ""} if self._identity else {}),
            "TASKS_PER_NODE": f"{max(1, self._pool.slots_per_node // self._work.slots)}",  # which share its cores
        }

    def _kept(self, task_id: str, stream: str) -> OutputFile:
        """What the task writes to stdout or stderr, as a blob: a node can be gone before anybody looks."""
        container = f"{self._records}?{self._record_token}" if self._record_token else self._records
        return OutputFile(
            file_pattern=f"../{stream}",
            destination=OutputFileDestination(
                container=OutputFileBlobContainerDestination(
                    container_url=container, path=log_blob(task_id, stream), identity_reference=self._identity
                )
            ),
            upload_options=OutputFileUploadConfiguration(upload_condition=OutputFileUploadCondition.TASK_COMPLETION),
        )


def _path_on_node(file: UploadedFile) -> str:
    """Where the node puts the file; run_file.py then gives it its own name, if that differs."""
    name = blob_name(file.name.rpartition("/")[2] or "input")
    return f"input/{name if len(name.encode()) <= _LONGEST_NAME else 'input'}"
