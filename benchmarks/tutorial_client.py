"""The client of the classic Azure Batch tutorial for Python, on today's SDKs: one request after the other.

The steps and their order are the tutorial's, and so is what it leaves out: it neither retries nor checks exit codes,
and deletes nothing after an error. Differences: its fixed names carry a suffix here, so that it can run again at once;
the node script needs no package, so the start task installs none; the Batch task's output file uploads the list.
"""

from __future__ import annotations

import os
import shlex
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.storage.blob import (
    BlobSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    generate_blob_sas,
    generate_container_sas,
)

from benchmarks.turn import NUM_WORDS, Done, Work, take_turn

TASK_SCRIPT = Path(__file__).with_name("tutorial_task.py")
TASKS_PER_CALL = 100
POLL = 1.0  # seconds
MACHINE = m.VirtualMachineConfiguration(
    image_reference=m.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server"),
    node_agent_sku_id="batch.node.ubuntu 24.04",
)


class TutorialClient:
    """The clients of both services, and the names of one run."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        credential = AzureNamedKeyCredential(settings["AZURE_BATCH_ACCOUNT"], settings["AZURE_BATCH_ACCESS_KEY"])
        self._batch = BatchClient(settings["AZURE_BATCH_ENDPOINT"], credential)
        self._blobs = BlobServiceClient.from_connection_string(settings["AZURE_STORAGE_CONNECTION_STRING"])
        self._suffix = uuid.uuid4().hex[:8]
        self._expiry = datetime.now(timezone.utc) + timedelta(hours=12)

    def run(self, files: Sequence[Path], results: Path, *, nodes: int, slots: int, num_words: int) -> float:
        """Process the files, whose names differ; returns the sum of the seconds that the Batch tasks took."""
        containers = [self._name(role) for role in ("application", "input", "output")]
        for container in containers:
            self._blobs.create_container(container)
        script = self._upload(containers[0], TASK_SCRIPT)
        inputs = [self._upload(containers[1], file) for file in files]
        self._create_pool(script, nodes, slots)
        self._batch.create_job(m.BatchJobCreateOptions(id=self._job, pool_info=m.BatchPoolInfo(pool_id=self._pool)))
        self._add_tasks(inputs, self._output_url(containers[2]), num_words)
        seconds = self._wait()
        self._download(containers[2], results)
        for container in containers:
            self._blobs.delete_container(container)
        self._batch.begin_delete_job(self._job)
        self._batch.begin_delete_pool(self._pool)
        return seconds

    def _name(self, what: str) -> str:
        return f"tutorial-{what}-{self._suffix}"

    @property
    def _pool(self) -> str:
        return self._name("pool")

    @property
    def _job(self) -> str:
        return self._name("job")

    def _upload(self, container: str, file: Path) -> m.ResourceFile:
        blob = self._blobs.get_blob_client(container, file.name)
        with file.open("rb") as data:
            blob.upload_blob(data, overwrite=True)
        permission = BlobSasPermissions(read=True)
        token = generate_blob_sas(
            self._account, container, file.name, account_key=self._key, permission=permission, expiry=self._expiry
        )
        return m.ResourceFile(http_url=f"{blob.url}?{token}", file_path=file.name)

    def _output_url(self, container: str) -> str:
        permission = ContainerSasPermissions(create=True, write=True)
        token = generate_container_sas(
            self._account, container, account_key=self._key, permission=permission, expiry=self._expiry
        )
        return f"{self._blobs.get_container_client(container).url}?{token}"

    @property
    def _account(self) -> str:
        return str(self._blobs.account_name)

    @property
    def _key(self) -> str:
        return str(self._blobs.credential.account_key)

    def _create_pool(self, script: m.ResourceFile, nodes: int, slots: int) -> None:
        start_task = m.BatchStartTask(
            command_line=f"/bin/bash -c 'cp -p {script.file_path} $AZ_BATCH_NODE_SHARED_DIR'",
            resource_files=[script],
            wait_for_success=True,
        )
        pool = m.BatchPoolCreateOptions(
            id=self._pool,
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=MACHINE,
            target_dedicated_nodes=nodes,
            task_slots_per_node=slots,
            start_task=start_task,
        )
        self._batch.create_pool(pool)

    def _add_tasks(self, inputs: Sequence[m.ResourceFile], output_url: str, num_words: int) -> None:
        tasks = [self._task(number, file, output_url, num_words) for number, file in enumerate(inputs)]
        for start in range(0, len(tasks), TASKS_PER_CALL):
            group = m.BatchTaskGroup(task_values=tasks[start : start + TASKS_PER_CALL])
            self._batch.create_task_collection(self._job, group)

    def _task(self, number: int, file: m.ResourceFile, output_url: str, num_words: int) -> m.BatchTaskCreateOptions:
        path = Path(file.file_path or "")
        script = f"$AZ_BATCH_NODE_SHARED_DIR/{TASK_SCRIPT.name}"
        command = f"python3 {script} --filepath {shlex.quote(path.name)} --numwords {num_words}"
        container = m.OutputFileBlobContainerDestination(
            container_url=output_url, path=f"{path.stem}_OUTPUT{path.suffix}"
        )
        output = m.OutputFile(
            file_pattern="../stdout.txt",
            destination=m.OutputFileDestination(container=container),
            upload_options=m.OutputFileUploadConfiguration(upload_condition=m.OutputFileUploadCondition.TASK_SUCCESS),
        )
        return m.BatchTaskCreateOptions(
            id=f"topNtask{number}",
            command_line=f"/bin/bash -c {shlex.quote(f'set -e; set -o pipefail; {command}; wait')}",
            resource_files=[file],
            output_files=[output],
        )

    def _wait(self) -> float:
        while True:
            tasks = list(self._batch.list_tasks(self._job))
            if all(task.state == m.BatchTaskState.COMPLETED for task in tasks):
                return task_seconds(tasks)
            time.sleep(POLL)

    def _download(self, container: str, results: Path) -> None:
        client = self._blobs.get_container_client(container)
        for blob in client.list_blobs():
            with (results / blob.name).open("wb") as file:
                client.download_blob(blob.name).readinto(file)


def task_seconds(tasks: Iterable[m.BatchTask]) -> float:
    """The sum of the seconds that the tasks ran on their nodes, with their inputs and outputs."""
    runs = [task.execution_info for task in tasks]
    return sum(
        (run.end_time - run.start_time).total_seconds() for run in runs if run and run.start_time and run.end_time
    )


def run(work: Work) -> Done:
    outputs = work.results / "outputs"
    outputs.mkdir()
    client = TutorialClient(os.environ)
    seconds = client.run(
        sorted(work.inputs.iterdir()), outputs, nodes=work.nodes, slots=work.slots, num_words=NUM_WORDS
    )
    lists = [file.read_text(encoding="utf-8").splitlines() for file in outputs.iterdir()]
    words = sum(int(line.split(":\t")[1]) for lines in lists for line in lines)
    return Done(lists=sum(map(bool, lists)), words=words, node_seconds=seconds)


if __name__ == "__main__":
    take_turn(run)
