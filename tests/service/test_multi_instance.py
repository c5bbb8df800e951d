"""Multi-instance tasks: a primary task and subtasks on nodes of their own, coordinated before the command runs."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError

from tests.support.batch_service import (
    create_job,
    create_pool,
    run_task,
    shell,
    stdout,
    task,
    wait_for,
    wait_for_nodes,
    wait_for_task,
)
from tests.support.service_process import ServiceProcess

QUICKLY: Any = {"polling_interval": 0.02}  # an int, says the SDK
NAMES = "AZ_BATCH_HOST_LIST AZ_BATCH_NODE_LIST AZ_BATCH_MASTER_NODE CCP_NODES AZ_BATCH_IS_CURRENT_NODE_MASTER"
PRINT_ALL = "; ".join(f'echo "${name}"' for name in NAMES.split())
# Listens on the one address of the list that is this node's: on one machine, the first that is still free.
SERVE = """
import os, pathlib, socket
for address in os.environ["AZ_BATCH_HOST_LIST"].split(","):
    try:
        server = socket.create_server((address, int(os.environ["PORT"])))
        break
    except OSError:
        continue
pathlib.Path("ready").touch()
while True:
    connection, _ = server.accept()
    connection.sendall(os.environ["AZ_BATCH_NODE_ID"].encode())
    connection.close()
"""
ASK = """
import os, socket
for address in os.environ["AZ_BATCH_HOST_LIST"].split(","):
    with socket.create_connection((address, int(os.environ["PORT"]))) as connection:
        print(connection.recv(100).decode())
"""
SCRIPTS = {"serve.py": SERVE, "ask.py": ASK}


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def settings(coordination: str = "/bin/true", instances: int = 3, **more: Any) -> m.MultiInstanceSettings:
    return m.MultiInstanceSettings(coordination_command_line=coordination, number_of_instances=instances, **more)


def create_nodes(client, count: int = 3, **options: Any) -> list[m.BatchNode]:
    """A pool whose nodes reach each other, and a job on it."""
    nodes = create_pool(client, target_dedicated_nodes=count, enable_inter_node_communication=True, **options)
    create_job(client)
    return nodes


def on_node(client, subtask: m.BatchSubtask, name: str) -> str:
    """The content of a file of the subtask."""
    info = subtask.node_info
    return b"".join(client.download_node_file("pool", info.node_id, f"{info.task_root_directory}/{name}")).decode()


def subtasks(client) -> list[m.BatchSubtask]:
    return list(client.list_subtasks("job", "task"))


def states(client) -> list[m.BatchSubtaskState | str | None]:
    return [subtask.state for subtask in subtasks(client)]


def idle(client, count: int = 3) -> bool:
    return bool(wait_for_nodes(client, "pool", *["idle"] * count))


def test_each_instance_has_a_node_and_the_documented_variables(client):
    nodes = {node.id: node for node in create_nodes(client)}
    ended = run_task(client, shell(PRINT_ALL), multi_instance_settings=settings(shell(PRINT_ALL)))
    assert (ended.execution_info.exit_code, ended.execution_info.result) == (0, "success")
    found = subtasks(client)
    used = [nodes[str(info.node_id)] for info in (ended.node_info, *(each.node_info for each in found))]
    assert len({node.id for node in used}) == 3
    addresses = [node.ip_address for node in used]
    common = [",".join(addresses), ";".join(addresses), f"{addresses[0]}:6000"]
    common += [f"3 {' '.join(f'{address} 2' for address in addresses)}"]
    assert stdout(client).splitlines() == [*common, "true"]
    assert [on_node(client, each, "stdout.txt").splitlines() for each in found] == [[*common, "false"]] * 2
    assert idle(client)


def test_subtasks_show_their_state_node_and_end(client):
    create_nodes(client)
    run_task(client, "/bin/true", multi_instance_settings=settings())
    first, second = subtasks(client)
    assert [first.id, second.id] == [1, 2]
    assert (first.state, first.previous_state, first.exit_code, first.result) == ("completed", "running", 0, "success")
    assert first.start_time <= first.end_time == first.state_transition_time
    info = first.node_info
    assert info.task_root_directory == "workitems/job/job-1/task/1"
    assert info.task_root_directory_url == f"{info.node_url}/files/workitems/job/job-1/task/1"
    selected = client.list_subtasks("job", "task", select=["id", "state"])
    assert [each.as_dict() for each in selected] == [{"id": 1, "state": "completed"}, {"id": 2, "state": "completed"}]


def test_common_files_are_on_all_nodes_and_others_on_the_first(client, http_files):
    create_nodes(client, 2)
    common = m.ResourceFile(http_url=http_files.put("common", "common\n"), file_path="common")
    own = m.ResourceFile(http_url=http_files.put("own", "own\n"), file_path="own")
    show = 'cat "$AZ_BATCH_TASK_SHARED_DIR/common"; ls "$AZ_BATCH_TASK_WORKING_DIR"'
    coordinated = settings(shell(show), 2, common_resource_files=[common])
    run_task(client, shell(show), resource_files=[own], multi_instance_settings=coordinated)
    (other,) = subtasks(client)
    assert stdout(client) == "common\nown\n"
    assert on_node(client, other, "stdout.txt") == "common\n"
    shared = "workitems/job/job-1/task/common"
    assert b"".join(client.download_node_file("pool", other.node_info.node_id, shared)) == b"common\n"


def test_what_coordination_starts_lives_as_long_as_the_primary(client, http_files, unused_port):
    nodes = create_nodes(client)
    files = [m.ResourceFile(http_url=http_files.put(name, text), file_path=name) for name, text in SCRIPTS.items()]
    start = 'python3 "$AZ_BATCH_TASK_SHARED_DIR/serve.py" & until [ -e ready ]; do sleep 0.01; done'
    port = m.EnvironmentSetting(name="PORT", value=str(unused_port))
    ended = run_task(
        client,
        shell('python3 "$AZ_BATCH_TASK_SHARED_DIR/ask.py"'),
        environment_settings=[port],
        multi_instance_settings=settings(shell(start), common_resource_files=files),
    )
    assert (ended.execution_info.exit_code, ended.execution_info.failure_info) == (0, None)
    assert sorted(stdout(client).split()) == sorted(node.id for node in nodes)
    for node in nodes:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((node.ip_address, unused_port))


def test_a_subtask_that_fails_fails_the_task_after_its_retries(client):
    create_nodes(client)
    fails = shell('if [ "$AZ_BATCH_IS_CURRENT_NODE_MASTER" = false ]; then exit 3; fi; sleep 1000')
    limits = m.BatchTaskConstraints(max_task_retry_count=1)
    ended = run_task(client, "/bin/true", constraints=limits, multi_instance_settings=settings(fails))
    info = ended.execution_info
    assert (info.result, info.failure_info.code, info.retry_count) == ("failure", "FailureExitCode", 1)
    assert "failure" in [each.result for each in subtasks(client)]
    assert 3 in [each.exit_code for each in subtasks(client)]
    assert idle(client)


def test_the_exit_code_of_the_primary_is_that_of_the_task(client):
    create_nodes(client, 2)
    ended = run_task(client, shell("exit 4"), multi_instance_settings=settings(instances=2))
    assert (ended.execution_info.exit_code, ended.execution_info.failure_info.code) == (4, "FailureExitCode")
    assert [(each.state, each.exit_code) for each in subtasks(client)] == [("completed", 0)]


@pytest.mark.parametrize(
    "pool",
    [
        {"enable_inter_node_communication": False},
        {"enable_inter_node_communication": True, "task_slots_per_node": 2},
        {"enable_inter_node_communication": True, "target_dedicated_nodes": 1},
    ],
)
def test_in_an_unsuitable_pool_the_task_stays_active(client, pool):
    create_pool(client, **{"target_dedicated_nodes": 2, **pool})
    create_job(client)
    client.create_task("job", task(multi_instance_settings=settings(instances=2)))
    run_task(client, "/bin/true", "other")
    assert client.get_task("job", "task").state == "active"
    assert subtasks(client) == []


@pytest.mark.parametrize("suitable", [True, False])
def test_tasks_that_cannot_start_hide_no_later_ones(client, suitable):
    """However many they are, and of however many sizes."""
    create_pool(client, target_dedicated_nodes=2, enable_inter_node_communication=suitable)
    create_job(client)
    waiting = [task(f"w{n}", multi_instance_settings=settings(instances=3 + n % 5)) for n in range(500)]
    client.create_tasks("job", waiting)
    client.create_task("job", task("two", multi_instance_settings=settings(instances=2)))
    run_task(client, "/bin/true", "other")
    if suitable:
        wait_for_task(client, "two")
    assert client.get_job_task_counts("job").task_counts.active == (500 if suitable else 501)


def test_the_task_runs_once_its_pool_is_large_enough(client):
    create_nodes(client, 1)
    client.create_task("job", task(multi_instance_settings=settings(instances=2)))
    client.begin_resize_pool("pool", m.BatchPoolResizeOptions(target_dedicated_nodes=2), **QUICKLY).result()
    assert wait_for_task(client).execution_info.result == "success"


def test_no_other_task_runs_on_the_nodes_meanwhile(client):
    create_nodes(client, 2)
    client.create_task("job", task(command_line=shell("sleep 1000"), multi_instance_settings=settings(instances=2)))
    wait_for(lambda: states(client) == ["running"])
    client.create_task("job", task("other"))
    assert [node.running_tasks_count for node in wait_for_nodes(client, "pool", "running", "running")] == [1, 1]
    assert client.get_task("job", "other").state == "active"
    client.terminate_task("job", "task")
    assert wait_for_task(client).execution_info.failure_info.code == "TaskEnded"
    wait_for_task(client, "other")
    assert states(client) == ["completed"]


def test_a_time_limit_ends_the_coordination_too(client):
    create_nodes(client, 2)
    limits = m.BatchTaskConstraints(max_wall_clock_time=timedelta(milliseconds=300))
    ended = run_task(
        client, "/bin/true", constraints=limits, multi_instance_settings=settings(shell("sleep 1000"), instances=2)
    )
    assert ended.execution_info.failure_info.code == "TaskEnded"
    assert idle(client, 2)


def test_a_reboot_of_the_node_of_a_subtask_runs_the_task_again(client, tmp_path: Path):
    create_nodes(client, 2)
    go_on, started = tmp_path / "go-on", tmp_path / "started"
    waits = shell(f"echo >> {started}; until [ -e {go_on} ]; do sleep 0.01; done")
    client.create_task("job", task(command_line=waits, multi_instance_settings=settings(instances=2)))
    wait_for(started.exists)
    options = m._models.BatchNodeRebootOptions(node_reboot_kind="requeue")
    client.begin_reboot_node("pool", subtasks(client)[0].node_info.node_id, options, **QUICKLY)
    wait_for(lambda: started.read_text() == "\n\n")
    go_on.touch()
    ended = wait_for_task(client)
    assert (ended.execution_info.result, ended.execution_info.requeue_count) == ("success", 0)
    assert [each.result for each in subtasks(client)] == ["success"]


def test_a_deleted_task_leaves_nothing_on_its_nodes(client, service):
    nodes = create_nodes(client, 2)
    run_task(client, "/bin/true", multi_instance_settings=settings(instances=2))
    places = [service.data / "nodes" / "pool" / node.id / "workitems" / "job" / "job-1" / "task" for node in nodes]
    assert [place.is_dir() for place in places] == [True, True]
    client.delete_task("job", "task")
    wait_for(lambda: not any(place.exists() for place in places))


def test_after_a_kill_the_whole_task_runs_again(starter, tmp_path: Path):
    process = ServiceProcess(tmp_path / "batch", starter)
    try:
        client = process.start()
        create_nodes(client, 2)
        go_on, started, coordinated = (tmp_path / name for name in ("go-on", "started", "coordinated"))
        waits = shell(f"echo >> {started}; until [ -e {go_on} ]; do sleep 0.01; done")
        starts = settings(shell(f"sleep 1000 & echo $! >> {coordinated}"), 2)
        client.create_task("job", task(command_line=waits, multi_instance_settings=starts))
        wait_for(started.exists)
        process.kill()
        go_on.touch()
        client = process.start()
        assert wait_for_task(client).execution_info.result == "success"
        assert started.read_text() == "\n\n"
        left = [pid for pid in coordinated.read_text().split() if Path("/proc", pid).exists()]
        assert (len(coordinated.read_text().split()), left) == (4, [])
        assert [each.result for each in subtasks(client)] == ["success"]
        assert idle(client, 2)
    finally:
        process.kill()


def test_settings_are_shown_with_their_default(client):
    create_job(client)
    given = m.MultiInstanceSettings(coordination_command_line="/bin/true")
    client.create_task("job", task(multi_instance_settings=given))
    shown = client.get_task("job", "task").multi_instance_settings
    assert shown.as_dict() == {"numberOfInstances": 1, "coordinationCommandLine": "/bin/true"}


@pytest.mark.parametrize(
    ("given", "property"),
    [
        (settings(instances=0), "multiInstanceSettings.numberOfInstances"),
        (settings(" "), "multiInstanceSettings.coordinationCommandLine"),
        (settings(common_resource_files=[m.ResourceFile(file_path="a")]), "resourceFiles"),
    ],
)
def test_malformed_settings_are_refused(client, given, property):
    create_job(client)
    with pytest.raises(HttpResponseError) as refusal:
        client.create_task("job", task(multi_instance_settings=given))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")
    assert [e.value for e in refusal.value.model.error_values if e.key == "PropertyName"] == [property]


def test_containers_with_several_instances_are_refused(client):
    create_job(client)
    container = m.BatchTaskContainerSettings(image_name="image")
    with pytest.raises(HttpResponseError) as refusal:
        client.create_task("job", task(multi_instance_settings=settings(), container_settings=container))
    assert (refusal.value.status_code, refusal.value.error.code) == (501, "NotImplemented")
    assert "containerSettings and multiInstanceSettings" in refusal.value.error.message
