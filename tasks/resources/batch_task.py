"""The Batch task of one input file: what its node fetches, runs and stores."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote

from azure.batch.models import (
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
from tasks.run.identity import Role, Run, UsedPool
from tasks.run.outcomes import STREAMS, log_blob
from tasks.run.previous_attempt import INPUT_NAME, SAS_EXPIRES
from tasks.run.records import quoted
from tasks.run.scripts import RUN_FILE
from tasks.run.settings import TimeLimits
from tasks.run.uploads import UploadedFile, Uploads

_LONGEST_NAME = 255  # bytes, of a file name on the nodes' file systems


@dataclass(frozen=True, kw_only=True)
class Work:
    """What each Batch task is to do with its input file.

    place_of: the folder of an input file's outputs, by the file's name.
    """

    limits: TimeLimits
    slots: int = 1  # that one task takes
    script: str  # its name on the nodes
    arguments: Sequence[str] = ()
    destination: Destination | None = None  # else the run's own output container
    place_of: Callable[[str], str] = blob_name


class BatchTasks:
    """Makes the Batch tasks of a run."""

    def __init__(self, azure: Azure, run: Run, pool: UsedPool, uploads: Uploads, work: Work) -> None:
        self._pool = pool
        self._uploads = uploads
        self._work = work
        self._run = run
        self._container = task_settings(pool)
        self._records = f"{azure.storage_account.endpoint}/{run.container(Role.OUTPUT)}"
        # One token for all tasks: Entra ID signs slowly.
        signer = Signer(azure, run.expires)
        self._destination = destination = work.destination or Destination.of(azure, run, "")
        self._record_token = signer.write_token(run.container(Role.OUTPUT))
        self._output_token = (
            signer.write_token(destination.container, destination.endpoint) if destination.kept else self._record_token
        )

    def make(self, file: UploadedFile) -> BatchTaskCreateOptions:
        """The Batch task that processes the file."""
        path = _path_on_node(file)
        limits = self._work.limits
        return BatchTaskCreateOptions(
            id=file.task_id,
            command_line=self._command_line(),
            resource_files=[ResourceFile(http_url=file.sas_url, file_path=path), *self._brought()],
            output_files=[self._kept(file.task_id, stream) for stream in STREAMS],
            environment_settings=self._environment(file, path),
            required_slots=self._work.slots,
            container_settings=self._container,
            constraints=BatchTaskConstraints(
                max_wall_clock_time=timedelta(minutes=limits.task_minutes), max_task_retry_count=limits.task_retries
            ),
        )

    @property
    def _folder(self) -> str:
        """Where the application is: where the start task has put it, unless the Batch tasks bring it along."""
        return "application" if self._brings else '"$AZ_BATCH_NODE_SHARED_DIR"'

    @property
    def _brings(self) -> bool:
        return not self._pool.own or self._pool.outdated

    def _brought(self) -> list[ResourceFile]:
        if not self._brings:
            return []
        return [
            ResourceFile(http_url=file.sas_url, file_path=f"{self._folder}/{file.name}", file_mode="0755")
            for file in self._uploads.application
        ]

    def _command_line(self) -> str:
        """The same for every Batch task: its file comes in through the environment, so no name needs quoting."""
        script = f"{self._folder}/{self._work.script}"
        command = f"exec python3 {self._folder}/{RUN_FILE} {script} {shlex.join(self._work.arguments)}"
        if image := self._pool.container_image:
            command = f"{need_python(image)}; {command}"
        return f"/bin/sh -c {shlex.quote(command.rstrip())}"

    def _environment(self, file: UploadedFile, path: str) -> list[EnvironmentSetting]:
        """What run_file.py is given. Not on its command line, which far more people can read."""
        destination = self._destination
        values = {
            "INPUT_FILE": path,
            INPUT_NAME: quoted(file.name),
            "INPUT_SIZE": f"{file.size}",
            "INPUT_MD5": file.md5,
            "OUTPUT_URL": destination.url,
            "OUTPUT_PREFIX": destination.folder(self._work.place_of(file.name)),
            "OUTPUT_SAS_TOKEN": self._output_token,
            "RECORD_URL": f"{self._records}/{quote(file.record)}",
            "RECORD_SAS_TOKEN": self._record_token,
            SAS_EXPIRES: self._run.expires.isoformat(),
            "TASKS_PER_NODE": f"{max(1, self._pool.slots_per_node // self._work.slots)}",  # which share its cores
        }
        return [EnvironmentSetting(name=name, value=value) for name, value in values.items()]

    def _kept(self, task_id: str, stream: str) -> OutputFile:
        """What the task writes to stdout or stderr, as a blob: a node can be gone before anybody looks."""
        container = f"{self._records}?{self._record_token}"
        return OutputFile(
            file_pattern=f"../{stream}",
            destination=OutputFileDestination(
                container=OutputFileBlobContainerDestination(container_url=container, path=log_blob(task_id, stream))
            ),
            upload_options=OutputFileUploadConfiguration(upload_condition=OutputFileUploadCondition.TASK_COMPLETION),
        )


def _path_on_node(file: UploadedFile) -> str:
    """Where the node puts the file; run_file.py then gives it its own name, if that differs."""
    name = blob_name(file.name.rpartition("/")[2] or "input")
    return f"input/{name if len(name.encode()) <= _LONGEST_NAME else 'input'}"
