"""The service is killed, and another one goes on with its data directory."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError

from local_azure.batch.http.server import DataDirectoryInUse
from local_azure.batch.state.store import UnusableState
from tests.support.batch_service import (
    create_job,
    create_pool,
    pool_options,
    shell,
    stdout,
    task,
    wait_for,
    wait_for_nodes,
    wait_for_task,
)
from tests.support.service_process import ServiceProcess


# Starts services, one after the other, by forking: so their modules are imported once. A service may have a trap: it
# dies before or after the call of a function, if the file `armed` was there when the function was called.
@pytest.fixture
def process(tmp_path, starter):
    process = ServiceProcess(tmp_path / "batch", starter)
    yield process
    process.kill()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_was_acknowledged_is_there_after_a_kill(process):
    client = process.start()
    create_pool(client)
    create_job(client)
    client.create_tasks("job", [task(f"t{number}", required_slots=9) for number in range(100)])
    before = [item.etag for item in client.list_tasks("job")]
    process.kill()
    client = process.start()
    assert client.get_pool("pool").state == "active"
    assert [item.etag for item in client.list_tasks("job")] == before
    assert client.get_job_task_counts("job").task_counts.active == 100


def test_interrupted_task_runs_again_and_its_processes_are_gone(process):
    client = process.start()
    (node,) = create_pool(client, task_slots_per_node=2)
    create_job(client)
    script = (
        'echo $$ >> "$AZ_BATCH_NODE_SHARED_DIR/pids"; (setsid sleep 60 & echo $! >> "$AZ_BATCH_NODE_SHARED_DIR/pids")'
    )
    script += '; [ $(wc -l < "$AZ_BATCH_NODE_SHARED_DIR/pids") -gt 2 ] || /bin/sleep 60; echo again'
    client.create_task("job", task("task", shell(script)))
    pids = process.data / "nodes" / "pool" / node.id / "shared" / "pids"
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    first = [int(pid) for pid in pids.read_text().split()]
    assert all(alive(pid) for pid in first)
    process.kill()
    client = process.start()
    assert not any(alive(pid) for pid in first)
    done = wait_for_task(client)
    assert (done.execution_info.exit_code, done.execution_info.result) == (0, "success")
    assert (done.execution_info.retry_count, done.execution_info.requeue_count) == (0, 0)
    assert stdout(client) == "again\n"


def test_finished_task_is_not_run_again(process):
    client = process.start()
    (node,) = create_pool(client)
    create_job(client)
    client.create_task("job", task("task", shell('echo run >> "$AZ_BATCH_NODE_SHARED_DIR/runs"')))
    ended = wait_for_task(client).execution_info.end_time
    process.kill()
    client = process.start()
    assert client.get_task("job", "task").execution_info.end_time == ended
    create_job(client, "other")
    client.create_task("other", task("after"))
    wait_for_task(client, "after", job="other")
    assert (process.data / "nodes" / "pool" / node.id / "shared" / "runs").read_text() == "run\n"


def test_unrecorded_outcome_is_recorded_by_the_next_service(process):
    client = process.start()
    (node,) = create_pool(client)
    create_job(client)
    # The task ends while the service is stopped: its shim leaves the outcome, and nobody has read it when we kill.
    flag = process.data / "flag"
    script = f'echo run >> "$AZ_BATCH_NODE_SHARED_DIR/runs"; until [ -e {flag} ]; do sleep 0.02; done; exit 5'
    client.create_task("job", task("task", shell(script)))
    runs = process.data / "nodes" / "pool" / node.id / "shared" / "runs"
    wait_for(runs.exists)
    process.signal(signal.SIGSTOP)
    flag.touch()
    wait_for(lambda: any((process.data / "attempts").glob("*.json")))
    process.kill()
    client = process.start()
    done = wait_for_task(client)
    assert (done.execution_info.exit_code, done.execution_info.result) == (5, "failure")
    assert runs.read_text() == "run\n"


def test_unfinished_transitions_go_on(process):
    client = process.start()
    create_pool(client)
    create_job(client)
    client.create_task("job", task("task", "/bin/sleep 60"))
    wait_for_task(client, state="running")
    client.begin_delete_job("job")
    client.begin_delete_pool("pool")
    process.kill()
    client = process.start()
    wait_for(lambda: not list(client.list_jobs()) and not list(client.list_pools()))
    assert list((process.data / "nodes").iterdir()) == []


def test_terminated_task_stays_terminated_over_a_kill(process):
    client = process.start()
    create_pool(client)
    create_job(client)
    client.create_task("job", task("task", shell("trap '' TERM; /bin/sleep 60")))
    wait_for_task(client, state="running")
    client.terminate_task("job", "task")
    process.kill()
    client = process.start()
    done = wait_for_task(client)
    assert done.execution_info.failure_info.code == "TaskEnded"


def test_second_service_on_a_directory_refuses(process, start_service):
    process.start()
    with pytest.raises(DataDirectoryInUse) as refusal:
        start_service(data=process.data)
    assert str(process.data) in str(refusal.value)


def test_directory_of_a_newer_version_is_refused(start_service, tmp_path):
    data = tmp_path / "newer"
    data.mkdir()
    with sqlite3.connect(data / "batch.db") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UnusableState) as refusal:
        start_service(data=data)
    assert "99" in str(refusal.value)


def test_stopped_service_leaves_no_process_and_reruns_the_task(service):
    client = service.client()
    (node,) = create_pool(client)
    create_job(client)
    pids = service.data / "nodes" / "pool" / node.id / "shared" / "pids"
    script = 'echo $$ >> "$PIDS"; [ $(wc -l < "$PIDS") = 2 ] || sleep 60'
    client.create_task("job", task("task", shell(f'PIDS="{pids}"; {script}')))
    wait_for(lambda: pids.exists() and pids.read_text())
    service.stop()
    assert not alive(int(pids.read_text()))
    service.start()
    done = wait_for_task(service.client())
    assert (done.execution_info.exit_code, done.execution_info.requeue_count) == (0, 0)


def test_data_directory_is_private(service):
    assert service.data.stat().st_mode & 0o777 == 0o700


def test_kill_at_any_moment_loses_nothing_and_reruns_no_ended_task(process):
    """Tasks are added while the service is killed again and again; each kill meets it at another place."""
    moments = random.Random(7)
    client = process.start()
    create_pool(client, target_dedicated_nodes=2, task_slots_per_node=4)
    create_job(client)
    acknowledged: list[str] = []
    ended: dict[str, object] = {}
    for round_number in range(6):
        for number in range(8):
            name = f"r{round_number}t{number}"
            client.create_task("job", task(name, shell(f"sleep 0.0{number}; exit {number % 2}")))
            acknowledged.append(name)
        time.sleep(moments.uniform(0, 0.3))  # not to wait for anything: to be somewhere
        found = {item.id: item for item in client.list_tasks("job")}
        assert sorted(found) == sorted(acknowledged)
        for name, end in ended.items():
            assert found[name].execution_info.end_time == end, f"{name} has run again"
        ended = {name: item.execution_info.end_time for name, item in found.items() if item.state == "completed"}
        process.kill()
        client = process.start()
    wait_for(lambda: client.get_job_task_counts("job").task_counts.completed == len(acknowledged))
    for item in client.list_tasks("job"):
        assert item.execution_info.exit_code == int(item.id[-1]) % 2
        assert (item.execution_info.retry_count, item.execution_info.requeue_count) == (0, 0)
    assert wait_for(lambda: all(node.running_tasks_count == 0 for node in client.list_nodes("pool")))
    assert list((process.data / "attempts").iterdir()) == []


def test_full_disk_is_reported_and_corrupts_nothing(process):
    """The kernel refuses to let the database grow; when that is over, the service goes on by itself."""
    client = process.start()
    create_pool(client)
    create_job(client)
    client.create_task("job", task("task", "/bin/sleep 0.2"))
    wait_for_task(client, state="running")
    process.limit_files(1)
    with pytest.raises(HttpResponseError) as failure:
        process.client(retry_total=0).create_task("job", task("refused"))
    assert (failure.value.status_code, failure.value.error.code) == (500, "InternalError")
    process.limit_files(resource.RLIM_INFINITY)
    wait_for_task(client)
    client.create_task("job", task("accepted"))
    wait_for_task(client, "accepted")
    assert [item.id for item in client.list_tasks("job")] == ["accepted", "task"]


def test_interrupted_start_task_runs_again(process):
    client = process.start()
    script = 'mkdir "$AZ_BATCH_NODE_SHARED_DIR/once" && sleep 60; exit 0'
    client.create_pool(pool_options(start_task=m.BatchStartTask(command_line=shell(script), wait_for_success=True)))
    wait_for(lambda: list((process.data / "nodes").glob("*/*/shared/once")))
    process.kill()
    client = process.start()
    (node,) = wait_for_nodes(client, "pool", "idle")
    assert (node.start_task_info.exit_code, node.start_task_info.retry_count) == (0, 0)
