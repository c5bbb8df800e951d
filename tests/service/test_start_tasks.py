from __future__ import annotations

from azure.batch import models as m

from tests.support.batch_service import create_job, create_pool, pool_options, run_task, shell, stdout, wait_for_nodes


def test_start_task_prepares_the_node_for_tasks(client):
    script = 'echo "$GREETING" > "$AZ_BATCH_NODE_SHARED_DIR/greeting"; echo greeted; echo warned >&2'
    start = m.BatchStartTask(
        command_line=shell(script),
        environment_settings=[m.EnvironmentSetting(name="GREETING", value="hello")],
        wait_for_success=True,
    )
    (node,) = create_pool(client, start_task=start)
    assert (node.start_task_info.result, node.start_task_info.exit_code) == ("success", 0)
    assert b"".join(client.download_node_file("pool", node.id, "startup/stdout.txt")) == b"greeted\n"
    assert b"".join(client.download_node_file("pool", node.id, "startup/stderr.txt")) == b"warned\n"
    create_job(client)
    run_task(client, shell('cat "$AZ_BATCH_NODE_SHARED_DIR/greeting"'))
    assert stdout(client) == "hello\n"


def test_start_task_that_fails_makes_its_node_unusable_for_tasks(client):
    client.create_pool(pool_options(start_task=m.BatchStartTask(command_line=shell("echo no >&2; exit 3"))))
    (node,) = wait_for_nodes(client, "pool", "starttaskfailed")
    info = node.start_task_info
    assert (info.state, info.exit_code, info.result, info.retry_count) == ("completed", 3, "failure", 0)
    assert (info.failure_info.category, info.failure_info.code) == ("UserError", "FailureExitCode")
    assert b"".join(client.download_node_file("pool", node.id, "startup/stderr.txt")) == b"no\n"
    create_job(client)
    client.create_task("job", m.BatchTaskCreateOptions(id="task", command_line="/bin/true"))
    assert client.get_task("job", "task").state == "active"


def test_start_task_that_kills_its_supervising_process_fails(client):
    client.create_pool(pool_options(start_task=m.BatchStartTask(command_line=shell("kill -9 $PPID; sleep 60"))))
    (node,) = wait_for_nodes(client, "pool", "starttaskfailed")
    info = node.start_task_info
    assert (info.result, info.failure_info.category, info.failure_info.code) == ("failure", "ServerError", "Unknown")


def test_start_task_is_retried_as_often_as_allowed(client):
    script = (
        'n=$(cat "$AZ_BATCH_NODE_SHARED_DIR/n" || echo 0); echo $((n+1)) > "$AZ_BATCH_NODE_SHARED_DIR/n"; [ $n = 2 ]'
    )
    start = m.BatchStartTask(command_line=shell(script), max_task_retry_count=2, wait_for_success=True)
    (node,) = create_pool(client, start_task=start)
    assert node.start_task_info.retry_count == 2
    assert node.start_task_info.last_retry_time is not None
    assert node.start_task_info.result == "success"


def test_node_is_idle_before_an_optional_start_task_ends(client):
    start = m.BatchStartTask(command_line=shell("exit 1"), wait_for_success=False)
    client.create_pool(pool_options(start_task=start))
    wait_for_nodes(client, "pool", "idle")
    create_job(client)
    assert run_task(client, "/bin/true").execution_info.result == "success"


def test_start_task_of_a_missing_program_fails(client):
    client.create_pool(pool_options(start_task=m.BatchStartTask(command_line="no-such-program")))
    (node,) = wait_for_nodes(client, "pool", "starttaskfailed")
    assert node.start_task_info.failure_info.code == "CommandProgramNotFound"
    assert node.start_task_info.exit_code is None


def test_start_task_whose_resource_file_is_missing_fails(client, http_files):
    start = m.BatchStartTask(
        command_line="/bin/true",
        resource_files=[m.ResourceFile(http_url=http_files.url("absent"), file_path="absent")],
    )
    client.create_pool(pool_options(start_task=start))
    (node,) = wait_for_nodes(client, "pool", "starttaskfailed")
    assert node.start_task_info.failure_info.code == "BlobNotFound"
    assert node.start_task_info.exit_code is None
