from __future__ import annotations

import sys
from datetime import timedelta

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from local_azure.batch.http.server import Security
from local_azure.loopback import TRUST
from tests.support.batch_service import (
    create_job,
    create_pool,
    pool_options,
    run_task,
    shell,
    stdout,
    task,
    wait_for,
    wait_for_task,
)


@pytest.fixture
def ready(client):
    """A client with a job `job` on a pool with one node of two slots."""
    create_pool(client, task_slots_per_node=2)
    create_job(client)
    return client


def failure(item: m.BatchTask) -> tuple[str | None, str | None]:
    return item.execution_info.failure_info.category, item.execution_info.failure_info.code


def test_task_succeeds_with_exit_code_0(ready):
    done = run_task(ready, shell("echo out; echo err >&2"))
    info = done.execution_info
    assert (info.exit_code, info.result, info.failure_info) == (0, "success", None)
    assert (info.retry_count, info.requeue_count) == (0, 0)
    assert info.start_time <= info.end_time
    assert done.previous_state == "running"
    assert stdout(ready) == "out\n"
    assert b"".join(ready.download_task_file("job", "task", "stderr.txt")) == b"err\n"


def test_an_ordinary_task_has_no_subtasks(ready):
    run_task(ready, "/bin/true")
    assert list(ready.list_subtasks("job", "task")) == []
    assert list(ready.list_subtasks("job", "task", select=["id", "state"])) == []
    with pytest.raises(ResourceNotFoundError) as refusal:
        list(ready.list_subtasks("job", "none"))
    assert refusal.value.error.code == "TaskNotFound"


def test_task_fails_with_another_exit_code(ready):
    done = run_task(ready, shell("exit 42"))
    assert (done.execution_info.exit_code, done.execution_info.result) == (42, "failure")
    assert failure(done) == ("UserError", "FailureExitCode")
    assert done.execution_info.failure_info.message == "The task exited with an exit code representing a failure"


def test_defaults_are_shown(client):
    create_job(client, constraints=m.BatchJobConstraints(max_task_retry_count=2))
    client.create_task("job", task("Task"))
    found = client.get_task("job", "tASK")
    assert (found.id, found.state, found.required_slots) == ("Task", "active", 1)
    assert (found.user_identity.auto_user.scope, found.user_identity.auto_user.elevation_level) == ("pool", "nonadmin")
    assert found.constraints.max_task_retry_count == 2
    assert found.constraints.retention_time == timedelta(days=7)
    assert found.constraints.max_wall_clock_time.days == 10675199
    assert (found.execution_info.retry_count, found.execution_info.requeue_count) == (0, 0)
    assert found.node_info is None


def test_command_line_is_run_without_a_shell(ready):
    run_task(ready, "/bin/echo $HOME '*' \"a  b\"")
    assert stdout(ready) == "$HOME * a  b\n"


def test_missing_program_differs_from_an_exit_code(ready):
    done = run_task(ready, "no-such-program --flag")
    assert failure(done) == ("UserError", "CommandProgramNotFound")
    details = {item.name: item.value for item in done.execution_info.failure_info.details}
    assert details["CommandLine"] == done.command_line
    assert done.execution_info.exit_code is None


def test_program_that_cannot_be_executed_is_a_launch_failure(ready):
    done = run_task(ready, "/etc/passwd")
    assert failure(done) == ("UserError", "CommandLaunchFailed")
    assert done.execution_info.exit_code is None


def test_missing_resource_file_keeps_the_command_from_running(ready, http_files):
    files = [m.ResourceFile(http_url=http_files.url("absent"), file_path="absent")]
    done = run_task(
        ready, "/bin/true", resource_files=files, constraints=m.BatchTaskConstraints(max_task_retry_count=3)
    )
    assert failure(done) == ("UserError", "BlobNotFound")
    assert done.execution_info.exit_code is None
    assert done.execution_info.retry_count == 0, "only a program that ran and failed is retried"


def test_resource_files_have_their_path_and_mode(ready, http_files):
    files = [
        m.ResourceFile(http_url=http_files.put("a", "alpha"), file_path="in/a.txt"),
        m.ResourceFile(http_url=http_files.put("b", "beta"), file_path="b.txt", file_mode="0644"),
    ]
    run_task(ready, shell("cat in/a.txt b.txt; stat -c %a in/a.txt b.txt"), resource_files=files)
    assert stdout(ready) == "alphabeta770\n644\n"


def test_task_is_ended_at_its_time_limit(ready):
    limit = m.BatchTaskConstraints(max_wall_clock_time=timedelta(seconds=0.3), max_task_retry_count=0)
    done = run_task(ready, "/bin/sleep 60", constraints=limit)
    assert failure(done) == ("UserError", "TaskEnded")
    (detail,) = done.execution_info.failure_info.details or []
    assert "maxWallClockTime" in detail.value


def test_task_is_retried_each_time_in_a_fresh_directory(ready):
    script = 'ls; echo x > left-over; n=$(cat "$AZ_BATCH_NODE_SHARED_DIR/n" || echo 0)'
    script += '; echo $((n+1)) > "$AZ_BATCH_NODE_SHARED_DIR/n"; [ $n = 2 ]'
    done = run_task(ready, shell(script), constraints=m.BatchTaskConstraints(max_task_retry_count=5))
    assert (done.execution_info.exit_code, done.execution_info.result) == (0, "success")
    assert done.execution_info.retry_count == 2
    assert done.execution_info.last_retry_time is not None
    assert stdout(ready) == ""


def test_failing_task_runs_once_plus_its_retries(ready):
    done = run_task(
        ready,
        shell('echo run >> "$AZ_BATCH_NODE_SHARED_DIR/runs"; exit 7'),
        constraints=m.BatchTaskConstraints(max_task_retry_count=2),
    )
    assert (done.execution_info.exit_code, done.execution_info.retry_count) == (7, 2)
    node = done.node_info.node_id
    assert b"".join(ready.download_node_file("pool", node, "shared/runs")) == b"run\nrun\nrun\n"


def test_terminated_task_is_completed_and_failed(ready):
    ready.create_task("job", task("task", "/bin/sleep 60"))
    wait_for_task(ready, state="running")
    ready.terminate_task("job", "task")
    done = wait_for_task(ready)
    assert (failure(done), done.execution_info.result) == (("UserError", "TaskEnded"), "failure")
    with pytest.raises(ResourceExistsError) as refusal:
        ready.terminate_task("job", "task")
    assert refusal.value.error.code == "TaskCompleted"


def test_task_terminated_before_it_ran_has_no_exit_code(client):
    create_job(client)
    client.create_task("job", task())
    client.terminate_task("job", "task")
    done = client.get_task("job", "task")
    assert (done.state, done.execution_info.exit_code, failure(done)) == ("completed", None, ("UserError", "TaskEnded"))


def test_failed_task_can_be_reactivated_and_a_good_one_cannot(ready):
    script = 'mkdir "$AZ_BATCH_NODE_SHARED_DIR/once" && exit 1; exit 0'
    assert run_task(ready, shell(script)).execution_info.exit_code == 1
    ready.reactivate_task("job", "task")
    done = wait_for_task(ready)
    assert (done.execution_info.exit_code, done.execution_info.failure_info) == (0, None)
    with pytest.raises(ResourceExistsError) as refusal:
        ready.reactivate_task("job", "task")
    assert refusal.value.error.code == "TaskSucceeded"


def test_unfinished_task_cannot_be_reactivated(client):
    create_job(client)
    client.create_task("job", task())
    with pytest.raises(ResourceExistsError) as refusal:
        client.reactivate_task("job", "task")
    assert refusal.value.error.code == "TaskNotCompleted"


def test_deleted_task_is_gone_with_its_process_and_its_files(ready, service):
    ready.create_task("job", task("task", shell('echo $$ > "$AZ_BATCH_NODE_SHARED_DIR/pid"; /bin/sleep 60')))
    node = wait_for_task(ready, state="running").node_info.node_id
    root = service.data / "nodes" / "pool" / node
    wait_for(lambda: (root / "shared" / "pid").exists() and (root / "shared" / "pid").read_text())
    ready.delete_task("job", "task")
    with pytest.raises(ResourceNotFoundError) as refusal:
        ready.get_task("job", "task")
    assert refusal.value.error.code == "TaskNotFound"
    wait_for(lambda: ready.get_node("pool", node).running_tasks_count == 0)
    assert not (root / "workitems" / "job" / "job-1" / "task").exists()
    assert ready.get_job_task_counts("job").task_counts.running == 0


def test_slots_limit_what_runs_at_the_same_time(ready):
    ready.create_tasks("job", [task(f"t{number}", "/bin/sleep 60") for number in range(3)])
    wait_for(lambda: ready.get_job_task_counts("job").task_counts.running == 2)
    (node,) = ready.list_nodes("pool")
    assert (node.state, node.running_tasks_count, node.running_task_slots_count) == ("running", 2, 2)
    assert ready.get_job_task_counts("job").task_counts.active == 1


def test_task_that_needs_two_slots_has_the_node_to_itself(ready):
    ready.create_task("job", task("wide", "/bin/sleep 60", required_slots=2))
    wait_for_task(ready, "wide", "running")
    ready.create_task("job", task("narrow"))
    (node,) = ready.list_nodes("pool")
    assert (node.running_tasks_count, node.running_task_slots_count) == (1, 2)
    assert ready.get_task("job", "narrow").state == "active"
    ready.terminate_task("job", "wide")
    wait_for_task(ready, "narrow")


def test_tasks_that_fit_no_node_do_not_hold_back_those_that_do(ready):
    ready.create_tasks("job", [task(f"wide{number}", required_slots=3) for number in range(150)])
    assert run_task(ready, "/bin/true", "narrow").execution_info.result == "success"


@pytest.mark.parametrize(("fill", "nodes_used"), [("spread", 2), ("pack", 1)])
def test_tasks_are_spread_over_nodes_or_packed(client, fill, nodes_used):
    policy = m.BatchTaskSchedulingPolicy(node_fill_type=fill)
    create_pool(client, target_dedicated_nodes=2, task_slots_per_node=2, task_scheduling_policy=policy)
    create_job(client)
    for name in ("one", "two"):
        client.create_task("job", task(name, "/bin/sleep 60"))
        wait_for_task(client, name, "running")
    assert len({item.node_info.node_id for item in client.list_tasks("job")}) == nodes_used


def test_task_runs_where_its_affinity_is_if_there_is_room(client):
    _, second = create_pool(client, target_dedicated_nodes=2)
    create_job(client)
    done = run_task(client, "/bin/true", affinity_info=m.BatchAffinityInfo(affinity_id=second.affinity_id))
    assert done.node_info.node_id == second.id


def test_environment_is_a_nodes_and_not_the_services(ready, service, monkeypatch):
    monkeypatch.setenv("LEAKED", "secret")
    (node,) = ready.list_nodes("pool")
    run_task(ready, "/usr/bin/env")
    variables = dict(line.split("=", 1) for line in stdout(ready).splitlines())
    root = str(service.data / "nodes" / "pool" / node.id)
    directory = f"{root}/workitems/job/job-1/task"
    expected = {
        "AZ_BATCH_ACCOUNT_NAME": "localbatch",
        "AZ_BATCH_ACCOUNT_URL": service.endpoint + "/",
        "AZ_BATCH_JOB_ID": "job",
        "AZ_BATCH_TASK_ID": "task",
        "AZ_BATCH_POOL_ID": "pool",
        "AZ_BATCH_NODE_ID": node.id,
        "AZ_BATCH_NODE_IS_DEDICATED": "true",
        "AZ_BATCH_NODE_ROOT_DIR": root,
        "AZ_BATCH_NODE_SHARED_DIR": root + "/shared",
        "AZ_BATCH_NODE_STARTUP_DIR": root + "/startup",
        "AZ_BATCH_NODE_MOUNTS_DIR": root + "/fsmounts",
        "AZ_BATCH_TASK_DIR": directory,
        "AZ_BATCH_TASK_WORKING_DIR": directory + "/wd",
        "AZ_BATCH_CERTIFICATES_DIR": directory + "/certs",
        "HOME": directory + "/wd",
        "PWD": directory + "/wd",
        "LANG": "C.UTF-8",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert int(variables["AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES"]) > 0
    assert "LEAKED" not in variables
    assert not any(name.startswith(("AZURE_", "PREFECT_", "PYTHON", "VIRTUAL_ENV")) for name in variables)


def test_tasks_trust_the_certificates_of_a_service_with_tls(service, tmp_path):
    trusted = tmp_path / "trusted.pem"
    trusted.write_text("certificates")
    service.stop()
    service.security = Security(trusted=trusted)
    service.start()
    client = service.client()
    create_pool(client)
    create_job(client)
    command = f"/bin/sh -c 'cat {' '.join(f'${name}' for name in TRUST)}; echo; echo $SSL_CERT_FILE'"
    run_task(client, command)
    content, path = stdout(client).split()
    assert content == "certificates" * 4
    assert path.startswith(f"{service.data}/nodes/pool/")  # which containers have, too
    trusted.write_text("renewed")
    run_task(client, command, "next")
    assert stdout(client, "next").split()[0] == "renewed" * 4


def test_python3_has_only_the_standard_library(ready):
    names = ("azure.batch", "pandas", "prefect", "pytest", "pip", "setuptools")
    script = "import json, sqlite3, ssl, sys; print(sys.version_info[:2])\n"
    script += f"for name in {names}:\n try: __import__(name)\n except ModuleNotFoundError: print('no', name)"
    itself = "python3 -c 'import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'"
    for task_id, program in (("python3", "python3"), ("executable", itself)):
        run_task(ready, f'{program} -c "{script}"', task_id)
        lines = stdout(ready, task_id).splitlines()
        assert lines == [str(sys.version_info[:2]), *(f"no {name}" for name in names)]


@pytest.mark.parametrize("program", ["python", "pip", "pip3"])
def test_what_an_ubuntu_node_lacks_is_not_found(ready, program):
    done = run_task(ready, f"{program} --version")
    assert done.execution_info.exit_code == 127
    error = b"".join(ready.download_task_file("job", "task", "stderr.txt")).decode()
    assert error == f"{program}: not found: Azure's Ubuntu images have python3 only, without pip\n"


def test_task_that_kills_its_supervisor_fails_after_three_requeues(ready):
    script = 'echo run >> "$AZ_BATCH_NODE_SHARED_DIR/runs"; kill -9 $PPID; sleep 60'
    done = run_task(ready, shell(script), constraints=m.BatchTaskConstraints(max_task_retry_count=5))
    info = done.execution_info
    assert (failure(done), info.exit_code) == (("ServerError", "Unknown"), None)
    assert (info.requeue_count, info.retry_count, info.result) == (3, 0, "failure")
    (detail,) = info.failure_info.details or []
    assert "supervisor" in detail.value
    runs = b"".join(ready.download_node_file("pool", done.node_info.node_id, "shared/runs"))
    assert runs == b"run\n" * 4


def test_task_whose_supervising_process_is_killed_once_succeeds(ready):
    script = 'mkdir "$AZ_BATCH_NODE_SHARED_DIR/once" && kill -9 $PPID && sleep 60; exit 0'
    info = run_task(ready, shell(script)).execution_info
    assert (info.exit_code, info.requeue_count, info.failure_info) == (0, 1, None)
    assert info.last_requeue_time is not None


def test_task_ends_whatever_its_durations_and_its_id(ready, service):
    """A duration may be longer than time can be written, an id a larger number than the database knows."""
    longest = timedelta(days=10675198)
    for name in ("9" * 64, "0" * 63 + "7"):
        constraints = m.BatchTaskConstraints(retention_time=longest, max_wall_clock_time=longest)
        assert run_task(ready, "/bin/true", name, constraints=constraints).execution_info.exit_code == 0


def test_service_makes_files_and_directories_for_its_user_only(ready, service, http_files):
    file = m.ResourceFile(http_url=http_files.put("x", "x"), file_path="made/x", file_mode="0600")
    run_task(ready, "/bin/true", resource_files=[file])
    made = [path for path in service.data.rglob("*") if not path.is_symlink()]
    modes = {path.name: path.stat().st_mode & 0o777 for path in made if path.is_file() and path.parent.name != "bin"}
    assert modes.keys() >= {"batch.db", "batch.db-wal", "lock", "stdout.txt", "stderr.txt", "pyvenv.cfg", "x"}
    assert set(modes.values()) == {0o600}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir() or path.parent.name == "bin"} == {0o700}


def test_command_line_has_the_length_limit_of_azure(ready):
    longest = "/bin/echo " + "x" * (32_768 - len("/bin/echo "))
    assert run_task(ready, longest).execution_info.exit_code == 0
    assert len(stdout(ready)) == 32_768 - len("/bin/echo ") + 1
    starts, manager = (
        m.BatchStartTask(command_line=longest + "x"),
        m.BatchJobManagerTask(id="m", command_line=longest + "x"),
    )
    for request, name in (
        (lambda: ready.create_task("job", task("long", longest + "x")), "commandLine"),
        (lambda: ready.create_pool(pool_options("long", start_task=starts)), "startTask.commandLine"),
        (lambda: create_job(ready, "long", job_manager_task=manager), "jobManagerTask.commandLine"),
    ):
        with pytest.raises(HttpResponseError) as refusal:
            request()
        assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")
        assert f"{name}: it must not have more than 32768 characters" in refusal.value.error.message


def test_jobs_of_equal_priority_run_in_the_order_of_creation(client):
    order = m.BatchTaskSchedulingPolicy(node_fill_type="spread", job_default_order="creationtime")
    client.create_pool(pool_options(target_dedicated_nodes=0, task_scheduling_policy=order))
    for job_id in ("second-name", "a-first-name"):
        create_job(client, job_id)
    client.create_task("a-first-name", task("later"))
    client.create_task("second-name", task("sooner"))
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    resize = m.BatchPoolResizeOptions(target_dedicated_nodes=1)
    client.begin_resize_pool("pool", resize, polling_interval=0.02).result()
    later = wait_for_task(client, "later", job="a-first-name")
    sooner = wait_for_task(client, "sooner", job="second-name")
    assert sooner.execution_info.end_time <= later.execution_info.start_time
    assert client.get_pool("pool").task_scheduling_policy.job_default_order == "creationtime"


def test_collection_returns_a_result_for_each_task(client):
    create_job(client)
    client.create_task("job", task("taken"))
    group = m.BatchTaskGroup(task_values=[task("new"), task("taken"), task("bad id"), task("empty", " ")])
    results = {item.task_id: item for item in client.create_task_collection("job", group).result_values}
    assert {name: item.status for name, item in results.items()} == {
        "new": "Success",
        "taken": "ClientError",
        "bad id": "ClientError",
        "empty": "ClientError",
    }
    assert results["taken"].error.code == "TaskExists"
    assert results["bad id"].error.code == "InvalidPropertyValue"
    assert "\nRequestId:" in results["bad id"].error.message.value
    assert results["new"].location.endswith("/jobs/job/tasks/new")


def test_too_many_tasks_in_one_collection_are_refused(client):
    create_job(client)
    with pytest.raises(HttpResponseError) as refusal:
        client.create_task_collection("job", m.BatchTaskGroup(task_values=[task(f"t{n}") for n in range(101)]))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidPropertyValue")


def test_create_tasks_halves_what_is_too_large_for_one_request(client):
    create_job(client)
    long = "/bin/echo " + "x" * 20_000
    client.create_tasks("job", [task(f"t{number}", long) for number in range(100)])
    assert len(list(client.list_tasks("job", select=["id"]))) == 100


def test_existing_task_is_refused(client):
    create_job(client)
    client.create_task("job", task())
    with pytest.raises(ResourceExistsError) as refusal:
        client.create_task("job", task("TASK"))
    assert refusal.value.error.code == "TaskExists"


def test_etag_stays_over_state_changes_and_changes_with_updates(ready):
    ready.create_task("job", task("task", "/bin/sleep 0.2"))
    before = ready.get_task("job", "task").etag
    assert wait_for_task(ready).etag == before
    create_job(ready, "other")
    ready.create_task("other", task("waits", required_slots=9))
    first = ready.get_task("other", "waits")
    ready.replace_task("other", "waits", m.BatchTask(constraints=m.BatchTaskConstraints(max_task_retry_count=4)))
    second = ready.get_task("other", "waits")
    assert second.etag != first.etag
    assert second.constraints.max_task_retry_count == 4
    assert second.constraints.retention_time == timedelta(days=7)


def test_tasks_are_filtered_and_selected(ready):
    ready.create_tasks("job", [task("good"), task("bad", "/bin/false"), task("waits", required_slots=9)])
    wait_for(lambda: ready.get_job_task_counts("job").task_counts.completed == 2)

    def ids(condition: str) -> list[str]:
        return [item.id for item in ready.list_tasks("job", filter=condition)]

    assert ids("state eq 'completed'") == ["bad", "good"]
    assert ids("state ne 'completed'") == ["waits"]
    assert ids("executionInfo/exitCode ne 0 and state eq 'completed'") == ["bad"]
    assert ids("executionInfo/result eq 'failure' or state eq 'active'") == ["bad", "waits"]
    assert ids("startswith(id,'GO')") == ["good"]
    (item,) = ready.list_tasks("job", filter="id eq 'good'", select=["id", "state"])
    assert item.as_dict() == {"id": "good", "state": "completed"}


@pytest.mark.parametrize(
    "condition",
    ["colour eq 'red'", "state gt 'active'", "state eq", "State eq 'active'", "creationTime lt '2020'", "(("],
)
def test_bad_filters_are_refused(client, condition):
    create_job(client)
    with pytest.raises(HttpResponseError) as refusal:
        list(client.list_tasks("job", filter=condition))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidQueryParameterValue")


def test_long_lists_come_in_pages(client):
    create_job(client)
    client.create_tasks("job", [task(f"t{number:03}") for number in range(25)])
    pages = client.list_tasks("job", max_results=10).by_page()
    assert [[item.id for item in page] for page in pages] == [
        [f"t{number:03}" for number in range(start, min(start + 10, 25))] for start in (0, 10, 20)
    ]


def test_files_go_when_their_retention_time_is_over(ready, service):
    keep = m.BatchTaskConstraints(retention_time=timedelta(hours=1))
    run_task(ready, shell("echo x"), constraints=keep)
    assert stdout(ready) == "x\n"
    service.advance(minutes=61)

    def refused() -> str:
        try:
            stdout(ready)
        except ResourceExistsError as error:
            return str(error.error.code)
        return ""

    assert wait_for(refused) == "TaskFilesCleanedup"
    assert ready.get_task("job", "task").state == "completed"


def test_node_remembers_its_recent_tasks(ready):
    run_task(ready, "/bin/true", "good")
    run_task(ready, "/bin/false", "bad")
    (node,) = ready.list_nodes("pool")
    assert (node.total_tasks_run, node.total_tasks_succeeded) == (2, 1)
    assert [(item.job_id, item.task_id, item.task_state) for item in node.recent_tasks] == [
        ("job", "bad", "completed"),
        ("job", "good", "completed"),
    ]
