"""Files between tasks and Blob Storage, which is a real Azurite."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient, generate_container_sas

from local_azure.batch.http.server import AutoStorage
from tests.support.batch_service import (
    create_job,
    create_pool,
    pool_options,
    run_task,
    shell,
    stdout,
    task,
    wait_for_task,
)


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


@pytest.mark.parametrize(
    ("killed_at", "loss"), [(None, []), (datetime(2026, 3, 6, tzinfo=timezone.utc), ["2026-03-06 00:00:00 UTC"])]
)
def test_missing_blob_of_a_killed_storage_has_the_detail_data_loss(service, container, killed_at, loss):
    link(service, container, killed_at=killed_at)
    client = service.client()
    create_pool(client)
    create_job(client)
    url = container.url("rw")
    container.client.delete_container()
    absent = m.ResourceFile(http_url=url.replace("?", "/absent?"), file_path="absent")
    lost_in = run_task(client, "/bin/true", "in", resource_files=[absent]).execution_info.failure_info
    files = [output(container, "../stdout.txt", None, "taskcompletion")]
    lost_out = run_task(client, "/bin/true", "out", output_files=files).execution_info.failure_info
    assert (lost_in.code, lost_out.code) == ("BlobNotFound", "FileUploadContainerNotFound")
    for failure in (lost_in, lost_out):
        assert [str(item.value)[:23] for item in failure.details if item.name == "DataLoss"] == loss


@pytest.fixture
def linked(service, container):
    """A client of a service whose account has a linked storage account, with a job on a pool."""
    link(service, container)
    client = service.client()
    create_pool(client)
    create_job(client)
    return client


def link(service, container: Container, **options: Any) -> None:
    credential = container.client.credential
    endpoint = container.client.url.removesuffix(f"/{container.client.container_name}")
    service.stop()
    service.auto_storage = AutoStorage(
        account=credential.account_name, blob_endpoint=endpoint, key=credential.account_key, **options
    )
    service.start()


def auto(container: Container, **options: Any) -> list[m.ResourceFile]:
    return [m.ResourceFile(auto_storage_container_name=container.client.container_name, **options)]


def test_container_of_the_linked_account_needs_no_signature(linked, container):
    for name in ("in/a.txt", "in/deep/b.txt", "other.txt"):
        container.client.upload_blob(name, name.encode())
    run_task(
        linked,
        shell("find . -type f | sort; cat got/in/deep/b.txt"),
        resource_files=auto(container, blob_prefix="in/", file_path="got"),
    )
    assert stdout(linked) == "./got/in/a.txt\n./got/in/deep/b.txt\nin/deep/b.txt"


def test_start_and_preparation_tasks_use_the_linked_account(service, container):
    link(service, container)
    client = service.client()
    container.client.upload_blob("tool", b"sharp")
    start = m.BatchStartTask(command_line="/bin/cat tool", resource_files=auto(container))
    (node,) = create_pool(client, start_task=start)
    assert b"".join(client.download_node_file("pool", node.id, "startup/stdout.txt")) == b"sharp"
    preparation = m.BatchJobPreparationTask(command_line="/bin/cat tool", resource_files=auto(container))
    create_job(client, job_preparation_task=preparation)
    run_task(client, shell('cat "$AZ_BATCH_JOB_PREP_WORKING_DIR/tool"'))
    assert stdout(client) == "sharp"


def test_missing_container_of_the_linked_account_fails_the_task(linked):
    done = run_task(linked, "/bin/true", resource_files=[m.ResourceFile(auto_storage_container_name="nowhere")])
    failure = done.execution_info.failure_info
    assert (failure.category, failure.code) == ("UserError", "BlobNotFound")
    assert done.execution_info.exit_code is None


def test_key_of_the_linked_account_stays_in_the_service(linked, container, service, caplog):
    caplog.set_level("INFO")
    caplog.set_level("DEBUG", "local_azure")
    container.client.upload_blob("file", b"content")
    script = shell("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; env")
    done = run_task(linked, script, resource_files=auto(container))
    missing = run_task(linked, "/bin/true", "other", resource_files=[m.ResourceFile(auto_storage_container_name="abc")])
    key = container.client.credential.account_key
    state = b"".join(path.read_bytes() for path in service.data.rglob("*") if path.is_file())
    for text in (stdout(linked), str(done.as_dict()), str(missing.as_dict()), caplog.text, repr(service.auto_storage)):
        assert key not in text
        assert "sig=" not in text.replace("sig=REDACTED", "")
    assert key.encode() not in state
    assert b"sig=" not in state


def _refusal(request) -> tuple[int | None, str | None, str]:
    with pytest.raises(HttpResponseError) as refusal:
        request()
    values = {item.key: item.value for item in refusal.value.model.error_values}
    return refusal.value.status_code, refusal.value.error.code, values["PropertyName"]


def test_auto_storage_is_refused_without_a_linked_account(ready):
    files = [m.ResourceFile(auto_storage_container_name="inputs")]
    path = "resourceFiles[0].autoStorageContainerName"
    refused = (400, "InvalidPropertyValue")
    assert _refusal(lambda: ready.create_task("job", task(resource_files=files))) == (*refused, path)
    start = m.BatchStartTask(command_line="/bin/true", resource_files=files)
    request = pool_options("other", start_task=start)
    assert _refusal(lambda: ready.create_pool(request)) == (*refused, f"startTask.{path}")
    manager = m.BatchJobManagerTask(id="manager", command_line="/bin/true", resource_files=files)
    assert _refusal(lambda: create_job(ready, "other", job_manager_task=manager)) == (
        *refused,
        f"jobManagerTask.{path}",
    )
    group = m.BatchTaskGroup(task_values=[task("refused", resource_files=files), task("added")])
    results = {item.task_id: item for item in ready.create_task_collection("job", group).result_values}
    assert {name: item.status for name, item in results.items()} == {"refused": "ClientError", "added": "Success"}
    assert "no storage account is linked" in results["refused"].error.message.value


@pytest.mark.parametrize("name", ["ab", "Inputs", "a--b", "-ab", "a/b", "../../etc", "a?restype=container", "x" * 64])
def test_names_that_no_container_can_have_are_refused(linked, name):
    files = [m.ResourceFile(auto_storage_container_name=name)]
    assert _refusal(lambda: linked.create_task("job", task(resource_files=files)))[:2] == (400, "InvalidPropertyValue")


def test_task_fails_if_its_linked_account_was_unlinked(linked, container, service):
    linked.create_task("job", task("blocker", "/bin/sleep 60"))
    linked.create_task("job", task(resource_files=auto(container)))
    service.stop()
    service.auto_storage = None
    service.start()
    client = service.client()
    client.terminate_task("job", "blocker")
    failure = wait_for_task(client).execution_info.failure_info
    assert (failure.category, failure.code) == ("UserError", "BlobDownloadMiscError")
    assert "no storage account is linked" in {item.name: item.value for item in failure.details}["Reason"]


def test_local_azure_links_its_blob_storage_to_its_batch_account(azure_settings):
    """python -m local_azure, as a user starts it."""
    container = Container(azure_settings["AZURE_STORAGE_CONNECTION_STRING"])
    container.client.upload_blob("file", b"content")
    credential = AzureNamedKeyCredential(
        azure_settings["AZURE_BATCH_ACCOUNT"], azure_settings["AZURE_BATCH_ACCESS_KEY"]
    )
    client = BatchClient(azure_settings["AZURE_BATCH_ENDPOINT"], credential)
    create_pool(client, "linked")
    create_job(client, "linked", "linked")
    client.create_task("linked", task(command_line="/bin/cat file", resource_files=auto(container)))
    wait_for_task(client, job="linked")
    assert stdout(client, job="linked") == "content"
    quick: Any = {"polling_interval": 0.02}  # an int, says the SDK
    client.begin_delete_job("linked", **quick).result()
    client.begin_delete_pool("linked", **quick).result()


def test_identities_are_refused_where_no_tokens_are_issued(ready):
    reference = m.BatchNodeIdentityReference(resource_id="/subscriptions/s/nodes")
    file = m.ResourceFile(http_url="https://data.example/in/a", file_path="a", identity_reference=reference)
    with pytest.raises(HttpResponseError) as error:
        ready.create_task("job", task(resource_files=[file]))
    assert (error.value.status_code, error.value.error.code) == (501, "NotImplemented")
    assert "The property resourceFiles[0].identityReference" in error.value.error.message
