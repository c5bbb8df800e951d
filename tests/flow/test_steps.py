"""Each step on its own: what it leaves in the accounts, what it adopts, what it refuses, what it tries again."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.batch.models import (
    BatchCreateTaskCollectionResult,
    BatchJob,
    BatchPool,
    BatchTask,
    BatchTaskCreateOptions,
    BatchTaskGroup,
    EnvironmentSetting,
)
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.policies import RetryPolicy
from prefect import Task, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from flows.top_words import top_words
from flows.word_arguments import word_arguments
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.check import check_accounts
from tasks.containers import create_containers, delete_containers
from tasks.download import download_output
from tasks.errors import ConflictError, RunTimeout, TasksFailed
from tasks.errors.service import ServiceError
from tasks.files import upload_files
from tasks.inputs.files import find_inputs
from tasks.job import add_tasks, create_job, delete_job
from tasks.monitor import monitor_tasks
from tasks.pool import create_pool, delete_pool
from tasks.resources.batch_task import Work
from tasks.resources.bulk import _add
from tasks.run.identity import Role, Run, UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.run.program import Program
from tasks.run.results import Results
from tasks.run.scripts import OUR_SCRIPTS
from tasks.run.settings import CleanUp, Disposal, PoolSettings, TimeLimits
from tasks.run.tags import PROJECT
from tasks.run.uploads import Uploads
from tests.support.accounts import clear, job_and_pool_ids
from tests.support.monitoring import pace, watched
from tests.support.paths import DATA
from tests.support.polling import wait_until
from tests.support.runs import (
    APPLICATION,
    ONE_NODE,
    SCRIPT,
    in_flow,
    is_running,
    make_job,
    make_pool,
    new_run,
    own_pool,
    terminate,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

KEEP = CleanUp(containers=Disposal.KEEP, job=Disposal.KEEP, pool=Disposal.KEEP)
LIMITS = TimeLimits()
NO_FILES = Uploads(application=[SCRIPT], inputs=())
# What a whole run creates, read back.


@dataclass(frozen=True, kw_only=True)
class Made:
    """A run that kept everything, as the services have it."""

    name: str
    flow_run_id: str
    began: datetime
    ended: datetime
    endpoint: str
    pool: BatchPool
    job: BatchJob
    tasks: list[BatchTask]
    containers: Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def made(
    azure_settings: dict[str, str], prefect_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    azure = Azure.from_environment(azure_settings)
    assert azure is not None
    began = datetime.now(timezone.utc)
    with pytest.MonkeyPatch.context() as environment:
        for setting, value in azure_settings.items():
            environment.setenv(setting, value)
        state = top_words(
            inputs=[str(DATA)],
            top_n=4,
            pool=PoolSettings(dedicated_nodes=1, slots_per_node=2, vm_size=("standard_d4s_v3",)),
            limits=TimeLimits(run_minutes=33, task_minutes=7, task_retries=3),
            output_folder=str(tmp_path_factory.mktemp("results")),
            clean_up=KEEP,
            delay_seconds=0.01,
            return_state=True,
        )
    name = state.result().folder.name
    with azure.batch() as batch, azure.blobs() as blobs:
        yield Made(
            name=name,
            flow_run_id=str(state.state_details.flow_run_id),
            began=began,
            ended=datetime.now(timezone.utc),
            endpoint=azure.storage_account.endpoint,
            pool=batch.get_pool(name),
            job=batch.get_job(name),
            tasks=sorted(batch.list_tasks(name), key=lambda task: task.id),
            containers={
                each.name: each.metadata for each in blobs.list_containers(name_starts_with=name, include_metadata=True)
            },
        )
    clear(azure, name)


def permissions(sas: str) -> str:
    return parse_qs(sas)["sp"][0]


def test_the_pool_is_made_as_its_settings_say(made: Made) -> None:
    pool = made.pool
    assert (pool.target_dedicated_nodes, pool.task_slots_per_node, pool.vm_size) == (1, 2, "standard_d4s_v3")
    assert not pool.target_low_priority_nodes
    assert pool.resize_timeout == timedelta(minutes=15)
    expires = next(item.value for item in pool.metadata or () if item.name == "expires")
    assert pool.auto_scale_evaluation_interval == timedelta(minutes=5)
    assert pool.auto_scale_formula == (
        f'over = time() >= time("{expires.removesuffix("+00:00")}Z");\n'
        "$TargetDedicatedNodes = over ? 0 : 1;\n$TargetLowPriorityNodes = over ? 0 : 0;\n"
        "$NodeDeallocationOption = requeue;"
    )
    machine = pool.virtual_machine_configuration
    assert machine is not None
    assert (machine.image_reference.offer, machine.image_reference.sku) == ("ubuntu-24_04-lts", "server")
    assert (machine.image_reference.publisher, machine.image_reference.version) == ("canonical", "latest")


def test_every_user_of_the_node_may_run_the_installed_scripts(made: Made) -> None:
    start = made.pool.start_task
    assert start is not None
    names = [*OUR_SCRIPTS, "top_words.py"]
    assert start.command_line == f"/bin/sh -c 'cp -p {' '.join(names)} \"$AZ_BATCH_NODE_SHARED_DIR\"/'"
    assert (start.wait_for_success, start.max_task_retry_count) == (True, 2)
    assert start.user_identity is not None
    assert start.user_identity.auto_user is not None
    assert (start.user_identity.auto_user.scope, start.user_identity.auto_user.elevation_level) == ("pool", "admin")
    files = start.resource_files or []
    assert [(file.file_path, file.file_mode) for file in files] == [(name, "0755") for name in names]
    for file in files:
        url = urlsplit(file.http_url or "")
        assert url.path.endswith(f"/{made.name}-application/{file.file_path}")
        assert permissions(url.query) == "r"


def test_pool_job_and_containers_carry_the_tags_of_the_run(made: Made) -> None:
    found = {
        "pool": {item.name: item.value for item in made.pool.metadata or ()},
        "job": {item.name: item.value for item in made.job.metadata or ()},
        **made.containers,
    }
    tags = found["job"]
    assert set(found) == {"pool", "job", *(f"{made.name}-{role}" for role in ("application", "input", "output"))}
    assert all(each == tags for each in found.values())
    created, expires = (datetime.fromisoformat(tags[name]) for name in ("created", "expires"))
    assert tags == {
        "project": PROJECT,
        "workload": "top-words",
        "flow_run": made.flow_run_id,
        "created": created.isoformat(),
        "expires": expires.isoformat(),
        "kept": "yes",
    }
    assert expires - created == timedelta(minutes=33)
    assert made.began.replace(microsecond=0) <= created <= made.ended


def test_the_job_ends_after_the_run_s_limit_or_with_its_last_task(made: Made) -> None:
    assert made.job.pool_info is not None
    assert made.job.pool_info.pool_id == made.name
    assert made.job.constraints is not None
    assert made.job.constraints.max_wall_clock_time == timedelta(minutes=33)
    assert made.job.all_tasks_complete_mode == "terminatejob"


def test_each_task_has_a_write_only_token_in_its_environment(made: Made) -> None:
    expires = next(item.value for item in made.job.metadata or () if item.name == "expires")
    for task in made.tasks:
        settings = {setting.name: setting.value for setting in task.environment_settings or ()}
        assert (settings["SAS_EXPIRES"] or "").startswith(expires.removesuffix("+00:00"))
        sas = parse_qs(settings["OUTPUT_SAS_TOKEN"] or "")
        assert (sas["sp"], sas["sr"]) == (["cw"], ["c"])
        assert datetime.fromisoformat(sas["se"][0].replace("Z", "+00:00")) == datetime.fromisoformat(expires)
    assert not made.job.common_environment_settings


def test_there_is_a_task_per_file_in_their_order(made: Made) -> None:
    files = ["clouds.txt", "harbour.txt", "kitchen.txt"]
    assert [task.id for task in made.tasks] == ["topNtask0", "topNtask1", "topNtask2"]
    for task, name in zip(made.tasks, files, strict=True):
        assert [item.name for item in task.environment_settings or ()] == [
            "INPUT_FILE",
            "INPUT_NAME",
            "INPUT_SIZE",
            "INPUT_MD5",
            "OUTPUT_PREFIX",
            "RECORD_URL",
            "RECORD_SAS_TOKEN",
            "OUTPUT_URL",
            "OUTPUT_SAS_TOKEN",
            "OUTPUT_INLINE",
            "SAS_EXPIRES",
            "TASKS_PER_NODE",
        ]
        text = (DATA / name).read_bytes()
        values = {item.name: item.value for item in task.environment_settings or ()}
        assert (
            values.items()
            >= {
                "INPUT_FILE": f"input/{name}",
                "INPUT_NAME": name,
                "INPUT_SIZE": f"{len(text)}",
                "INPUT_MD5": hashlib.md5(text).hexdigest(),
                "OUTPUT_URL": f"{made.endpoint}/{made.name}-output",
                "OUTPUT_PREFIX": f"outputs/{name}",
                "RECORD_URL": f"{made.endpoint}/{made.name}-output/records/{name}.json",
                "RECORD_SAS_TOKEN": values["OUTPUT_SAS_TOKEN"],
                "OUTPUT_INLINE": "65536",
                "TASKS_PER_NODE": "2",
            }.items()
        )
        (file,) = task.resource_files or []
        assert (file.file_path, file.file_mode) == (f"input/{name}", None)
        url = urlsplit(file.http_url or "")
        assert url.path.endswith(f"/{made.name}-input/{name}")
        assert (permissions(url.query), parse_qs(url.query)["sr"]) == ("r", ["b"])


def test_a_task_has_its_limits(made: Made) -> None:
    for task in made.tasks:
        assert task.constraints is not None
        assert task.constraints.max_wall_clock_time == timedelta(minutes=7)
        assert task.constraints.max_task_retry_count == 3


def test_a_command_line_holds_neither_file_name_nor_secret(made: Made) -> None:
    (line,) = {task.command_line for task in made.tasks}
    assert line == (
        '/bin/sh -c \'exec python3 "$AZ_BATCH_NODE_SHARED_DIR"/run_file.py "$AZ_BATCH_NODE_SHARED_DIR"/top_words.py '
        """'"'"'--filepath={input}'"'"' --numwords 4 --delay 0.01'"""
    )


# The same step twice: what a previous attempt of the run created is adopted.


def test_containers_of_an_earlier_try_are_adopted(azure: Azure, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def twice() -> None:
        create_containers(azure, run)
        create_containers(azure, run)

    with caplog.at_level(logging.INFO, "prefect"):
        in_flow(twice)
    said = [message for message in caplog.messages if message.startswith("Container ")]
    names = [f"{run.name}-{role.value}" for role in Role]
    assert said == [f"Container {name}: {how}" for how in ("created", "already exists, reusing it") for name in names]


def test_files_are_sent_once_and_again_only_where_they_changed(
    azure: Azure, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text")

    def three_times() -> list[Uploads]:
        create_containers(azure, run)
        uploads = [upload_files(azure, run, find_inputs([str(tmp_path)]).files, APPLICATION) for _ in range(2)]
        (tmp_path / "b.txt").write_text("B text")  # as long as before
        return [*uploads, upload_files(azure, run, find_inputs([str(tmp_path)]).files, APPLICATION)]

    with caplog.at_level(logging.INFO, "prefect"):
        first, second, third = in_flow(three_times)
    said = re.findall(r"(\d of \d files) \(18 bytes\) uploaded to (\S+?)(; .*)?$", caplog.text, re.MULTILINE)
    there = "; the others are there already"
    assert said == [
        ("3 of 3 files", f"{run.name}-input", ""),
        ("0 of 3 files", f"{run.name}-input", there),
        ("1 of 3 files", f"{run.name}-input", there),
    ]
    assert re.findall(rf"(\d+) of {len(APPLICATION)} files", caplog.text) == [f"{len(APPLICATION)}", "0", "0"]
    for uploads in (first, second, third):
        assert [(file.name, file.size, file.record) for file in uploads.inputs] == [
            (f"{name}.txt", 6, f"records/{name}.txt.json") for name in ("a", "b", "c")
        ]
    with azure.blobs() as blobs:
        assert blobs.get_blob_client(f"{run.name}-input", "b.txt").download_blob().readall() == b"B text"


def test_the_image_is_chosen_once_and_a_retry_keeps_that_of_its_pool(
    azure: Azure, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = Results(folder=tmp_path)
    ending = PoolSettings(image="canonical:0001-com-ubuntu-server-focal:20_04-lts")

    def attempts() -> list[str | None]:
        first = check_accounts(azure, PoolSettings(), results)
        own_pool(azure, run, ending)
        found = [first, check_accounts(azure, PoolSettings(), results, None, run.pool_id)]
        return [each.settings.image for each in [*found, check_accounts(azure, ending, results)]]

    with caplog.at_level(logging.INFO, "prefect"):
        newest, kept, pinned = in_flow(attempts)
    assert newest == "canonical:ubuntu-24_04-lts:server:latest"
    assert kept == pinned == f"{ending.image}:latest"
    listed = "the newest verified Ubuntu LTS that the Batch account lists; no end of its support is announced"
    assert [message for message in caplog.messages if message.startswith("Image ")] == [
        f"Image {newest}: {listed}",
        f"Image {kept}: that of pool {run.pool_id} of a previous attempt; supported by Azure Batch until 2025-04-23",
        f"Image {kept}: which image names; supported by Azure Batch until 2025-04-23",
    ]


def upload(azure: Azure, run: Run) -> Uploads:
    create_containers(azure, run)
    return upload_files(azure, run, find_inputs([str(DATA)]).files, APPLICATION)


WORK = Work(script="top_words.py", arguments=word_arguments(1, 0, None, LIMITS), limits=LIMITS)


def test_a_script_that_has_changed_processes_all_files_again(azure: Azure, run: Run, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    work = Work(script="script.sh", limits=LIMITS)

    def attempt(word: str, run: Run) -> list[str]:
        script.write_text(f'#!/bin/sh\necho {word} > "$OUTPUT_DIR/out"\n')
        application = {**OUR_SCRIPTS, "script.sh": script}
        create_containers(azure, run)
        uploads = upload_files(azure, run, find_inputs([str(DATA)]).files, application)
        pool = create_pool(azure, run, ONE_NODE, uploads.application)
        create_job(azure, run, pool, uploads)
        added = add_tasks(azure, run, pool, uploads, work)
        outcomes = monitor_tasks(azure, run, pool, added, polling=pace()).outcomes
        results = Results(folder=tmp_path / "results", program=Program(script=word))
        download_output(azure, run, uploads, outcomes, results)
        return [(results.folder_of(file.name) / "out").read_text() for file in uploads.inputs]

    def attempts() -> list[list[str]]:
        first = attempt("old", run)
        next_second = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=1)
        wait_until(lambda: datetime.now(timezone.utc) >= next_second)  # blobs have their times in whole seconds
        return [first, attempt("new", replace(run, started=run.started + timedelta(seconds=1)))]

    assert in_flow(attempts) == [["old\n"] * 3, ["new\n"] * 3]


def task_ids(azure: Azure, run: Run) -> list[str]:
    with azure.batch() as batch:
        return sorted(task.id for task in batch.list_tasks(run.job_id))


def job_state(azure: Azure, run: Run) -> str:
    with azure.batch() as batch:
        return str(getattr(batch.get_job(run.job_id).state, "value", ""))


def test_pool_job_and_tasks_of_a_previous_attempt_are_reused(
    azure: Azure, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def tries() -> list[list[AddedTask]]:
        uploads = upload(azure, run)
        pool, again = (create_pool(azure, run, ONE_NODE, uploads.application) for _ in range(2))
        assert pool == again
        assert (pool.id, pool.own, pool.dedicated_nodes, pool.vm_size) == (run.name, True, 1, ONE_NODE.vm_size[0])
        assert [create_job(azure, run, pool, uploads) for _ in range(2)] == [run.name] * 2
        added = [add_tasks(azure, run, pool, uploads, WORK) for _ in range(2)]
        outcomes = monitor_tasks(azure, run, pool, added[0], polling=pace()).outcomes
        assert [outcome.succeeded for outcome in outcomes] == [True] * 3
        wait_until(lambda: job_state(azure, run) == "completed")
        return [*added, add_tasks(azure, run, pool, uploads, WORK)]

    with caplog.at_level(logging.INFO, "prefect"):
        first, second, third = in_flow(tries)
    assert first == second == third
    assert not any(task.earlier for task in first)
    assert [(task.id, task.file) for task in first] == [
        ("topNtask0", "clouds.txt"),
        ("topNtask1", "harbour.txt"),
        ("topNtask2", "kitchen.txt"),
    ]
    assert task_ids(azure, run) == ["topNtask0", "topNtask1", "topNtask2"]
    for kind in ("Pool", "Job"):
        assert re.findall(rf"{kind} {run.name}: (created|already exists, reusing it)", caplog.text) == [
            "created",
            "already exists, reusing it",
        ]


def test_a_job_that_ends_when_stale_tasks_are_deleted_is_replaced(azure: Azure, run: Run) -> None:
    pool = UsedPool(id=run.pool_id, slots_per_node=1, own=True)  # and none is there, so that no task begins
    first = replace(run, started=run.started - timedelta(minutes=40))  # of 60: its SAS URLs end soon

    def tries() -> list[AddedTask]:
        added: list[AddedTask] = []
        for each in (first, run):
            uploads = upload(azure, each)
            create_job(azure, each, pool, uploads, Disposal.KEEP)
            added = add_tasks(azure, each, pool, uploads, WORK)
        return added

    assert [task.earlier for task in in_flow(tries)] == [False] * 3
    with azure.batch() as batch:
        job, tasks = batch.get_job(run.job_id), list(batch.list_tasks(run.job_id))
    assert (job.state, job.all_tasks_complete_mode) == ("active", "terminatejob")
    assert {item.name: item.value for item in job.metadata} == replace(run.tags, kept=True).metadata()
    expires = [{item.name: item.value for item in task.environment_settings}["SAS_EXPIRES"] for task in tasks]
    assert expires == [run.expires.isoformat()] * 3


def test_tasks_are_not_taken_for_added_if_the_job_ended_without_them(azure: Azure, run: Run) -> None:
    make_job(azure, run, "true")
    with azure.batch() as batch:
        terminate(batch, run, "EnoughForToday")

    def add() -> list[AddedTask]:
        return add_tasks(azure, run, UsedPool(id=run.name, slots_per_node=1, own=True), upload(azure, run), WORK)

    with pytest.raises(ServiceError) as error:
        in_flow(add)
    assert error.value.code == "JobCompleted"


def test_a_second_delete_finds_everything_gone_or_going(azure: Azure, run: Run) -> None:
    in_flow(lambda: create_containers(azure, run))
    make_pool(azure, run, nodes=1)
    make_job(azure, run, "sleep 600")

    def twice() -> None:
        for _ in range(2):
            delete_containers(azure, run, Disposal.DELETE)
            delete_job(azure, run, Disposal.DELETE)
            delete_pool(azure, run, ONE_NODE, Disposal.DELETE)

    in_flow(twice)
    with azure.batch() as batch, azure.blobs() as blobs:
        assert list(blobs.list_containers(name_starts_with=run.name)) == []
        wait_until(lambda: run.name not in job_and_pool_ids(batch))


def test_what_is_to_be_kept_is_not_deleted(azure: Azure, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    make_pool(azure, run, nodes=0)
    make_job(azure, run)

    def keep() -> None:
        create_containers(azure, run)
        delete_containers(azure, run, Disposal.KEEP)
        delete_job(azure, run, Disposal.KEEP)
        delete_pool(azure, run, ONE_NODE, Disposal.KEEP)
        delete_pool(azure, run, PoolSettings(existing_pool_id=run.pool_id), Disposal.DELETE)

    with caplog.at_level(logging.INFO, "prefect"):
        in_flow(keep)
    assert still_there(azure, run) == ["pool", "job", "application", "input", "output"]
    assert f"Pool {run.name}: stays, this run did not create it" in caplog.messages
    until = f"{run.expires:%Y-%m-%d %H:%M} UTC at the latest, when its autoscale formula removes them"
    assert f"Pool {run.name}: kept; its nodes go on billing until {until}" in caplog.messages


# A stranger's resource with this run's name.


def still_there(azure: Azure, run: Run) -> list[str]:
    with azure.batch() as batch, azure.blobs() as blobs:
        pools = ["pool" for pool in batch.list_pools() if pool.id == run.name and pool.state == "active"]
        jobs = ["job" for job in batch.list_jobs() if job.id == run.name and job.state == "active"]
        containers = blobs.list_containers(name_starts_with=run.name)
        return [*pools, *jobs, *(each.name.removeprefix(f"{run.name}-") for each in containers)]


def test_a_stranger_s_container_is_neither_adopted_nor_deleted(azure: Azure, run: Run) -> None:
    name = run.container(Role.INPUT)
    with azure.blobs() as blobs:
        blobs.create_container(name, metadata=new_run().tags.metadata())
    with pytest.raises(ConflictError, match=f"^container {name} exists and was not created by this run; delete it"):
        in_flow(lambda: create_containers(azure, run))
    in_flow(lambda: delete_containers(azure, run, Disposal.DELETE))
    assert still_there(azure, run) == ["input"]


def test_a_stranger_s_pool_is_neither_adopted_nor_deleted(azure: Azure, run: Run) -> None:
    make_pool(azure, run, nodes=0, owner=new_run())
    with pytest.raises(ConflictError, match=f"^pool {run.name} exists and was not created by this run; delete it"):
        in_flow(lambda: create_pool(azure, run, ONE_NODE, upload(azure, run).application))
    in_flow(lambda: delete_pool(azure, run, ONE_NODE, Disposal.DELETE))
    assert still_there(azure, run)[0] == "pool"


def test_a_stranger_s_job_is_neither_adopted_nor_deleted(azure: Azure, run: Run) -> None:
    make_job(azure, run, owner=new_run())
    pool = UsedPool(id=run.name, slots_per_node=1, own=True)
    with pytest.raises(ConflictError, match=f"^job {run.name} exists and was not created by this run; delete it"):
        in_flow(lambda: create_job(azure, run, pool, NO_FILES))
    in_flow(lambda: delete_job(azure, run, Disposal.DELETE))
    assert still_there(azure, run) == ["job"]


# What monitoring ends with.


def test_monitoring_ends_with_the_lifetime_of_the_run(azure: Azure, run: Run) -> None:
    pool = make_pool(azure, run, nodes=1)
    added = make_job(azure, run, "sleep 600")
    over = replace(run, started=run.started - timedelta(minutes=10), lifetime=timedelta(minutes=5))
    problem = watched(azure, over, pool, added, pace()).problem
    assert isinstance(problem, RunTimeout)
    assert str(problem) == "the run reached its limit of 0:05:00 with 1 Batch tasks not completed"


def test_monitoring_ends_with_a_terminated_job_and_says_why(azure: Azure, run: Run) -> None:
    pool = make_pool(azure, run, nodes=1)
    added = make_job(azure, run, "sleep 600", "sleep 600")
    with azure.batch() as batch:

        def terminate_once_it_runs() -> None:
            if is_running(batch, run):
                terminate(batch, run, "EnoughForToday")

        problem = watched(azure, run, pool, added, pace(terminate_once_it_runs)).problem
    assert isinstance(problem, TasksFailed)
    assert str(problem) == f"job {run.name} ended (EnoughForToday) with 1 Batch tasks not completed"


def monitored(azure: Azure, run: Run, *scripts: str) -> Sequence[TaskOutcome]:
    pool = make_pool(azure, run, nodes=1)
    added = make_job(azure, run, *scripts)
    return watched(azure, run, pool, added, pace()).outcomes


def test_a_failed_task_is_reported_with_stderr_without_signatures(
    azure: Azure, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    outcome, other = monitored(azure, run, 'echo "PUT http://x/y?sp=cw&sig=abc123&sv=1" >&2; exit 1', "true")
    assert (outcome.succeeded, outcome.exit_code, outcome.retries) == (False, 1, 0)
    assert outcome.failure is not None
    assert (outcome.failure.category, outcome.failure.code) == ("UserError", "FailureExitCode")
    assert (other.succeeded, other.exit_code, other.failure) == (True, 0, None)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    said = record.getMessage()
    assert said.startswith(f"Batch task topNtask0 (0.txt) exited non-zero, exit code 1, node {outcome.node}: ")
    assert said.endswith("\n  stderr: PUT http://x/y?sp=cw&sig=***&sv=1")
    assert "abc123" not in caplog.text


def test_a_signature_cut_by_the_tail_of_stderr_is_removed(
    azure: Azure, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    monitored(azure, run, 'printf "sig=%0200d " 7 >&2; printf %01950d 0 | tr 0 x >&2; exit 1')
    assert "x" * 1950 in caplog.text
    assert "0000" not in caplog.text


# With an instance of its own, which can be asked for faults.


def test_a_pool_that_gets_no_nodes_fails_the_run_with_the_reason(troubled: Azure, troubled_run: Run) -> None:
    faults.ask("quota", {"nodes": 0})
    pool = make_pool(troubled, troubled_run, nodes=2)
    added = make_job(troubled, troubled_run, "true")
    problem = watched(troubled, troubled_run, pool, added, pace()).problem
    assert isinstance(problem, TasksFailed)
    assert str(problem).startswith(f"pool {troubled_run.name} got no nodes: AccountCoreQuotaReached: ")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the SDK nor Prefect waits between two tries."""
    monkeypatch.setattr(RetryPolicy, "get_backoff_time", lambda self, settings: 0)
    monkeypatch.setattr(create_job, "retry_delay_seconds", 0)


def runs_of_create_job(azure: Azure, run: Run) -> tuple[object, list[int]]:
    """How the step ended, and how often Prefect ran it."""

    @flow(name="one step", persist_result=False)
    def one_step() -> object:
        pool = UsedPool(id=run.pool_id, slots_per_node=1, own=True)
        state = create_job(azure, run, pool, NO_FILES, return_state=True)
        return state.result(raise_on_failure=False)

    state = one_step(return_state=True)
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    with get_client(sync_client=True) as client:
        task_runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
    return state.result(raise_on_failure=False), [task_run.run_count for task_run in task_runs]


def test_a_step_whose_service_is_busy_is_run_again(troubled: Azure, troubled_run: Run, at_once: None) -> None:
    attempts = 1 + RetryPolicy().status_retries  # of the SDK itself
    faults.ask("requests", {"operation": "create_job", "status": 503, "times": attempts + 1})
    assert runs_of_create_job(troubled, troubled_run) == (troubled_run.name, [2])


def test_a_step_whose_answer_was_lost_adopts_what_it_made(troubled: Azure, troubled_run: Run, at_once: None) -> None:
    faults.ask("requests", {"operation": "create_job", "drop": True, "after_commit": True})
    result, counts = runs_of_create_job(troubled, troubled_run)
    assert result == troubled_run.name
    assert counts in ([1], [2])  # whether the SDK itself sends a POST again is its own affair


def test_a_step_that_is_refused_is_not_run_again(troubled: Azure, troubled_run: Run, at_once: None) -> None:
    faults.ask("requests", {"operation": "create_job", "status": 403})
    error, counts = runs_of_create_job(troubled, troubled_run)
    assert isinstance(error, ServiceError)
    assert (error.code, error.transient) == ("AuthenticationFailed", False)
    answered = (
        r"Azure Batch answered 403 AuthenticationFailed: .*\n  request id: [0-9a-f-]{36}\n.* \[AuthenticationFailed\]$"
    )
    assert re.match(answered, str(error), re.DOTALL)
    assert counts == [1]
    with troubled.batch() as batch:
        assert troubled_run.name not in {job.id for job in batch.list_jobs()}


def test_every_step_retries_with_longer_delays_and_deletes_most_often() -> None:
    steps: list[Task[Any, Any]] = [create_containers, upload_files, create_pool, create_job, add_tasks, monitor_tasks]
    deletes: list[Task[Any, Any]] = [delete_containers, delete_job, delete_pool]
    assert [(each.retries, each.retry_delay_seconds) for each in steps] == [(4, [2, 4, 8, 16])] * 6
    assert [(each.retries, each.retry_delay_seconds) for each in deletes] == [(7, [2, 4, 8, 16, 32, 64, 128])] * 3


# Collections of tasks.


def test_tasks_too_large_for_one_request_are_added_by_halves(azure: Azure, run: Run) -> None:
    make_job(azure, run)
    large = [EnvironmentSetting(name="LARGE", value="x" * 25_000)]
    tasks = [
        BatchTaskCreateOptions(id=f"task{index}", command_line="true", environment_settings=large)
        for index in range(100)
    ]
    sent: list[int] = []
    with azure.batch() as batch:
        real = batch.create_task_collection

        def counted(job_id: str, group: BatchTaskGroup) -> BatchCreateTaskCollectionResult:
            sent.append(len(group.task_values))
            return real(job_id, group)

        batch.create_task_collection = counted  # type: ignore[method-assign, assignment]
        _add(batch, run.job_id, tasks)
    assert sent == [100, 50, 25, 25, 50, 25, 25]
    assert task_ids(azure, run) == sorted(f"task{index}" for index in range(100))


def test_a_task_too_large_for_a_request_is_refused_by_error_code(azure: Azure, run: Run) -> None:
    make_job(azure, run)
    large = [EnvironmentSetting(name="LARGE", value="x" * 1_500_000)]
    task = BatchTaskCreateOptions(id="task", command_line="true", environment_settings=large)
    with azure.batch() as batch, pytest.raises(HttpResponseError) as error:
        _add(batch, run.job_id, [task])
    assert ServiceError.of(error.value).code == "RequestBodyTooLarge"
    assert task_ids(azure, run) == []


def test_a_refused_task_is_named_with_the_error_code(azure: Azure, run: Run) -> None:
    make_job(azure, run)
    tasks = [BatchTaskCreateOptions(id=name, command_line="true") for name in ("good", "not an id!")]
    with azure.batch() as batch, pytest.raises(ServiceError) as error:
        _add(batch, run.job_id, tasks)
    assert (error.value.code, error.value.transient) == ("InvalidPropertyValue", False)
    assert str(error.value).startswith("Azure Batch did not take task not an id!: InvalidPropertyValue: ")
    assert task_ids(azure, run) == ["good"]


def test_tasks_that_are_there_already_are_left_as_they_are(azure: Azure, run: Run) -> None:
    make_job(azure, run)
    with azure.batch() as batch:
        _add(batch, run.job_id, [BatchTaskCreateOptions(id="one", command_line="first")])
        _add(batch, run.job_id, [BatchTaskCreateOptions(id=name, command_line="second") for name in ("one", "two")])
        assert [(task.id, task.command_line) for task in batch.list_tasks(run.job_id)] == [
            ("one", "first"),
            ("two", "second"),
        ]
