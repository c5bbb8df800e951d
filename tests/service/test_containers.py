"""Tasks in containers: run by the engine of this machine, or on the machine itself; without an engine no nodes."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError

from local_azure.batch.node.containers import Containers, find_engine
from tests.support.batch_service import (
    QUICK,
    RunningService,
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
from tests.support.containers import IMAGE, RUN_OPTIONS, machine, why_no_containers, write_stand_in

SETTINGS = m.BatchTaskContainerSettings(image_name=IMAGE, container_run_options=RUN_OPTIONS)
REGISTRY = {"registryServer": "team.example", "username": "robot", "password": "s3cr3t-registry"}
PRINT = 'echo "$TASK_SECRET|$AZ_BATCH_TASK_ID|$(pwd)|$AZ_BATCH_NODE_SHARED_DIR"; echo made > made'
DOWN = '#!/bin/sh\necho asked >> "${0%/*}/calls"\necho "the daemon is down" >&2\nexit 1\n'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH of the service."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture(params=["stand-in", "engine"])
def engine(request: pytest.FixtureRequest) -> Path | None:
    """The folder of the stand-in, or None for the engine of this machine."""
    if request.param == "engine":
        if reason := why_no_containers():
            pytest.skip(reason)
        return None
    folder: Path = request.getfixturevalue("programs")
    write_stand_in(folder)
    return folder


@pytest.fixture
def containers(engine, client):
    """A client with a pool for containers, and a job."""
    create_pool(client, virtual_machine_configuration=machine())
    create_job(client)
    return client


def refused(client, **options):
    with pytest.raises(HttpResponseError) as error:
        client.create_pool(pool_options(**options))
    return error.value.status_code, error.value.error.code, error.value.error.message.splitlines()[0]


def unavailable(client, pool: str = "pool", **configuration: Any) -> tuple[str, str, str]:
    """Ask for a node of a new pool for containers; returns code, name and value of its resize error."""
    client.create_pool(pool_options(pool, virtual_machine_configuration=machine(**configuration)))
    (error,) = wait_for(lambda: client.get_pool(pool).resize_errors)
    (value,) = error.error_values
    return error.code, value.name, value.value


def message_of(ended: m.BatchTask) -> str:
    failure = ended.execution_info.failure_info
    assert failure.code == "CommandLaunchFailed"
    return str({each.name: each.value for each in failure.details}["Message"])


def test_without_an_engine_pools_for_containers_get_no_nodes(programs, client, caplog):
    assert unavailable(client) == (
        "IncompatibleVMSize",
        "virtualMachineConfiguration.containerConfiguration",
        "no container engine answers on this machine: docker is not on the PATH; podman is not on the PATH. Install "
        "Docker or Podman, or start its daemon, then start this service, or the run that embeds it, again",
    )
    assert client.get_pool("pool").virtual_machine_configuration.container_configuration.type == "dockerCompatible"
    assert "Pool pool: not resized as asked: IncompatibleVMSize" in caplog.text


def test_an_engine_that_does_not_answer_is_asked_once(programs, client):
    calls = write_stand_in(programs, DOWN)
    for pool in ("one", "two", "three"):
        reason = unavailable(client, pool)[-1]
        assert f"{programs}/docker says 'the daemon is down'; podman is not" in reason
    assert calls.read_text() == "asked\n"


def test_a_task_in_a_container_waits_where_no_engine_is(programs, client):
    unavailable(client)
    create_job(client)
    client.create_task("job", task(container_settings=SETTINGS))
    assert client.get_task("job", "task").state == "active"
    assert client.get_task("job", "task").container_settings.image_name == IMAGE


def test_a_task_fails_where_its_node_has_no_engine(programs, client):
    create_job(client)
    client.create_task("job", task(container_settings=SETTINGS))  # its pool is not there yet
    create_pool(client)
    assert "no container engine answers on this machine" in message_of(wait_for_task(client))


def test_podman_is_used_where_docker_does_not_answer(programs, client):
    write_stand_in(programs, DOWN)
    write_stand_in(programs, name="podman")
    create_pool(client, virtual_machine_configuration=machine())


def test_images_without_docker_are_refused_for_containers(programs, client):
    write_stand_in(programs)
    listed = client.list_supported_images()
    able = [each.image_reference.offer for each in listed if "DockerCompatible" in (each.capabilities or ())]
    assert able == ["ubuntu-server-container", "dsvm-win-2019", "ubuntu-hpc", "ubuntu-hpc"]
    status, code, message = refused(client, virtual_machine_configuration=machine("ubuntu-24_04-lts", "server"))
    assert (status, code) == (400, "InvalidPropertyValue")
    assert "the image has not the capability DockerCompatible; use microsoft-azure-batch/ubuntu-server-" in message
    assert "microsoft-dsvm/ubuntu-hpc/2204, microsoft-dsvm/ubuntu-hpc/2404" in message


def test_registries_with_a_password_are_refused_late(programs, client, service):
    write_stand_in(programs)
    code, name, reason = unavailable(client, containerRegistries=[REGISTRY])
    assert (code, name) == ("IncompatibleVMSize", "virtualMachineConfiguration.containerConfiguration")
    assert "sign in to the registry with `docker login`" in reason
    (shown,) = client.get_pool("pool").virtual_machine_configuration.container_configuration.container_registries
    assert shown.as_dict() == {"registryServer": "team.example", "username": "robot"}
    create_pool(client, "other", virtual_machine_configuration=machine())
    create_job(client, pool_id="other")
    private = m.BatchTaskContainerSettings({"imageName": IMAGE, "registry": REGISTRY})
    ended = run_task(client, "/bin/true", container_settings=private)
    assert "containerSettings.registry is not implemented" in message_of(ended)
    for file in service.data.glob("batch.db*"):
        assert b"s3cr3t" not in file.read_bytes()


def test_containers_run_on_the_host_where_that_is_asked_for(programs, tmp_path, caplog):
    service = RunningService(tmp_path / "host", QUICK)
    service.containers = Containers.HOST
    service.start()
    try:
        client = service.client()
        start = m.BatchStartTask(command_line="/bin/echo ready", container_settings=SETTINGS)
        configuration = machine(containerRegistries=[REGISTRY])
        create_pool(client, virtual_machine_configuration=configuration, start_task=start)
        create_job(client)
        run_task(client, shell("python3 -c 'import sys; print(sys.version_info[0])'"), container_settings=SETTINGS)
        assert stdout(client) == "3\n"
    finally:
        service.stop()
    assert f"Task of the node's start: runs on this machine, not in a container of {IMAGE}" in caplog.messages
    assert f"Task task: runs on this machine, not in a container of {IMAGE}" in caplog.messages


def test_a_container_needs_a_pool_for_containers(programs, client):
    write_stand_in(programs)
    create_pool(client)
    create_job(client)
    with pytest.raises(HttpResponseError) as error:
        client.create_task("job", task(container_settings=SETTINGS))
    assert (error.value.status_code, error.value.error.code) == (400, "InvalidPropertyValue")
    assert "the pool of the job has no containerConfiguration" in error.value.error.message


def test_a_task_in_a_container_has_its_environment_and_directories(containers, engine):
    secret = m.EnvironmentSetting(name="TASK_SECRET", value="s e\ncret")
    ended = run_task(containers, shell(PRINT), container_settings=SETTINGS, environment_settings=[secret])
    directory = f"{ended.node_info.node_url.rpartition('/')[2]}/{ended.node_info.task_root_directory}/wd"
    lines = stdout(containers).splitlines()
    assert lines[0] == "s e"
    value, task_id, working, shared = lines[1].split("|")
    assert (value, task_id) == ("cret", "task")
    assert working.endswith(directory)
    assert shared == working.replace(f"{ended.node_info.task_root_directory}/wd", "shared")
    assert (Path(working) / "made").read_text() == "made\n"
    assert (Path(working) / "made").stat().st_uid == os.getuid()
    if engine:  # values are not on the command line, which anybody can read
        calls = (engine / "calls").read_text()
        assert "--env TASK_SECRET --env" in calls
        assert "cret" not in calls.replace("TASK_SECRET", "")


@pytest.mark.parametrize(("command", "code"), [(shell("exit 5"), 5), ("/no/such/program", 127)])
def test_the_exit_code_is_that_of_the_command(containers, command, code):
    ended = run_task(containers, command, container_settings=SETTINGS)
    assert ended.execution_info.exit_code == code
    assert ended.execution_info.failure_info.code == "FailureExitCode"


def test_a_container_that_ignores_sigterm_ends_at_the_time_limit(containers, engine):
    limit = m.BatchTaskConstraints(max_wall_clock_time=timedelta(milliseconds=300))
    ended = run_task(
        containers, shell("trap '' TERM; sleep 1000; sleep 1000"), container_settings=SETTINGS, constraints=limit
    )
    assert ended.execution_info.failure_info.code == "TaskEnded"
    assert left_in(engine) == []


def test_a_terminated_task_leaves_no_container(containers, engine):
    containers.create_task("job", task(command_line=shell("echo up; sleep 1000"), container_settings=SETTINGS))
    wait_for_task(containers, state="running")
    wait_for(lambda: "up" in stdout(containers))
    containers.terminate_task("job", "task")
    assert wait_for_task(containers).execution_info.failure_info.code == "TaskEnded"
    assert left_in(engine) == []


def left_in(engine: Path | None) -> list[str]:
    """The containers of the service that still exist."""
    if engine:
        return os.listdir(engine / "containers")
    listed = [find_engine().program, "ps", "--all", "--quiet", "--filter", "name=local-batch-"]
    return subprocess.check_output(listed, text=True).split()
