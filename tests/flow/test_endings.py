"""However a flow run ends, nothing of it is left that was not to be kept, and nothing of anybody else's is touched.

All parts are real and each is a process of its own: the local Azure, the Prefect server, the worker, `serve`, and the
flow runs, which get real signals. A flow run on this machine alone is forked from a process that has imported the flow
already, since the import takes longer than the run.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from azure.batch import BatchClient
from azure.batch.models import (
    BatchJobCreateOptions,
    BatchPoolInfo,
)
from azure.core.exceptions import ResourceNotFoundError
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Suspended

import flows.sweep
import flows.top_words
from flows import cli as command_line
from flows.sweep import sweep
from flows.top_words import top_words
from local_azure import faults
from tasks.accounts.block import AzureBatchAccounts
from tasks.accounts.clients import Azure
from tasks.run.fetch import Fetcher
from tasks.run.identity import Role, Run
from tasks.run.settings import TimeLimits
from tests.support.accounts import add_pool, azure_with_faults, list_leftovers
from tests.support.deployed import Deployed
from tests.support.paths import ROOT
from tests.support.polling import LIMIT, eventually
from tests.support.steps import STEPS

SOON = 30.0  # seconds: so long Prefect leaves to a run that was cancelled, and so long may cleaning up take
AT_ONCE = 10.0  # seconds: in which the deletes of what bills are sent, also on a busy machine
BLOCK = "accounts-of-endings"
TEAM = "top-words-team"  # an existing pool
STRANGER = "top-words-stranger"
TEXTS = {"good.txt": "the cat and the dog the end", "bad.txt": "a dog a day"}
KEEP = {"containers": "keep", "job": "keep", "pool": "keep"}

# Instead of the node script, where a file is to fail.
_FAILS_ON_BAD = """\
import os, sys
if "bad.txt" in os.environ["INPUT_FILE"]:
    sys.exit("this file fails")
os.execv(sys.executable, [sys.executable, {script!r}, *sys.argv[1:]])
"""
# From a source: what the runs are started from is then the flow's file, as with a worker.
_SERVE = """
from pathlib import Path
from flows.top_words import top_words
flow = top_words.from_source(source=Path.cwd(), entrypoint="flows/top_words.py:top_words")
flow.serve(name="served", pause_on_shutdown=False)
"""


# The flow on this machine alone, in a forked process.


class Death(str, Enum):
    """Where a flow run is killed with SIGKILL."""

    CONTAINERS = "after the containers"
    UPLOAD = "after the upload"
    POOL = "after the pool"
    JOB = "after the job"
    TASKS = "after the tasks were added"
    RUNNING = "while they run"
    DOWNLOAD = "while downloading"
    DELETES = "half way through the deletes"
    WITH_ALL = "with the worker and the server"


_AFTER = {
    Death.CONTAINERS: "create_containers",
    Death.UPLOAD: "upload_files",
    Death.POOL: "create_pool",
    Death.JOB: "create_job",
    Death.TASKS: "add_tasks",
    Death.DELETES: "delete_pool",
}


def run_command(arguments: Sequence[str], output: Path, death: Death | None, node_script: Path | None) -> None:
    """`python -m flows.top_words` in a process that is forked for it."""
    with output.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if death:
        _die_at(death)
    if node_script:
        flows.top_words.NODE_SCRIPT = node_script
    command_line.app(args=list(arguments), prog_name="python -m flows.top_words")


def _die_at(death: Death) -> None:
    if death in _AFTER:
        step = STEPS[_AFTER[death]]
        step.fn = _deadly(step.fn)
    if death is Death.DELETES:
        for name in ("delete_job", "delete_containers"):
            STEPS[name].fn = lambda *given: threading.Event().wait()
    if death is Death.DOWNLOAD:
        Fetcher.store = _deadly(Fetcher.store)  # type: ignore[method-assign]


def _deadly(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> None:
        function(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    return call


# Azure as the tests look at it.


def batch_names(batch: BatchClient) -> set[str]:
    return {
        *(f"pool {pool.id}" for pool in batch.list_pools() if pool.state != "deleting"),
        *(f"job {job.id}" for job in batch.list_jobs() if job.state != "deleting"),
    }


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """The accounts of these tests, which outlive every flow run, and the Azurite in which the containers are."""

    azure: Azure
    settings: Mapping[str, str] = field(repr=False)
    azurite: int  # its process

    def there(self, part: str = "") -> set[str]:
        """What there is and is not being deleted, if it has this in its name."""
        with self.azure.batch() as batch, self.azure.blobs() as blobs:
            containers = {f"container {container.name}" for container in blobs.list_containers()}
            return {name for name in batch_names(batch) | containers if part in name}

    def kept(self, run: Run) -> set[str]:
        return {
            each.name for each in list_leftovers(self.azure) if each.tags.kept and each.tags.owned_by(run.flow_run_id)
        }

    def pool(self, name: str) -> dict[str, Any]:
        """All that is said of a pool, but for the nodes that it has just now."""
        with self.azure.batch() as batch:
            told: dict[str, Any] = batch.get_pool(name).as_dict()
        passing = ("current", "allocationState", "autoScaleRun", "resizeErrors")
        return {key: value for key, value in told.items() if not key.startswith(passing)}

    def nodes(self, name: str) -> int:
        with self.azure.batch() as batch:
            return len(list(batch.list_nodes(name)))

    def runs_a_task(self, run: Run) -> bool:
        with self.azure.batch() as batch, suppress(ResourceNotFoundError):
            return any(task.state == "running" for task in batch.list_tasks(run.job_id))
        return False

    @contextmanager
    def storage_silent(self) -> Iterator[None]:
        """Blob Storage takes connections and answers nothing."""
        os.kill(self.azurite, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.azurite, signal.SIGCONT)


def of_run(run: Run, *kinds: str) -> set[str]:
    """How the tests speak of what the run creates."""
    every = {
        "containers": {f"container {run.container(role)}" for role in Role},
        "pool": {f"pool {run.pool_id}"},
        "job": {f"job {run.job_id}"},
    }
    return set().union(*(every[kind] for kind in kinds))


def run_of(flow_run_id: object) -> Run:
    return Run.start(str(flow_run_id), "top-words", TimeLimits())


def process_with(part: str, where: str) -> int | None:
    """The process that has this in its `cmdline` or `environ`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if part.encode() in (folder / where).read_bytes():
                return int(folder.name)
    return None


def make_pool(azure: Azure, name: str, tags: Mapping[str, str]) -> None:
    """A pool of somebody else's, which scales by a formula and has tags of its own."""
    add_pool(
        azure,
        name,
        tags,
        task_slots_per_node=8,
        enable_auto_scale=True,
        auto_scale_formula="$TargetDedicatedNodes = 2;",
        auto_scale_evaluation_interval=timedelta(minutes=7),
    )


def make_strangers(azure: Azure) -> None:
    make_pool(azure, TEAM, {"owner": "the team"})
    make_pool(azure, STRANGER, {"project": "top-words of somebody else", "expires": "2020-01-01T00:00:00+00:00"})
    with azure.batch() as batch, azure.blobs() as blobs:
        batch.create_job(BatchJobCreateOptions(id=STRANGER, pool_info=BatchPoolInfo(pool_id=STRANGER)))
        blobs.create_container(STRANGER)


STRANGERS = {f"{kind} {STRANGER}" for kind in ("pool", "job", "container")} | {f"pool {TEAM}"}


# The house in which all runs take place.


@dataclass(kw_only=True)
class Local:
    """A flow run on this machine alone."""

    process: Any  # a Popen, or a Process of multiprocessing
    folder: Path

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def exit_code(self) -> int:
        """As subprocess has it: the signal that ended the process is below 0."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(LIMIT)
        self.process.join(LIMIT)
        code: int = self.process.exitcode
        return code

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()


@dataclass(kw_only=True)
class House:
    """Server, worker and `serve`, and the accounts that the runs work on."""

    accounts: Accounts
    server: Deployed
    folder: Path
    forked_here: multiprocessing.context.ForkServerContext
    serves: Callable[[], bool]

    def inputs(self, name: str) -> Path:
        folder = self.folder / name / "texts"
        folder.mkdir(parents=True)
        for file, text in TEXTS.items():
            (folder / file).write_text(text)
        return folder

    def start(self, name: str, deployment: str = "top-words", **parameters: Any) -> UUID:
        """A run of a deployment whose Batch tasks take ten minutes, unless told otherwise."""
        given = {
            "inputs": [str(self.inputs(name))],
            "pool": {"dedicated_nodes": 1, "slots_per_node": 4},
            "output_folder": str(self.folder / name / "results"),
            "delay_seconds": 600,
        }
        return self.server.start(deployment, **{**given, **parameters})

    def arguments(self, name: str, *more: str, delay: int = 600, pool: str = "") -> list[str]:
        pool_options = ["--pool-id", pool] if pool else ["--nodes", "1", "--slots-per-node", "4"]
        results = str(self.folder / name / "results")
        given = [str(self.inputs(name)), *pool_options, "--output", results, "--delay", str(delay)]
        return [*given, "--task-retries", "0", *more]

    def fork(self, name: str, *more: str, death: Death | None = None, fails: bool = False, **options: Any) -> Local:
        arguments = self.arguments(name, *more, **options)
        node_script = self.folder / "fails" / "top_words.py" if fails else None
        output = self.folder / name / "output"
        process = self.forked_here.Process(
            target=run_command, args=(arguments, output, death, node_script), daemon=True
        )
        process.start()
        return Local(process=process, folder=output.parent)

    def command(self, name: str, *more: str) -> Local:
        """The command as a user gives it."""
        arguments = self.arguments(name, *more)
        with (self.folder / name / "output").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.top_words", *arguments],
                cwd=ROOT,
                env={**self.server.environment, **self.accounts.settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Local(process=process, folder=self.folder / name)

    def process_of(self, flow_run_id: UUID) -> int:
        """The process of a deployment's flow run."""
        part = f"PREFECT__FLOW_RUN_ID={flow_run_id}"
        return eventually(f"a process of flow run {flow_run_id}", lambda: process_with(part, "environ"))

    def kill(self, flow_run_id: UUID) -> None:
        os.kill(self.process_of(flow_run_id), signal.SIGKILL)

    def flow_run(self, local: Local) -> FlowRun:
        """The flow run of a process, once it has begun."""
        texts = str(local.folder / "texts")

        def found() -> list[FlowRun]:
            return [run for run in self.server.runs() if run.parameters.get("inputs") == [texts]]

        return eventually(f"a flow run of {local.folder.name}", found)[0]

    def wait_for_tasks(self, flow_run_id: UUID) -> Run:
        run = run_of(flow_run_id)

        def running() -> bool:
            state = self.server.run(flow_run_id).state
            assert not (state and state.is_final()), self.server.describe(flow_run_id)
            return self.accounts.runs_a_task(run)

        eventually(f"a Batch task of {run.name} running", running)
        return run

    def ends_as(self, flow_run_id: UUID, state: str, left: Iterable[str] = ()) -> float:
        """The seconds until the run has this final state and nothing but this is left of it."""
        began = time.monotonic()
        run = run_of(flow_run_id)
        self.server.wait(flow_run_id, state, limit=SOON)
        expected = of_run(run, *left)
        eventually(
            f"nothing but {sorted(expected)} being left", lambda: self.accounts.there(run.name) == expected, SOON
        )
        assert self.accounts.kept(run) == expected
        return time.monotonic() - began


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("endings")
    fails = folder / "fails"
    fails.mkdir()
    (fails / "top_words.py").write_text(_FAILS_ON_BAD.format(script=str(ROOT / "node_scripts" / "top_words.py")))
    with ExitStack() as stack:
        server = Deployed.starting()
        stack.callback(stop, server)
        azure_folder = tmp_path_factory.mktemp("azure")
        settings = stack.enter_context(azure_with_faults(azure_folder))
        forked_here = forking(stack, {**server.environment, **settings})
        azure = Azure.from_environment(settings)
        assert azure
        azurite = process_with(f"--location {azure_folder}".replace(" ", "\0"), "cmdline")
        assert azurite
        make_strangers(azure)
        eventually("the server", server.healthy)
        with server.settings():
            AzureBatchAccounts.from_environment(settings).save(BLOCK)
        server.client.create_work_pool(WorkPoolCreate(name="local-process", type="process"))
        server.deploy_flow(top_words, inspect.getfile(top_words.fn))
        server.start_worker(settings)
        yield House(
            serves=stack.enter_context(serving(server)),
            accounts=Accounts(azure=azure, settings=settings, azurite=azurite),
            server=server,
            folder=folder,
            forked_here=forked_here,
        )


def stop(server: Deployed) -> None:
    """End what is left of the server; a test may have killed it."""
    if server.server.poll() is None and server.healthy():
        server.stop()
    server.server.kill()
    server.server.wait()
    shutil.rmtree(server.home, ignore_errors=True)


def forking(stack: ExitStack, environment: Mapping[str, str]) -> multiprocessing.context.ForkServerContext:
    """What forks processes in this environment, with the flow imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("AZURE_", "PREFECT_")):
                patch.delenv(name)
        for name, value in {**environment, "PYTHONPATH": str(ROOT)}.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return context


@contextmanager
def serving(server: Deployed) -> Iterator[Callable[[], bool]]:
    """The flow served from a process that knows of no accounts; whether it has begun to."""
    with (server.home / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            cwd=ROOT,
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield lambda: serves(server, process)
    finally:
        process.kill()
        process.wait()


def serves(server: Deployed, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, server.output("serve")
    return "served" in [each.name for each in server.client.read_deployments()]


@pytest.fixture(scope="module", autouse=True)
def nothing_of_others_is_touched(house: House) -> Iterator[None]:
    before = {name: house.accounts.pool(name) for name in (TEAM, STRANGER)}
    yield
    assert house.accounts.there() >= STRANGERS
    assert {name: house.accounts.pool(name) for name in before} == before


# Ends that a flow run comes to on this machine, without a deployment.

EXISTING = {"existing_pool_id": TEAM}
ALL = ("containers", "job", "pool")
KEEP_OPTIONS = ("--keep-containers", "--keep-job", "--keep-pool")


BY_THEMSELVES: Mapping[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "delete": ((), "", ()),
    "keep": (KEEP_OPTIONS, "", ALL),
    "existing": (("--keep-pool", "--keep-job"), TEAM, ("job",)),
}


@pytest.fixture(scope="module")
def ended(house: House) -> dict[tuple[str, bool], Local]:
    """Runs that end by themselves, and whether a file is to fail in them."""
    return {
        (name, fails): house.fork(f"{name}-{fails}", *options, delay=0, pool=pool, fails=fails)
        for name, (options, pool, _) in BY_THEMSELVES.items()
        for fails in (False, True)
    }


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
@pytest.mark.parametrize("name", BY_THEMSELVES)
def test_a_run_that_ends_by_itself_leaves_what_it_was_to_keep(
    house: House, deployed_runs: Mapping[str, UUID], ended: dict[tuple[str, bool], Local], name: str, fails: bool
) -> None:
    local = ended[name, fails]
    assert local.exit_code() == (1 if fails else 0), local.output
    house.ends_as(house.flow_run(local).id, "Failed" if fails else "Completed", BY_THEMSELVES[name][2])


@pytest.fixture(scope="module")
def interrupted(house: House) -> dict[str, tuple[Local, Run]]:
    """Runs that are about to get signals, and their Batch tasks running."""
    begun = {
        "SIGINT": house.command("sigint"),
        "SIGTERM": house.command("sigterm", *KEEP_OPTIONS),
        "existing": house.fork("existing", pool=TEAM),
        "silent": house.fork("silent"),
        "twice": house.fork("twice", "--keep-job"),
    }
    return {name: (local, house.wait_for_tasks(house.flow_run(local).id)) for name, local in begun.items()}


@pytest.mark.parametrize(
    ("name", "number", "left", "code"),
    [
        ("SIGINT", signal.SIGINT, (), 130),
        ("SIGTERM", signal.SIGTERM, ALL, 128 + signal.SIGTERM),  # the command, which stops what it has started
        ("existing", signal.SIGTERM, (), -signal.SIGTERM),  # the flow in a process that sets no handler
    ],
)
def test_a_signal_ends_a_run_as_its_parameters_say(
    house: House, interrupted: dict[str, tuple[Local, Run]], name: str, number: int, left: tuple[str, ...], code: int
) -> None:
    local, run = interrupted[name]
    local.signal(number)
    house.ends_as(UUID(run.flow_run_id), "Crashed", left)
    assert local.exit_code() == code


def test_nodes_are_deleted_at_once_while_storage_does_not_respond(
    house: House, interrupted: dict[str, tuple[Local, Run]]
) -> None:
    (once, run_once), (twice, run_twice) = interrupted["silent"], interrupted["twice"]
    billing = of_run(run_once, "pool", "job") | of_run(run_twice, "pool")
    with house.accounts.storage_silent(), house.accounts.azure.batch() as batch:
        once.signal(signal.SIGTERM)
        twice.signal(signal.SIGTERM)
        eventually("the deletes of what bills", lambda: not billing & batch_names(batch), AT_ONCE)
        twice.signal(signal.SIGTERM)
    house.ends_as(UUID(run_once.flow_run_id), "Crashed")
    house.ends_as(UUID(run_twice.flow_run_id), "Crashed", ["job"])


# Runs of deployments, which somebody else's process has started and watches.


DEPLOYED: Mapping[str, dict[str, Any]] = {
    "cancelled": {"pool": EXISTING, "clean_up": {"containers": "keep", "pool": "delete"}},
    "killed": {"pool": EXISTING, "clean_up": {"job": "keep", "pool": "delete"}},
    "killed while it asks": {"clean_up": {"containers": "ask", "job": "ask", "pool": "keep"}, "delay_seconds": 0},
    "killed with all others": {},
    "suspended": {},
}
SERVED = ("served and cancelled", "served and killed")


@pytest.fixture(scope="module")
def deployed_runs(house: House) -> Mapping[str, UUID]:
    """All runs under the worker, on the accounts of its environment, and under `serve`, on those of a block."""
    runs = {name: house.start(name, **parameters) for name, parameters in DEPLOYED.items()}
    eventually("the served deployment", house.serves)
    return {**runs, **{name: house.start(name, "served", accounts=BLOCK) for name in SERVED}}


@pytest.mark.parametrize(("name", "left"), [("cancelled", ["containers"]), ("served and cancelled", [])])
def test_a_run_that_was_cancelled_leaves_what_it_was_to_keep(
    house: House, deployed_runs: Mapping[str, UUID], name: str, left: list[str]
) -> None:
    house.wait_for_tasks(deployed_runs[name])
    house.server.cancel(deployed_runs[name])
    house.ends_as(deployed_runs[name], "Cancelled", left)


def test_a_suspended_run_leaves_nothing(house: House, deployed_runs: Mapping[str, UUID]) -> None:
    run = house.wait_for_tasks(deployed_runs["suspended"])
    house.server.client.set_flow_run_state(deployed_runs["suspended"], Suspended(timeout_seconds=3600))
    with house.accounts.azure.batch() as batch:  # so that the present step comes to its end
        for task in batch.list_tasks(run.job_id):
            batch.terminate_task(run.job_id, task.id)
    eventually("nothing being left", lambda: house.accounts.there(run.name) == set(), SOON)
    assert house.server.run(deployed_runs["suspended"]).state_name == "Suspended"


@pytest.mark.parametrize(("name", "left"), [("killed", ["job"]), ("served and killed", [])])
def test_what_had_started_a_run_cleans_up_when_that_is_killed(
    house: House, deployed_runs: Mapping[str, UUID], name: str, left: list[str]
) -> None:
    run = house.wait_for_tasks(deployed_runs[name])
    house.kill(deployed_runs[name])
    house.ends_as(deployed_runs[name], "Crashed", left)
    for gone in sorted(of_run(run, "containers")):
        house.server.wait_for_log(deployed_runs[name], f"{gone.capitalize()}: ")


def test_a_run_killed_while_it_asks_keeps_nothing_it_asks_for(house: House, deployed_runs: Mapping[str, UUID]) -> None:
    asking = deployed_runs["killed while it asks"]
    house.server.wait(asking, "Paused")
    assert house.accounts.there(run_of(asking).name) == of_run(run_of(asking), *ALL)
    house.kill(asking)
    house.ends_as(asking, "Crashed", ["pool"])


# Everything is killed: flow, worker and server. The clock moves on from here.


DONE = (Death.DOWNLOAD, Death.DELETES)  # all Batch tasks have ended before
LEFT: Mapping[Death, tuple[str, ...]] = {
    Death.CONTAINERS: ("containers",),
    Death.UPLOAD: ("containers",),
    Death.POOL: ("containers", "pool"),
    Death.JOB: ALL,
    Death.TASKS: ALL,
    Death.RUNNING: ALL,
    Death.DOWNLOAD: ALL,
    Death.DELETES: ("containers", "job"),
    Death.WITH_ALL: ALL,
}


@pytest.fixture(scope="module")
def dead(house: House, deployed_runs: Mapping[str, UUID]) -> dict[Death, Run]:
    """Runs that were killed with no process left that could clean up, and no Prefect server."""
    dying = {
        death: house.fork(death.name, death=death, delay=0 if death in DONE else 600)
        for death in Death
        if death is not Death.WITH_ALL
    }
    runs: dict[Death, Run] = {death: run_of(house.flow_run(local).id) for death, local in dying.items()}
    house.wait_for_tasks(UUID(runs[Death.RUNNING].flow_run_id))
    dying[Death.RUNNING].signal(signal.SIGKILL)
    assert {death: local.exit_code() for death, local in dying.items()} == dict.fromkeys(dying, -signal.SIGKILL)
    last = deployed_runs["killed with all others"]
    runs[Death.WITH_ALL] = house.wait_for_tasks(last)
    house.server.kill_worker()
    for flow_run_id in deployed_runs.values():
        if pid := process_with(f"PREFECT__FLOW_RUN_ID={flow_run_id}", "environ"):
            os.kill(pid, signal.SIGKILL)
    house.server.server.kill()
    house.server.server.wait()
    return runs


@pytest.mark.parametrize("death", LEFT)
def test_killed_with_all_others_a_run_leaves_what_it_had_created(
    house: House, dead: dict[Death, Run], death: Death
) -> None:
    run = dead[death]
    left = of_run(run, *LEFT[death])
    eventually(f"{sorted(left)} being left", lambda: house.accounts.there(run.name) == left, SOON)
    assert house.accounts.kept(run) == set()


@pytest.fixture(scope="module")
def expired(house: House, dead: dict[Death, Run]) -> None:
    """Move the service's clock past the deadline of all runs, by the time between two evaluations of a formula."""
    eventually("nodes", lambda: house.accounts.nodes(dead[Death.RUNNING].pool_id) == 1, SOON)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in house.accounts.settings.items():
            patch.setenv(name, value)
        faults.ask("clock", {"advance": "PT2H5M"})


def test_past_the_deadline_the_service_ends_jobs_and_removes_nodes(
    house: House, dead: dict[Death, Run], expired: None
) -> None:
    with house.accounts.azure.batch() as batch:

        def billing() -> list[str]:
            pools = [str(pool.id) for pool in batch.list_pools() if pool.id not in (TEAM, STRANGER)]
            assert len(pools) >= sum("pool" in left for left in LEFT.values())
            return [pool for pool in pools if house.accounts.nodes(pool)]

        eventually("the last node being gone", lambda: not billing(), SOON)
        for death, run in dead.items():
            if "job" in LEFT[death]:
                job = batch.get_job(run.job_id)
                assert job.execution_info
                reason = "AllTasksComplete" if death in DONE else "MaxWallClockTimeExpiry"
                assert (job.state, job.execution_info.termination_reason) == ("completed", reason)
    assert [house.accounts.nodes(pool) for pool in (TEAM, STRANGER)] == [2, 2]


class Later(datetime):
    """The time of the service whose clock was moved."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(hours=3, minutes=5)


def test_a_sweep_on_a_fresh_server_removes_all_of_it_and_nothing_else(
    house: House, dead: dict[Death, Run], expired: None, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in house.accounts.settings.items():
        monkeypatch.setenv(name, value)
    before = house.accounts.there()
    assert sweep(delete=True, return_state=True).is_completed()
    assert house.accounts.there() == before  # it is not their time yet, by the clock of this machine
    monkeypatch.setattr(flows.sweep, "datetime", Later)
    assert sweep(delete=True, return_state=True).is_completed()
    gone = set().union(*(of_run(run, *LEFT[death]) for death, run in dead.items()))
    assert gone <= before
    assert house.accounts.there() == STRANGERS | {
        each.name for each in list_leftovers(house.accounts.azure) if each.tags.kept
    }
    assert sweep(delete=True, include_kept=True, return_state=True).is_completed()
    assert house.accounts.there() == STRANGERS
