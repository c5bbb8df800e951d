"""Files between tasks and Blob Storage, which is a real Azurite."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient, generate_container_sas
from conftest import create_job, create_pool, run_task, shell, stdout, task


class Container:
    def __init__(self, connection_string: str) -> None:
        self.client = ContainerClient.from_connection_string(connection_string, f"c{uuid.uuid4().hex}")
        self.client.create_container()

    def url(self, permission: str) -> str:
        expiry = datetime.now(timezone.utc) + timedelta(hours=1)
        credential = self.client.credential
        token = generate_container_sas(
            credential.account_name,
            self.client.container_name,
            account_key=credential.account_key,
            permission=permission,
            expiry=expiry,
        )
        return f"{self.client.url}?{token}"

    def names(self) -> list[str]:
        return sorted(blob.name for blob in self.client.list_blobs())

    def read(self, name: str) -> bytes:
        return self.client.download_blob(name).readall()


@pytest.fixture
def container(azure_settings):
    return Container(azure_settings["AZURE_STORAGE_CONNECTION_STRING"])


@pytest.fixture
def ready(client):
    create_pool(client)
    create_job(client)
    return client


def output(container: Container, pattern: str, path: str | None, condition: str, permission: str = "w") -> m.OutputFile:
    destination = m.OutputFileBlobContainerDestination(container_url=container.url(permission), path=path)
    return m.OutputFile(
        file_pattern=pattern,
        destination=m.OutputFileDestination(container=destination),
        upload_options=m.OutputFileUploadConfiguration(upload_condition=condition),
    )


def test_blobs_of_a_container_become_files_of_the_task(ready, container):
    for name in ("in/a.txt", "in/deep/b.txt", "other.txt"):
        container.client.upload_blob(name, name.encode())
    files = [m.ResourceFile(storage_container_url=container.url("rl"), blob_prefix="in/", file_path="got")]
    run_task(ready, shell("find . -type f | sort; cat got/in/deep/b.txt"), resource_files=files)
    assert stdout(ready) == "./got/in/a.txt\n./got/in/deep/b.txt\nin/deep/b.txt"


@pytest.mark.parametrize(
    ("code", "uploaded"), [(0, ["always/stdout.txt", "good.txt"]), (1, ["always/stdout.txt", "bad.txt"])]
)
def test_output_files_are_uploaded_as_their_conditions_say(ready, container, code, uploaded):
    outputs = [
        output(container, "result.txt", "good.txt", "tasksuccess"),
        output(container, "result.txt", "bad.txt", "taskfailure"),
        output(container, "../std*out.txt", "always", "taskcompletion"),
    ]
    run_task(ready, shell(f"echo result > result.txt; echo out; exit {code}"), output_files=outputs)
    assert container.names() == uploaded
    assert container.read("always/stdout.txt") == b"out\n"


def test_task_whose_output_cannot_be_uploaded_has_failed(ready, container):
    outputs = [output(container, "result.txt", "r.txt", "tasksuccess", permission="r")]
    done = run_task(ready, shell("echo x > result.txt"), output_files=outputs)
    assert (done.execution_info.exit_code, done.execution_info.result) == (0, "failure")
    assert done.execution_info.failure_info.code == "FileUploadAccessDenied"
    assert done.execution_info.retry_count == 0


def test_signatures_are_in_no_log_and_no_failure(ready, container, caplog, service):
    caplog.set_level("DEBUG", "local_azure")
    url = container.url("r")
    files = [m.ResourceFile(http_url=url.replace("?", "/absent?"), file_path="absent")]
    done = run_task(ready, "/bin/true", resource_files=files)
    assert done.execution_info.failure_info.code == "BlobNotFound"
    signature = url.split("sig=")[1].split("&")[0]
    assert signature not in str(done.execution_info.failure_info.as_dict())
    assert signature not in caplog.text
    assert service.account.key not in caplog.text


def test_auto_storage_is_refused_by_name(ready):
    files = [m.ResourceFile(auto_storage_container_name="inputs")]
    with pytest.raises(HttpResponseError) as refusal:
        ready.create_task("job", task(resource_files=files))
    assert (refusal.value.status_code, refusal.value.error.code) == (501, "NotImplemented")
    assert "autoStorageContainerName" in refusal.value.error.message
