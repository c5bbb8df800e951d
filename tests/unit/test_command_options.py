"""Every option of the command reaches the flow, and what the flow ends with reaches the person."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import typer
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner, Result

from flows import cli as command_line
from flows import command_run
from flows.top_words import top_words
from tasks.errors import ConflictError, TasksFailed
from tasks.run.settings import CleanUp, Disposal, PoolSettings, PublicIp, TimeLimits
from tasks.summary import Summary
from tests.support.paths import DATA

RUN = "0198c0de-0000-7000-8000-00000000c0de"
SUMMARY = Summary(
    by_file=pd.DataFrame(
        [("clouds.txt", 1, "the", 16, "topNtask0", "node-1")],
        columns=["file", "rank", "word", "count", "task", "node"],
    ),
    overall=pd.DataFrame([(1, "the", 16, 16, 1)], columns=["rank", "word", "count", "at_most", "files"]),
    folder=Path("results/top-words-c0de"),
    flow_run_id=RUN,
)
STARTING = "Input: 3 files; starting Prefect\n"
HARBOUR = str(DATA / "har*.txt")
ACCOUNTS = {
    "AZURE_BATCH_ACCOUNT": "batch",
    "AZURE_BATCH_ENDPOINT": "https://batch.region.batch.azure.com",
    "AZURE_BATCH_ACCESS_KEY": "a2V5",
    "AZURE_STORAGE_ACCOUNT": "storage",
    "AZURE_STORAGE_KEY": "a2V5",
}


class Recorder:
    """Stands where the flow is called; keeps the flow's parameters as the flow would see them."""

    def __init__(self) -> None:
        self.ends: Summary | Exception = SUMMARY
        self.calls: list[dict[str, Any]] = []
        self.local_azure: list[str] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Summary:
        bound = inspect.signature(top_words.fn).bind(*args, **kwargs)
        bound.apply_defaults()
        self.calls.append(bound.arguments)
        self.local_azure.append("flow")
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends

    @contextmanager
    def starting_ahead(self) -> Iterator[None]:
        self.local_azure.append("starting")
        yield
        self.local_azure.append("ended")


@pytest.fixture
def flow(no_azure: None, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    for name, value in ACCOUNTS.items():
        monkeypatch.setenv(name, value)
    recorder = Recorder()
    monkeypatch.setattr("flows.top_words.top_words", recorder)
    monkeypatch.setattr("flows.prefect_server.start_server_ahead", lambda: None)
    monkeypatch.setattr(command_run, "ensure_prefect_server", lambda: None)
    monkeypatch.setattr(command_line, "starting_ahead", recorder.starting_ahead)
    return recorder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command_line.app, [str(DATA), *arguments])


DEFAULTS: dict[str, Any] = {
    "inputs": [str(DATA)],
    "top_n": 10,
    "pool": PoolSettings(),
    "limits": TimeLimits(),
    "output_folder": "results",
    "clean_up": CleanUp(),
    "allow_failures": 0,
    "files_per_task": None,
    "isolate": False,
    "skip_done": False,
    "accounts": None,
    "cost_limit": None,
    "check": False,
    "delay_seconds": 0,
    "encoding": None,
    "exact": False,
}

NO_CONTAINER_IMAGE = (
    "is not a container image; write it as for docker pull, without https://, such as ghcr.io/team/align:1.2"
)

FILES_PER_TASK = "give a Batch task 1 to 1,000 files, or leave it out to have it chosen"

GALLERY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/ours/images/align"
IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
AGENT = "batch.node.ubuntu 24.04"
SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/ours/subnets/nodes"

OPTIONS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "inputs": ([HARBOUR], {"inputs": [str(DATA), HARBOUR]}),
    "top_n": (["--top-n", "3"], {"top_n": 3}),
    "dedicated_nodes": (["--nodes", "5"], {"pool": PoolSettings(dedicated_nodes=5)}),
    "spot_nodes": (["--spot-nodes", "8"], {"pool": PoolSettings(spot_nodes=8)}),
    "dedicated_after_minutes": (
        ["--dedicated-after-minutes", "9", "--pool-id", "any"],
        {"pool": PoolSettings(dedicated_after_minutes=9, existing_pool_id="any")},
    ),
    "vm_size": (["--vm-size", "standard_a1_v2"], {"pool": PoolSettings(vm_size=("standard_a1_v2",))}),
    "image": (["--image", "debian:debian-12:12:1"], {"pool": PoolSettings(image="debian:debian-12:12:1")}),
    "node_agent_sku": (
        ["--node-agent-sku", AGENT, "--image", GALLERY],
        {"pool": PoolSettings(image=GALLERY, node_agent_sku=AGENT)},
    ),
    "subnet_id": (["--subnet-id", SUBNET], {"pool": PoolSettings(subnet_id=SUBNET)}),
    "public_ip": (
        ["--public-ip", "none", "--pool-id", "any"],
        {"pool": PoolSettings(public_ip=PublicIp.NONE, existing_pool_id="any")},
    ),
    "container_image": (["--container-image", "debian:12"], {"pool": PoolSettings(container_image="debian:12")}),
    "container_registry": (
        ["--container-registry", "hub", "--container-image", "a/b"],
        {"pool": PoolSettings(container_registry="hub", container_image="a/b")},
    ),
    "slots_per_node": (["--slots-per-node", "4"], {"pool": PoolSettings(slots_per_node=4)}),
    "slots_per_task": (
        ["--slots-per-task", "2", "--pool-id", "any"],
        {"pool": PoolSettings(slots_per_task=2, existing_pool_id="any")},
    ),
    "node_python": (["--node-python", "3.10"], {"pool": PoolSettings(node_python="3.10")}),
    "pool_id": (["--pool-id", "team-pool"], {"pool": PoolSettings(existing_pool_id="team-pool")}),
    "node_identity": (
        ["--node-identity", IDENTITY, "--pool-id", "team-pool"],
        {"pool": PoolSettings(node_identity=IDENTITY, existing_pool_id="team-pool")},
    ),
    "run_minutes": (["--run-minutes", "33"], {"limits": TimeLimits(run_minutes=33)}),
    "task_minutes": (["--task-minutes", "7"], {"limits": TimeLimits(task_minutes=7)}),
    "task_retries": (["--task-retries", "6"], {"limits": TimeLimits(task_retries=6)}),
    "stall_minutes": (["--stall-minutes", "11"], {"limits": TimeLimits(stall_minutes=11)}),
    "allow_failures": (["--allow-failures", "12"], {"allow_failures": 12}),
    "files_per_task": (["--files-per-task", "50"], {"files_per_task": 50}),
    "isolate": (["--isolate"], {"isolate": True}),
    "output": (["--output", "elsewhere"], {"output_folder": "elsewhere"}),
    "skip_done": (["--skip-done"], {"skip_done": True}),
    "keep_containers": (["--keep-containers"], {"clean_up": CleanUp(containers=Disposal.KEEP)}),
    "keep_job": (["--keep-job"], {"clean_up": CleanUp(job=Disposal.KEEP)}),
    "keep_pool": (["--keep-pool"], {"clean_up": CleanUp(pool=Disposal.KEEP)}),
    "ask": (["--ask"], {"clean_up": CleanUp(job=Disposal.ASK, pool=Disposal.ASK)}),
    "cost_limit": (["--cost-limit", "2.5"], {"cost_limit": 2.5}),
    "accounts": (["--accounts", "mine"], {"accounts": "mine"}),
    "check": (["--check"], {"check": True}),
    "delay": (["--delay", "1.5"], {"delay_seconds": 1.5}),
    "encoding": (["--encoding", "windows-1251"], {"encoding": "windows-1251"}),
    "exact": (["--exact"], {"exact": True}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_reaches_the_flow_and_changes_nothing_else(name: str, flow: Recorder) -> None:
    arguments, changed = OPTIONS[name]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert flow.calls == [{**DEFAULTS, **changed}]


def test_without_options_the_flow_has_its_own_defaults(flow: Recorder) -> None:
    assert run().exit_code == 0
    assert flow.calls == [DEFAULTS]


def test_there_is_no_option_beside_those_that_are_tested_here() -> None:
    assert [parameter.name for parameter in typer.main.get_command(command_line.app).params] == list(OPTIONS)


def test_all_options_together_reach_the_flow(flow: Recorder) -> None:
    # A subnet and a limit of the cost are for a new pool, and there is the id of an existing one.
    together = [arguments for name, (arguments, _) in OPTIONS.items() if name not in ("subnet_id", "cost_limit")]
    assert run(*(argument for arguments in together for argument in arguments)).exit_code == 0
    assert flow.calls == [
        {
            "inputs": [str(DATA), HARBOUR],
            "top_n": 3,
            "pool": PoolSettings(
                dedicated_nodes=5,
                spot_nodes=8,
                dedicated_after_minutes=9,
                vm_size=("standard_a1_v2",),
                image=GALLERY,
                node_agent_sku=AGENT,
                public_ip=PublicIp.NONE,
                node_python="3.10",
                container_image="a/b",
                container_registry="hub",
                slots_per_node=4,
                slots_per_task=2,
                existing_pool_id="team-pool",
                node_identity=IDENTITY,
            ),
            "limits": TimeLimits(run_minutes=33, task_minutes=7, task_retries=6, stall_minutes=11),
            "output_folder": "elsewhere",
            "clean_up": CleanUp(containers=Disposal.KEEP, job=Disposal.KEEP, pool=Disposal.KEEP),
            "allow_failures": 12,
            "files_per_task": 50,
            "isolate": True,
            "skip_done": True,
            "encoding": "windows-1251",
            "exact": True,
            "accounts": "mine",
            "cost_limit": None,
            "check": True,
            "delay_seconds": 1.5,
        }
    ]


class Clock:
    """Stands for the module `time`."""

    def __init__(self, *times: float) -> None:
        self.monotonic = iter(times).__next__


@pytest.mark.parametrize(
    ("api", "where"),
    [
        ("http://127.0.0.1:9/api", "http://127.0.0.1:9/runs/flow-run/{run}"),
        (
            "https://api.prefect.cloud/api/accounts/a/workspaces/b",
            "https://app.prefect.cloud/account/a/workspace/b/runs/flow-run/{run}",
        ),
        (None, "make ui, then http://127.0.0.1:4200/v2/runs/flow-run/{run}"),
    ],
    ids=["with a server", "in Prefect Cloud", "without"],
)
def test_summary_time_folder_and_page_of_the_run_are_printed(
    api: str | None, where: str, flow: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_run, "time", Clock(1000.0, 1063.5))
    with temporary_settings({PREFECT_API_URL: api}):
        result = run()
    assert (result.exit_code, result.stderr) == (0, STARTING)
    assert result.stdout == (
        f"\n{SUMMARY}\n\nElapsed time: 63.5 s. Results: results/top-words-c0de\n"
        f"See this run in the Prefect UI: {where.format(run=RUN)}\n"
    )


def test_an_error_of_ours_is_its_message_on_stderr_and_exit_code_1(flow: Recorder) -> None:
    flow.ends = ConflictError("pool top-words-c0de exists and was not created by this run")
    result = run()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{STARTING}\nError: pool top-words-c0de exists and was not created by this run\n"


def test_an_error_of_another_kind_is_named_with_its_type(flow: Recorder) -> None:
    flow.ends = ZeroDivisionError("division by zero")
    result = run()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{STARTING}\nError: ZeroDivisionError: division by zero\n"


def test_failed_batch_tasks_do_not_hide_the_summary_of_the_others(flow: Recorder) -> None:
    failure = TasksFailed("1 of 2 Batch tasks failed")
    failure = failure.with_result(SUMMARY, ())
    flow.ends = failure
    result = run()
    assert (result.exit_code, result.stdout.split("\n\nSee this run in the Prefect UI: ")[0]) == (1, f"\n{SUMMARY}")
    assert result.stdout.endswith(f"/runs/flow-run/{RUN}\n")
    assert result.stderr == f"{STARTING}\nError: 1 of 2 Batch tasks failed\n"


def test_a_prefect_server_that_is_gone_is_named_with_the_folder(flow: Recorder) -> None:
    flow.ends = httpx.ConnectError("All connection attempts failed")
    with temporary_settings({PREFECT_API_URL: "http://prefect.example:4200/api"}):
        result = run("--output", "elsewhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(
        f"{STARTING}\nError: the Prefect server at http://prefect.example:4200/api is not responding "
        "(ConnectError: All connection attempts failed). The Batch work does not need it"
    )
    assert "in the run's folder in elsewhere" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slots-per-node", "0"], "--slots-per-node: Input should be greater than or equal to 1"),
        (["--run-minutes", "4"], "--run-minutes: Input should be greater than or equal to 5"),
        (["--task-retries", "101"], "--task-retries: Input should be less than or equal to 100"),
        (
            ["--nodes", "-1", "--pool-id", "no pool"],
            "--nodes: Input should be greater than or equal to 0\n"
            "--pool-id: 'no pool' is not a pool id; an id has 1 to 64 letters, digits, - and _",
        ),
        (
            ["--nodes", "0"],
            "--nodes and --spot-nodes are both 0; a pool without nodes runs no task",
        ),
        (
            ["--slots-per-task", "2"],
            "--slots-per-task is 2, but a node has 1 (--slots-per-node); no node could ever run such a task",
        ),
        (
            ["--dedicated-after-minutes", "5"],
            "--dedicated-after-minutes is for pools with --spot-nodes, and there are none",
        ),
        (
            ["--dedicated-nodes=0", "--image", "ubuntu"],
            "--image: 'ubuntu' is not an image; write publisher:offer:sku, such as canonical:ubuntu-24_04-lts:server",
        ),
        (
            ["--public-ip", "none"],
            "--public-ip is none, which Azure Batch permits only in a subnet of your own: nodes would have no way to "
            "Azure Batch and Blob Storage; set --subnet-id to a subnet with a NAT gateway or private endpoints",
        ),
        (
            ["--image", GALLERY],
            "--node-agent-sku is not set, and image is of a gallery: Azure Batch cannot see what operating system that "
            "has; set --node-agent-sku, such as batch.node.ubuntu 24.04",
        ),
        (["--container-image", "https://a/b"], f"--container-image: 'https://a/b' {NO_CONTAINER_IMAGE}"),
        (["--container-registry", "hub"], "--container-registry is for a --container-image, and there is none"),
        (["--dedicated-nodes=0"], "--dedicated-nodes and --spot-nodes are both 0; a pool without nodes runs no task"),
        (["--top-n", "0"], "--top-n is 0; ask for at least 1 word per file"),
        (["--allow-failures", "-1"], "--allow-failures is -1; allow 0 or more files to be without output"),
        (["--files-per-task", "0"], f"--files-per-task is 0; {FILES_PER_TASK}"),
        (["--files-per-task", "1001"], f"--files-per-task is 1,001; {FILES_PER_TASK}"),
        (
            ["--delay", "60", "--task-minutes", "1"],
            "--delay is 60; a delay is 0 or more seconds, and less than the 1 minutes (--task-minutes) that a Batch "
            "task may take",
        ),
    ],
)
def test_wrong_options_are_each_named_and_no_flow_runs(arguments: list[str], said: str, flow: Recorder) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"\nError: {said}\n")
    assert (flow.calls, flow.local_azure) == ([], [])


@pytest.mark.parametrize("typed", ["--nodes", "--dedicated-nodes"])
def test_a_value_of_the_wrong_type_is_refused_at_the_option_typed(typed: str, flow: Recorder) -> None:
    result = run(typed, "many")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"\nError: Invalid value for '{typed}': " in result.stderr


def test_an_error_of_the_flow_names_options_but_leaves_paths_alone(flow: Recorder) -> None:
    flow.ends = ConflictError("top_n and output_folder are wrong in top_n/x.txt, 'top_n' and my-top_n")
    assert run().stderr == f"{STARTING}\nError: --top-n and --output are wrong in top_n/x.txt, 'top_n' and my-top_n\n"


def test_too_many_paths_are_one_line_that_says_to_quote(flow: Recorder) -> None:
    result = CliRunner().invoke(command_line.app, [f"texts/{number:0200}.txt" for number in range(2600)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "\nError: 2,600 inputs with 556,400 bytes of paths are more than the 524,288 bytes that Prefect accepts as "
        "parameters; quote the glob, so that the flow expands it and not the shell: 'texts/*.txt'\n"
    )
    assert (flow.calls, flow.local_azure) == ([], [])


def test_a_misspelled_setting_is_refused_before_the_input_is_read(
    flow: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_BATCH_ACOUNT", "x")
    result = CliRunner().invoke(command_line.app, ["no/such/file"])
    assert (result.exit_code, result.stderr.count("AZURE_BATCH_ACOUNT")) == (1, 1)
    assert (flow.calls, flow.local_azure) == ([], [])


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("flows.top_words", ["data", "--topn", "3"], "No such option: --topn"),
        ("flows.top_words", ["no/such/file"], "input 'no/such/file': no file matches"),
        ("flows.top_words", ["--help"], "one Batch task per file"),
        ("flows.sweep", ["--flow-run", "x"], "--flow-run is 'x', which is no id of a flow run"),
        ("flows.credentials", ["x", "--overwrit"], "No such option: --overwrit"),
        ("flows.run_script", ["examples/checksums/checksum.sh", "no/such/file"], "input 'no/such/file': no file"),
    ],
)
def test_an_answer_to_what_was_typed_needs_no_slow_import(module: str, arguments: list[str], said: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", module, *arguments]
    done = subprocess.run(command, cwd=DATA.parent, capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr).count(said) == 1
    assert not re.findall(r"\| +((?:prefect|pandas|httpx|azure\.(?:batch|storage))\S*)$", done.stderr, re.MULTILINE)


def test_half_an_account_is_refused_and_nothing_local_is_started(
    flow: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_BATCH_ENDPOINT")
    result = run()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("\nError: ")
    assert "AZURE_BATCH_ENDPOINT" in result.stderr
    assert (flow.calls, flow.local_azure) == ([], [])


def test_the_local_azure_starts_ahead_only_without_an_account(flow: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().exit_code == 0
    assert flow.local_azure == ["flow"]
    for name in ACCOUNTS:
        monkeypatch.delenv(name)
    flow.local_azure.clear()
    assert run().exit_code == 0
    assert flow.local_azure == ["starting", "flow", "ended"]
