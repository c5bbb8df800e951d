"""The service is killed at a named point of its own code, and another one goes on with its data directory."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError

from local_azure.batch.node import leftovers
from local_azure.batch.state.clock import Clock
from local_azure.batch.state.store import Store
from tests.support.batch_service import (
    RunningService,
    create_job,
    create_pool,
    pool_options,
    shell,
    task,
    wait_for,
    wait_for_nodes,
    wait_for_task,
)
from tests.support.paths import ROOT
from tests.support.service_process import ServiceProcess


@dataclass(frozen=True, kw_only=True)
class Trap:
    """Where the service dies: before or after the first call of `function`, as module:name, once it is armed."""

    function: str = ""
    moment: str = "before"
    hours: float = 0  # by which its clock is ahead of the machine's


REBOOT: Any = {"nodeRebootOption": "requeue"}
NOWHERE = Trap()
ANSWERED = Trap(function="local_azure.batch.http.app:App._send", moment="after")
COMMITTED = Trap(function="local_azure.batch.http.app:App._respond", moment="after")


class TrappedService(ServiceProcess):
    """A service in a process of its own that kills itself, and is then followed by one that does not."""

    def begin(self, trap: Trap = NOWHERE) -> BatchClient:
        return self.start(**asdict(trap))

    def arm(self) -> None:
        self._armed.touch()

    def fallen(self) -> None:
        super().fallen()
        self._armed.unlink(missing_ok=True)

    @property
    def _armed(self) -> Path:
        return self.data.with_name("armed")

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """What the state says, whether the service is alive or not."""
        database = sqlite3.connect(self.data / "batch.db")
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()

    def processes(self) -> dict[int, str]:
        """The living processes that carry the data directory's token, and the mark of what each belongs to."""
        instance = str(self.rows("SELECT instance FROM account")[0][0])
        mark = f"{leftovers.ATTEMPT_VARIABLE}=".encode()
        return {
            process.pid: next((entry.decode() for entry in process.environment if entry.startswith(mark)), "")
            for process in leftovers.living_processes()
            if process.carries(leftovers.INSTANCE_VARIABLE, instance)
        }


@pytest.fixture
def process(tmp_path: Path, starter: subprocess.Popen[str]) -> Iterator[TrappedService]:
    process = TrappedService(tmp_path / "batch", starter)
    yield process
    process.kill()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The ETags that a client has seen, by kind and id. Nodes have none."""

    etags: dict[tuple[str, str], str]


def look(client: BatchClient) -> Seen:
    etags = {("pool", pool.id): pool.etag for pool in client.list_pools()}
    for job in client.list_jobs():
        etags["job", job.id] = job.etag
        etags |= {("task", f"{job.id}/{item.id}"): item.etag for item in client.list_tasks(job.id)}
    return Seen(etags={key: str(etag) for key, etag in etags.items()})


def restart(process: TrappedService, before: Seen | None = None, trap: Trap = NOWHERE) -> BatchClient:
    """Start the service again, and assert all that must hold whenever it has died."""
    left = process.processes()
    client = process.begin(trap)
    survivors = left.items() & process.processes().items()
    assert not survivors, "what the dead service had started is alive"
    after = look(client).etags
    for key, etag in (before.etags if before else {}).items():
        assert key in after, f"{key} was acknowledged and is lost"
        assert int(after[key], 16) >= int(etag, 16), f"the ETag of {key} has gone back"
    assert process.rows("PRAGMA integrity_check") == [("ok",)]
    for job in client.list_jobs():
        for item in client.list_tasks(job.id):
            wait_for(partial(_runs_if_it_says_so, client, job.id, item.id))
    return client


def _runs_if_it_says_so(client: BatchClient, job: str, name: str) -> bool:
    item = client.get_task(job, name)
    if item.state != "running":
        return True
    node = client.get_node(str(item.node_info.pool_id), str(item.node_info.node_id))
    return node.state == "running" and node.running_tasks_count > 0


def finish(process: TrappedService, client: BatchClient) -> list[m.BatchTask]:
    """Wait for the end of all tasks; then nothing may be left of them."""

    def tasks() -> list[m.BatchTask]:
        return [item for job in client.list_jobs() for item in client.list_tasks(job.id)]

    wait_for(lambda: all(item.state == "completed" for item in tasks()))
    wait_for(lambda: all(n.state == "idle" for pool in client.list_pools() for n in client.list_nodes(pool.id)))
    wait_for(lambda: not any(process.processes().values()))
    assert process.rows("SELECT count(*) FROM attempts") == [(0,)]
    wait_for(lambda: not list((process.data / "attempts").iterdir()))
    wait_for(lambda: not list((process.data / "trash").glob("*")))
    assert process.rows("SELECT count(*) FROM remains") == [(0,)]
    return tasks()


class Effect:
    """The side effect of a command: a line per run, in a file that no node owns."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "effect"

    def command(self, rest: str = "exit 0", *, first: str = ":") -> str:
        return shell(f'{first}; echo run >> "{self.file}"; {rest}')

    @property
    def runs(self) -> int:
        return len(self.file.read_text().splitlines()) if self.file.exists() else 0


@pytest.fixture
def effect(tmp_path: Path) -> Effect:
    return Effect(tmp_path)


def die_by(process: TrappedService, action: Callable[[BatchClient], object]) -> None:
    """Send a request that the service does not survive."""
    process.arm()
    with suppress(AzureError):  # it may die before it answers
        action(process.client(retry_total=0))
    process.fallen()


def retry(action: Callable[[], object], *codes: str) -> None:
    """Repeat the interrupted request: it succeeds, or is refused because it had succeeded."""
    code = None
    try:
        action()
    except (ResourceExistsError, ResourceNotFoundError) as refusal:
        code = refusal.error.code
    assert code in (None, *codes)


def add_pool(client: BatchClient) -> None:
    client.create_pool(pool_options("second"))


def add_job(client: BatchClient) -> None:
    create_job(client, "second")


def add_task(client: BatchClient) -> None:
    client.create_task("job", task("second"))


def add_tasks(client: BatchClient) -> None:
    client.create_tasks("job", [task(name) for name in ("second", "third")])


ADDED = {
    add_pool: {("pool", "second")},
    add_job: {("job", "second")},
    add_task: {("task", "job/second")},
    add_tasks: {("task", "job/second"), ("task", "job/third")},
}


@pytest.mark.parametrize("trap", [ANSWERED, COMMITTED], ids=["answered", "committed"])
@pytest.mark.parametrize("add", ADDED, ids=lambda add: add.__name__)
def test_committed_request_survives_and_its_retry_is_refused(process, add, trap):
    client = process.begin(trap)
    create_pool(client)
    create_job(client)
    before = look(client)
    die_by(process, add)
    client = restart(process, before)
    assert look(client).etags.keys() == before.etags.keys() | ADDED[add]
    if add is add_tasks:
        add(client)  # create_tasks takes TaskExists for done
    else:
        with pytest.raises(ResourceExistsError) as refusal:
            add(client)
        assert refusal.value.error.code in ("PoolExists", "JobExists", "TaskExists")
    assert all(item.execution_info.exit_code == 0 for item in finish(process, client))


@pytest.mark.parametrize(
    ("add", "function"),
    [
        (add_pool, "operations.pools:add_pool"),
        (add_job, "operations.jobs:add_job"),
        (add_task, "state.store:Table.add"),
    ],
    ids=lambda item: getattr(item, "__name__", None),
)
def test_uncommitted_request_is_lost_and_its_retry_succeeds(process, add, function):
    client = process.begin(Trap(function=f"local_azure.batch.{function}", moment="after"))
    create_pool(client)
    create_job(client)
    before = look(client)
    die_by(process, add)
    client = restart(process, before)
    assert look(client) == before
    add(client)
    assert look(client).etags.keys() == before.etags.keys() | ADDED[add]
    finish(process, client)


@pytest.mark.parametrize("trap", [ANSWERED, COMMITTED], ids=["answered", "committed"])
def test_job_deletion_continues_after_a_restart(process, effect, trap):
    client = process.begin(trap)
    create_pool(client)
    create_job(client)
    client.create_task("job", task("task", effect.command("trap '' TERM; sleep 60")))
    wait_for(lambda: effect.runs)
    die_by(process, lambda client: client.begin_delete_job("job"))
    client = restart(process)
    retry(lambda: client.begin_delete_job("job"), "JobBeingDeleted", "JobNotFound")
    wait_for(lambda: not list(client.list_jobs()))
    assert finish(process, client) == []
    assert effect.runs == 1
    assert not list((process.data / "nodes").glob("*/*/workitems/job"))
    create_job(client)  # the id is free again


@pytest.mark.parametrize("trap", [ANSWERED, COMMITTED], ids=["answered", "committed"])
def test_pool_deletion_continues_and_its_task_waits(process, effect, trap):
    client = process.begin(trap)
    create_pool(client)
    create_job(client)
    client.create_task("job", task("task", effect.command("[ -e go ] || exec sleep 60")))
    wait_for(lambda: effect.runs)
    die_by(process, lambda client: client.begin_delete_pool("pool"))
    client = restart(process)
    wait_for(lambda: not list(client.list_pools()))
    assert client.get_task("job", "task").state == "active"
    assert list((process.data / "nodes").iterdir()) == []
    assert not any(process.processes().values())
    assert effect.runs == 1


INTERRUPTED_ONCE = '[ $(wc -l < "{file}") -gt {runs} ] || exec sleep 60; exit 7'


@pytest.mark.parametrize(
    ("function", "moment", "runs_before"),
    [
        ("engine.scheduler:Scheduler._start", "after", 0),
        ("engine.scheduler:Scheduler._spawn", "before", 0),
        ("node.node_agent:NodeAgent.carry_out", "before", 0),
        ("node.node_agent:NodeAgent._prepare", "after", 0),
        ("node.runner:Runner.start", "before", 0),
        ("node.runner:Runner._begin", "before", 0),
    ],
)
def test_task_that_was_not_started_yet_runs_once(process, effect, function, moment, runs_before):
    client = process.begin(Trap(function=f"local_azure.batch.{function}", moment=moment))
    create_pool(client)
    create_job(client)
    before = look(client)
    process.arm()
    process.client(retry_total=0).create_task("job", task("task", effect.command("exit 7")))
    process.fallen()
    assert effect.runs == runs_before
    client = restart(process, before)
    (done,) = finish(process, client)
    assert effect.runs == 1
    _assert_ended(done, 7)


@pytest.mark.parametrize("moment", ["shim", "command"])
def test_task_that_was_running_runs_again(process, effect, moment):
    trap = Trap(function="local_azure.batch.node.runner:Runner.start", moment="after") if moment == "shim" else NOWHERE
    client = process.begin(trap)
    create_pool(client)
    create_job(client)
    rest = INTERRUPTED_ONCE.format(file=effect.file, runs=1 if moment == "command" else 0)
    if moment == "shim":
        process.arm()
        process.client(retry_total=0).create_task("job", task("task", effect.command(rest)))
        process.fallen()
    else:
        client.create_task("job", task("task", effect.command(rest)))
        wait_for(lambda: effect.runs == 1)
        process.kill()
    client = restart(process)
    (done,) = finish(process, client)
    assert 1 <= effect.runs <= 2
    _assert_ended(done, 7)


def _assert_ended(done: m.BatchTask, exit_code: int) -> None:
    info = done.execution_info
    assert (info.exit_code, info.retry_count, info.requeue_count) == (exit_code, 0, 0)
    assert info.result == ("failure" if exit_code else "success")
    assert info.start_time <= info.end_time


@pytest.mark.parametrize(
    ("function", "moment"),
    [
        ("node.node_agent:NodeAgent.conclude", "before"),
        ("engine.scheduler:Scheduler._end", "before"),
        ("engine.scheduler:Scheduler._finish", "before"),
        ("engine.attempts:remove", "after"),
        ("engine.task_ends:complete", "after"),
        ("engine.scheduler:Scheduler.assign", "after"),
    ],
)
def test_task_whose_command_has_ended_is_not_run_again(process, effect, tmp_path, function, moment):
    client = process.begin(Trap(function=f"local_azure.batch.{function}", moment=moment))
    create_pool(client)
    create_job(client)
    flag = tmp_path / "go"
    client.create_task("job", task("task", effect.command(f'until [ -e "{flag}" ]; do sleep 0.01; done; exit 7')))
    wait_for(lambda: effect.runs)
    before = look(client)
    process.arm()
    flag.touch()
    process.fallen()
    client = restart(process, before)
    (done,) = finish(process, client)
    assert effect.runs == 1
    _assert_ended(done, 7)
    (node,) = client.list_nodes("pool")
    assert (node.total_tasks_run, node.total_tasks_succeeded) == (1, 0)


def test_end_that_was_recorded_leaves_no_status_file(process, effect, tmp_path):
    """It dies between the commit of the result and the removal of the file that tells it."""
    client = process.begin(Trap(function="pathlib:Path.unlink"))
    create_pool(client)
    create_job(client)
    flag = tmp_path / "go"
    client.create_task("job", task("task", effect.command(f'until [ -e "{flag}" ]; do sleep 0.01; done')))
    wait_for(lambda: effect.runs)
    process.arm()
    flag.touch()
    process.fallen()
    assert process.rows("SELECT state FROM tasks") == [("completed",)]
    assert len(list((process.data / "attempts").iterdir())) == 1
    (done,) = finish(process, restart(process))
    assert effect.runs == 1
    _assert_ended(done, 0)


def test_retry_of_a_task_is_counted_once(process, effect, tmp_path):
    client = process.begin(Trap(function="local_azure.batch.engine.task_ends:advance", moment="after"))
    create_pool(client)
    create_job(client)
    flag = tmp_path / "go"
    command = effect.command(f'until [ -e "{flag}" ]; do sleep 0.01; done; exit 7')
    client.create_task("job", task("task", command, constraints=m.BatchTaskConstraints(max_task_retry_count=1)))
    wait_for(lambda: effect.runs)
    process.arm()
    flag.touch()
    process.fallen()
    (done,) = finish(process, restart(process))
    assert (done.execution_info.exit_code, done.execution_info.retry_count) == (7, 1)
    assert effect.runs == 2


FOREVER = "while :; do sleep 0.01; done"


def marks_term(marker: Path) -> str:
    """What a command does before its side effect, by which the test knows that it ignores SIGTERM."""
    return f"trap 'echo terminated >> \"{marker}\"' TERM"


@pytest.mark.parametrize("by", ["request", "limit"])
def test_task_killed_during_its_grace_has_ended(process, effect, tmp_path, by):
    client = process.begin()
    create_pool(client)
    create_job(client)
    marker = tmp_path / "terminated"
    limit = m.BatchTaskConstraints(max_wall_clock_time=timedelta(seconds=1)) if by == "limit" else None
    command = effect.command(FOREVER, first=marks_term(marker))
    client.create_task("job", task("task", command, constraints=limit))
    wait_for(lambda: effect.runs)
    if by == "request":
        client.terminate_task("job", "task")
    wait_for(marker.exists)
    process.kill()
    (done,) = finish(process, restart(process))
    assert effect.runs == 1
    info = done.execution_info
    assert (info.result, info.failure_info.code, info.requeue_count) == ("failure", "TaskEnded", 0)


def test_task_of_a_node_that_was_rebooting_runs_again(process, effect, tmp_path):
    client = process.begin()
    (node,) = create_pool(client)
    create_job(client)
    marker = tmp_path / "terminated"
    rest = f'[ $(wc -l < "{effect.file}") -gt 1 ] && exit 7; {FOREVER}'
    client.create_task("job", task("task", effect.command(rest, first=marks_term(marker))))
    wait_for(lambda: effect.runs)
    client.begin_reboot_node("pool", node.id, REBOOT)
    wait_for(marker.exists)
    process.kill()
    (done,) = finish(process, restart(process))
    assert effect.runs == 2
    _assert_ended(done, 7)


@pytest.mark.parametrize(
    ("function", "moment"),
    [
        ("local_azure.batch.engine.service:Service.discard", "after"),  # not committed
        ("local_azure.batch.engine.lifecycle:Lifecycle.discard_remains", "before"),  # committed, nothing done
        ("local_azure.batch.node.node_agent:NodeAgent.discard", "before"),
        ("local_azure.batch.node.node_agent:NodeAgent.discard", "after"),  # out of sight, and still to be forgotten
        ("shutil:rmtree", "before"),
        ("os:rmdir", "before"),  # half removed
    ],
)
@pytest.mark.parametrize("kind", ["task", "job"])
def test_directory_removal_continues_after_a_restart(process, effect, kind, function, moment):
    client = process.begin(Trap(function=function, moment=moment))
    (node,) = create_pool(client)
    create_job(client)
    client.create_task("job", task("task", effect.command("mkdir -p a/b; echo x > a/b/c; echo x > a/d")))
    wait_for_task(client)
    directory = process.data / "nodes" / "pool" / node.id / "workitems" / "job"
    assert list(directory.glob("job-1/task/wd/a/b/c"))

    def delete(client: BatchClient) -> None:
        client.delete_task("job", "task") if kind == "task" else client.begin_delete_job("job")

    die_by(process, delete)
    client = restart(process)
    retry(lambda: delete(client), "JobBeingDeleted", "JobNotFound", "TaskNotFound")
    if kind == "job":
        wait_for(lambda: not list(client.list_jobs()))
    assert finish(process, client) == []
    wait_for(lambda: not list(directory.glob("job-1/task")) if kind == "task" else not directory.exists())
    if kind == "job":
        create_job(client)
    client.create_task("job", task("task", effect.command("test ! -e a")))
    (done,) = finish(process, client)
    assert (done.execution_info.exit_code, effect.runs) == (0, 2)


@pytest.mark.parametrize(
    ("function", "moment"),
    [
        ("local_azure.batch.engine.allocator:Allocator._add_node", "after"),
        ("local_azure.batch.engine.nodes:Nodes._creating", "after"),
        ("local_azure.batch.node.node_agent:NodeAgent.make_node", "after"),
        ("local_azure.batch.engine.allocator:Allocator._become_steady", "before"),
    ],
)
def test_allocation_continues_after_a_restart(process, effect, function, moment):
    client = process.begin(Trap(function=function, moment=moment))
    die_by(process, lambda client: client.create_pool(pool_options(target_dedicated_nodes=2)))
    client = restart(process)
    wait_for_nodes(client, "pool", "idle", "idle")
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    assert client.get_pool("pool").resize_errors is None
    assert len(list((process.data / "nodes" / "pool").iterdir())) == 2
    finish(process, client)


@pytest.mark.parametrize("statements", [1, 2, 10, 22])
def test_kill_during_schema_creation_leaves_none_or_all_of_it(tmp_path, statements):
    """SQLite calls back for each statement of the script; the process dies at one of them."""
    path = tmp_path / "batch.db"
    dead = subprocess.run([sys.executable, "-c", SCHEMA_PROGRAM, str(path), str(statements)], cwd=ROOT, check=False)
    assert dead.returncode == -signal.SIGKILL
    assert path.exists()
    store = Store(path)
    assert store.instance
    assert store.value("PRAGMA integrity_check") == "ok"
    assert list(store.pools.where()) == []
    store.close()


SCHEMA_PROGRAM = """
import os, signal, sys
from pathlib import Path
from local_azure.batch.state.store import Store

left = int(sys.argv[2])

def count(statement):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

class Watched(Store):
    def _create(self, version):
        self._database.set_trace_callback(count)
        super()._create(version)

Watched(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("hours", [-5, 5])
def test_clock_that_jumps_between_two_starts_stops_nothing(process, effect, hours):
    client = process.begin()
    (node,) = create_pool(client)
    create_job(client)
    client.create_task("job", task("task", effect.command()))
    first = wait_for_task(client)
    client.create_pool(pool_options("second"))
    before = look(client)
    process.kill()
    client = restart(process, before, Trap(hours=hours))
    wait_for_nodes(client, "second", "idle")
    create_pool(client, "third")
    client.begin_reboot_node("pool", node.id, REBOOT)
    wait_for_nodes(client, "pool", "idle")
    client.create_task("job", task("after", effect.command()))
    ended = {item.id: item for item in finish(process, client)}
    _assert_ended(ended["after"], 0)
    assert ended["task"].execution_info.end_time == first.execution_info.end_time
    assert ended["after"].creation_time >= first.execution_info.end_time
    assert effect.runs == 2
    client.begin_delete_job("job")
    wait_for(lambda: not list(client.list_jobs()))
    before_again = look(client)
    process.kill()
    client = restart(process, before_again)  # the clock is right again
    client.begin_delete_pool("pool")
    wait_for(lambda: {pool.id for pool in client.list_pools()} == {"second", "third"})


@pytest.mark.parametrize("hours", [-5, 5])
def test_clock_that_jumps_while_the_service_runs_stops_nothing(
    service: RunningService, effect: Effect, tmp_path: Path, hours: int
):
    client = service.client()
    (node,) = create_pool(client)
    create_job(client)
    flag = tmp_path / "go"
    client.create_task("job", task("task", effect.command(f'until [ -e "{flag}" ]; do sleep 0.01; done')))
    wait_for(lambda: effect.runs)
    client.create_pool(pool_options("second"))
    etag = client.get_job("job").etag
    service.advance(hours=hours)
    flag.touch()
    _assert_ended(wait_for_task(client), 0)
    wait_for_nodes(client, "second", "idle")
    client.update_job("job", m.BatchJobUpdateOptions(priority=5))
    assert int(client.get_job("job").etag, 16) > int(etag, 16)
    wait_for_nodes(client, "pool", "idle")
    client.begin_reboot_node("pool", node.id, REBOOT)
    service.advance(hours=-hours)
    wait_for_nodes(client, "pool", "idle")
    client.begin_delete_job("job")
    client.begin_delete_pool("pool")
    client.begin_delete_pool("second")
    wait_for(lambda: not list(client.list_jobs()) and not list(client.list_pools()))


class MovedClock(Clock):
    """A clock of a machine whose time somebody sets."""

    moved = timedelta()

    def machine_time(self):
        return super().machine_time() + self.moved


def test_clock_never_goes_back_and_flows_on():
    clock = MovedClock()
    before = clock.now()
    clock.moved = timedelta(hours=-5)
    first = clock.now()
    assert before <= first < before + timedelta(minutes=1)
    clock.moved = timedelta(hours=-5, seconds=1)
    assert timedelta(seconds=1) <= clock.now() - first < timedelta(minutes=1)
    clock.moved = timedelta(hours=8)
    assert clock.now() - first > timedelta(hours=12)


DUMP = Path(__file__).parent / "data" / "schema_1.sql"


def test_directory_of_schema_version_1_is_opened(process, effect):
    """It was left by a service that was killed while `running` ran; `done` had ended, and `waiting` had no slot."""
    process.data.mkdir()
    database = sqlite3.connect(process.data / "batch.db")
    database.executescript(DUMP.read_text(encoding="utf-8"))
    assert database.execute("PRAGMA user_version").fetchone() == (1,)
    database.close()
    client = process.begin()
    pool = client.get_pool("upgraded")
    assert (pool.state, pool.allocation_state, pool.target_dedicated_nodes) == ("active", "steady", 1)
    assert client.get_job("job").job_preparation_task is None
    finish(process, client)
    tasks = {item.id: item.execution_info for item in client.list_tasks("job")}
    assert {name: (info.exit_code, info.result) for name, info in tasks.items()} == {
        "done": (3, "failure"),
        "running": (0, "success"),
        "waiting": (0, "success"),
    }
    assert tasks["done"].end_time < tasks["running"].start_time
    assert client.get_job_task_counts("job").task_counts.completed == 3
    (user,) = process.rows("SELECT id FROM node_users")
    assert user == ("operator",)
    client.begin_delete_pool("upgraded")
    client.begin_delete_job("job")
    wait_for(lambda: not list(client.list_jobs()) and not list(client.list_pools()))


def test_dump_is_of_the_schema_that_is_in_use(tmp_path):
    """Once the schema changes, the dump stays, and SCHEMA_VERSION moves on with a migration."""
    new = Store(tmp_path / "new.db")
    old = sqlite3.connect(tmp_path / "old.db")
    old.executescript(DUMP.read_text(encoding="utf-8"))
    old.close()
    opened = Store(tmp_path / "old.db")
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
    assert opened.execute(query).fetchall() == new.execute(query).fetchall()
    assert opened.value("PRAGMA user_version") == new.value("PRAGMA user_version")
    new.close()
    opened.close()
