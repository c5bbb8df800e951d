from __future__ import annotations

import os
from urllib.parse import unquote

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from tests.support.batch_service import create_job, create_pool, run_task, shell, task, wait_for

SCRIPT = shell("printf 0123456789 > digits; mkdir -p 'a b/ö'; echo deep > 'a b/ö/x+y.txt'; echo out")


@pytest.fixture
def done(client):
    create_pool(client)
    create_job(client)
    run_task(client, SCRIPT)
    return client


def test_task_files_are_listed_recursively_or_not(done):
    assert [item.name for item in done.list_task_files("job", "task")] == ["stderr.txt", "stdout.txt", "wd"]
    names = [item.name for item in done.list_task_files("job", "task", recursive=True)]
    assert names == [
        "stderr.txt",
        "stdout.txt",
        "wd",
        "wd/a b",
        "wd/a b/ö",
        "wd/a b/ö/x+y.txt",
        "wd/digits",
    ]
    selected = done.list_task_files("job", "task", recursive=True, filter="startswith(name,'wd/d')")
    (item,) = selected
    assert (item.is_directory, item.properties.content_length) == (False, 10)


def test_file_is_downloaded_whatever_its_name(done):
    assert b"".join(done.download_task_file("job", "task", "wd/a b/ö/x+y.txt")) == b"deep\n"
    assert done.get_task_file_properties("job", "task", "wd/a b/ö/x+y.txt").content_length == 5


def test_name_that_is_not_utf_8_is_listed_with_an_escape(client):
    create_pool(client)
    create_job(client)
    run_task(client, shell("touch \"$(printf 'a\\377')\""))
    names = [item.name for item in client.list_task_files("job", "task", recursive=True)]
    assert names == ["stderr.txt", "stdout.txt", "wd", "wd/a\\xff"]


@pytest.mark.parametrize(
    ("span", "content"),
    [("bytes=0-3", b"0123"), ("bytes=8-", b"89"), ("bytes=4-100", b"456789"), ("bytes=-2", b"89")],
)
def test_part_of_a_file_is_downloaded(done, span, content):
    assert b"".join(done.download_task_file("job", "task", "wd/digits", ocp_range=span)) == content


def test_range_beyond_the_end_is_refused(done):
    with pytest.raises(HttpResponseError) as refusal:
        done.download_task_file("job", "task", "wd/digits", ocp_range="bytes=10-")
    assert (refusal.value.status_code, refusal.value.error.code) == (416, "InvalidRange")


def test_properties_of_files_and_directories(done):
    file = done.get_task_file_properties("job", "task", "wd/digits")
    assert (file.content_length, file.is_directory) == (10, False)
    assert file.file_mode.startswith("0o100")
    assert file.creation_time is not None
    assert unquote(file.url).endswith("/jobs/job/tasks/task/files/wd/digits")
    assert done.get_task_file_properties("job", "task", "wd").is_directory is True


def test_files_and_directories_are_deleted(done):
    done.delete_task_file("job", "task", "wd/digits")
    with pytest.raises(ResourceNotFoundError) as refusal:
        done.get_task_file_properties("job", "task", "wd/digits")
    assert refusal.value.status_code == 404
    with pytest.raises(ResourceExistsError) as not_empty:
        done.delete_task_file("job", "task", "wd/a b")
    assert not_empty.value.error.code == "OperationInvalidForCurrentState"
    done.delete_task_file("job", "task", "wd/a b", recursive=True)
    assert [item.name for item in done.list_task_files("job", "task", recursive=True)] == [
        "stderr.txt",
        "stdout.txt",
        "wd",
    ]


def test_nothing_outside_of_the_tasks_directory_can_be_read(done, service, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    node = done.get_task("job", "task").node_info.node_id
    directory = service.data / "nodes" / "pool" / node / "workitems" / "job" / "job-1" / "task"
    (directory / "wd" / "link").symlink_to(secret)
    (directory / "wd" / "up").symlink_to(tmp_path)
    (directory / "wd" / "inside").symlink_to("digits")
    for name in ("../task/stdout.txt", "wd/../../task/wd/digits", str(secret), "wd/link", "wd/up/secret", "wd/\0"):
        with pytest.raises(ResourceNotFoundError) as refusal:
            done.download_task_file("job", "task", name)
        assert refusal.value.error.code == "FileNotFound", name
    assert b"".join(done.download_task_file("job", "task", "wd/inside")) == b"0123456789"
    names = [item.name for item in done.list_task_files("job", "task", recursive=True)]
    assert "wd/inside" in names
    assert "wd/link" not in names
    assert not any(name.startswith("wd/up") for name in names)


def test_device_or_pipe_is_not_read(done, service):
    node = done.get_task("job", "task").node_info.node_id
    os.mkfifo(service.data / "nodes" / "pool" / node / "workitems" / "job" / "job-1" / "task" / "wd" / "pipe")
    with pytest.raises(ResourceNotFoundError) as refusal:
        done.download_task_file("job", "task", "wd/pipe")
    assert refusal.value.error.code == "FileNotFound"


def test_files_of_a_node_are_those_of_its_root_directory(done):
    (node,) = done.list_nodes("pool")
    assert [item.name for item in done.list_node_files("pool", node.id)] == [
        "applications",
        "fsmounts",
        "shared",
        "startup",
        "volatile",
        "workitems",
    ]
    content = done.download_node_file("pool", node.id, "workitems/job/job-1/task/stdout.txt")
    assert b"".join(content) == b"out\n"


def test_task_without_a_node_has_no_files(client):
    create_job(client)
    client.create_task("job", task())
    with pytest.raises(ResourceExistsError) as refusal:
        list(client.list_task_files("job", "task"))
    assert refusal.value.error.code == "TaskFilesUnavailable"


def test_files_go_with_their_node(done):
    done.begin_delete_pool("pool", polling_interval=0.02).result()
    with pytest.raises(ResourceNotFoundError) as refusal:
        done.download_task_file("job", "task", "stdout.txt")
    assert refusal.value.error.code == "NodeNotFound"


def test_output_of_a_running_task_can_be_followed(client):
    create_pool(client)
    create_job(client)
    client.create_task("job", task("task", shell("echo early; /bin/sleep 60")))

    def early() -> bytes:
        try:
            return b"".join(client.download_task_file("job", "task", "stdout.txt"))
        except HttpResponseError:
            return b""

    assert wait_for(early) == b"early\n"
