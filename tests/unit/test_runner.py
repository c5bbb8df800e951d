from __future__ import annotations

import asyncio
import os
import select
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from local_azure.batch.node import leftovers, shim
from local_azure.batch.node.command import Command, Ending, Outcome
from local_azure.batch.node.runner import Runner, RunningCommand
from local_azure.batch.node.supervisors import MOST_IDLE

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{shlex.quote(sys.executable)} -I -S -c"
PATH = "/usr/local/bin:/usr/bin:/bin"
GRACE = 0.3  # seconds
BOUND = 10.0  # seconds that something certain may take on a busy machine

# Leaves processes behind in every way there is: each ignores SIGTERM, is in a session of its own and has lost its
# parent; the last has no environment either. Then says who they are and waits.
FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = [os.getpid()]
for number in range(int(sys.argv[2])):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            if number == 0:
                os.set_inheritable(writer, True)
                script = 'trap "" TERM; echo $$ >&%d; exec 3>&- 4>&- 5>&-; sleep 1000 & wait' % writer
                os.execve("/bin/sh", ["sh", "-c", script], {})
            os.write(writer, b"%d" % os.getpid())
            os.close(writer)
            time.sleep(1000)
        os._exit(0)
    os.close(writer)
    pids.append(int(os.read(reader, 100)))
    os.wait()
with open(sys.argv[1], "w") as ready:
    ready.write(" ".join(map(str, pids)))
time.sleep(1000)
"""

DRIVER = """
import asyncio, os, sys
from pathlib import Path
from local_azure.batch.node.command import Command
from local_azure.batch.node.runner import Runner

async def main(instance, directory, line):
    runner = Runner(instance, grace=0.3)
    attempt = await runner.start(Command(
        command_line=line, working_directory=directory, stdout=directory / "stdout.txt",
        stderr=directory / "stderr.txt", environment={"PATH": "/usr/bin:/bin"}, status_file=directory / "status.json",
    ))
    await attempt.outcome()

asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
"""


@pytest.fixture
def instance() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest_asyncio.fixture
async def runner(instance: str) -> AsyncIterator[Runner]:
    runner = Runner(instance, grace=GRACE)
    yield runner
    await runner.close()
    assert carrying(instance) == []


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A pipe on which a command says that it is where the test wants it."""
    path = tmp_path / "ready"
    os.mkfifo(path)
    return path


def carrying(instance: str) -> list[int]:
    return [p.pid for p in leftovers.living_processes() if p.carries(leftovers.INSTANCE_VARIABLE, instance)]


def command(line: str, directory: Path, **more: object) -> Command:
    name = uuid.uuid4().hex
    fields = {
        "command_line": line,
        "working_directory": directory,
        "stdout": directory / "stdout.txt",
        "stderr": directory / "stderr.txt",
        "environment": {"PATH": PATH},
        "status_file": directory / f"{name}.json",
    }
    return Command(**{**fields, **more})  # type: ignore[arg-type]


async def outcome(runner: Runner, line: str, directory: Path, **more: object) -> Outcome:
    attempt = await runner.start(command(line, directory, **more))
    return await asyncio.wait_for(attempt.outcome(), BOUND)


async def content_of(ready: Path) -> str:
    return await asyncio.wait_for(asyncio.to_thread(ready.read_text), BOUND)


async def start_family(runner: Runner, ready: Path, members: int, **more: object) -> tuple[RunningCommand, list[int]]:
    line = f"{PYTHON} {shlex.quote(FAMILY)} {shlex.quote(str(ready))} {members}"
    attempt = await runner.start(command(line, ready.parent, **more))
    pids = [int(pid) for pid in (await content_of(ready)).split()]
    assert len(pids) == members + 1
    return attempt, pids


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state != b"Z"


def wait_until_gone(pids: list[int]) -> list[int]:
    """Those that are still there after the bound; waits on the kernel's word, not on the clock."""
    left = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if not select.select([descriptor], [], [], BOUND)[0]:
            left.append(pid)
        os.close(descriptor)
    return left


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
async def test_exit_code_is_returned_and_in_the_status_file(runner: Runner, tmp_path: Path, code: int) -> None:
    request = command(f"sh -c 'exit {code}'", tmp_path)
    attempt = await runner.start(request)
    result = await attempt.outcome()
    assert result == Outcome(ending=Ending.EXITED, exit_code=code)
    assert Outcome.read(request.status_file) == result
    assert not request.status_file.with_suffix(".json.tmp").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGINT])
async def test_death_by_signal_is_128_and_its_number(runner: Runner, tmp_path: Path, number: signal.Signals) -> None:
    result = await outcome(runner, f"sh -c 'kill -{int(number)} $$'", tmp_path)
    assert result == Outcome(ending=Ending.EXITED, exit_code=128 + number)


@pytest.mark.parametrize("line", ["no-such-program", "/no/such/program", "./no-such-program", "'with space'"])
async def test_missing_program_differs_from_a_program_that_fails(runner: Runner, tmp_path: Path, line: str) -> None:
    result = await outcome(runner, line, tmp_path)
    assert (result.ending, result.exit_code) == (Ending.PROGRAM_NOT_FOUND, None)
    assert shlex.split(line)[0] in result.message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/etc/passwd", "Permission denied"),
        ("/etc", "Permission denied"),
        ("echo 'unclosed", "cannot be parsed: No closing quotation"),
        ("", "the command line is empty"),
        ("  ", "the command line is empty"),
        ("echo \0", "embedded null byte"),
        ("echo \ud800", "surrogates not allowed"),
        ("echo " + "x" * (128 << 10), "Argument list too long"),
        ("./no-format", "Exec format error"),
    ],
)
async def test_command_that_cannot_be_started_has_a_reason(
    runner: Runner, tmp_path: Path, line: str, reason: str
) -> None:
    (tmp_path / "no-format").write_bytes(b"\x01\x02")
    (tmp_path / "no-format").chmod(0o700)
    result = await outcome(runner, line, tmp_path)
    assert (result.ending, result.exit_code) == (Ending.LAUNCH_FAILED, None)
    assert reason in result.message


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("working_directory", "missing", "No such file or directory"),
        ("working_directory", "file", "Not a directory"),
        ("stdout", "missing/stdout.txt", "No such file or directory"),
        ("stderr", "link", "Too many levels of symbolic links"),
        ("environment", {"A=B": "c"}, "illegal environment variable name"),
    ],
)
async def test_unusable_surroundings_are_a_launch_failure(
    runner: Runner, tmp_path: Path, field: str, value: str | dict[str, str], reason: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    result = await outcome(runner, "true", tmp_path, **{field: tmp_path / value if isinstance(value, str) else value})
    assert (result.ending, result.exit_code) == (Ending.LAUNCH_FAILED, None)
    assert reason in result.message


async def test_output_goes_to_its_files_whatever_its_size(runner: Runner, tmp_path: Path) -> None:
    size = 10 << 20
    assert (await outcome(runner, f"sh -c 'head -c {size} /dev/zero; echo oops >&2'", tmp_path)).exit_code == 0
    assert (tmp_path / "stdout.txt").stat().st_size == size
    assert (tmp_path / "stderr.txt").read_text() == "oops\n"


async def test_output_files_may_be_one_file(runner: Runner, tmp_path: Path) -> None:
    both = tmp_path / "output.txt"
    await outcome(runner, "sh -c 'echo one; echo two >&2; echo three'", tmp_path, stdout=both, stderr=both)
    assert both.read_text() == "one\ntwo\nthree\n"


async def test_environment_is_what_was_given_and_the_marks(runner: Runner, instance: str, tmp_path: Path) -> None:
    given = {"PATH": PATH, "NEWLINE": "a\nb", "ÄÖ": "große Wörter", "EMPTY": "", leftovers.INSTANCE_VARIABLE: "forged"}
    await outcome(runner, "env -0", tmp_path, environment=given)
    entries = (tmp_path / "stdout.txt").read_text().split("\0")[:-1]
    environment = dict(entry.split("=", 1) for entry in entries)
    assert len(environment.pop(leftovers.ATTEMPT_VARIABLE)) == 32
    assert environment == {**given, leftovers.INSTANCE_VARIABLE: instance}


async def test_there_is_no_shell(runner: Runner, tmp_path: Path) -> None:
    await outcome(runner, """printf '%s\n' $HOME ; `id` "two words" * é > x""", tmp_path)
    words = ["$HOME", ";", "`id`", "two words", "*", "é", ">", "x"]
    assert (tmp_path / "stdout.txt").read_text().splitlines() == words


async def test_program_is_looked_for_in_the_commands_own_path(runner: Runner, tmp_path: Path) -> None:
    for directory, content in (("denied", "#!/bin/sh\nexit 1\n"), ("allowed", "#!/bin/sh\nexit 42\n")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "tool").write_text(content)
    (tmp_path / "allowed" / "tool").chmod(0o755)
    path = f"/no/such:{tmp_path}/denied:{tmp_path}/allowed"
    assert (await outcome(runner, "tool", tmp_path, environment={"PATH": path})).exit_code == 42
    assert (await outcome(runner, "tool", tmp_path)).ending is Ending.PROGRAM_NOT_FOUND


async def test_program_finds_clean_surroundings(runner: Runner, tmp_path: Path) -> None:
    script = """
import os, resource
status = open("/proc/self/status").read()
print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE), os.readlink("/proc/self/fd/0"), os.getcwd())
print(sorted(map(int, os.listdir("/proc/self/fd")))[:-1], os.getpgrp() == os.getpid())
print([line.split()[1] for line in status.splitlines() if line[:6] in ("SigBlk",)])
"""
    await outcome(runner, f"{PYTHON} {shlex.quote(script)}", tmp_path)
    expected = [f"0o22 (0, 0) /dev/null {tmp_path}", "[0, 1, 2] True", "['0000000000000000']"]
    assert (tmp_path / "stdout.txt").read_text().splitlines() == expected, (tmp_path / "stderr.txt").read_text()


async def test_no_signal_is_ignored_to_begin_with(runner: Runner, tmp_path: Path) -> None:
    await outcome(runner, "grep SigIgn /proc/self/status", tmp_path)
    ignored = int((tmp_path / "stdout.txt").read_text().split()[1], 16)
    # The numbers between the valid ones are the C library's own, which no program may set.
    assert [number for number in signal.valid_signals() if ignored & 1 << number - 1] == []


async def test_time_limit_ends_processes_that_ignore_sigterm(runner: Runner, ready: Path) -> None:
    attempt, pids = await start_family(runner, ready, 3, time_limit=1.0)
    result = await asyncio.wait_for(attempt.outcome(), BOUND)
    assert result == Outcome(ending=Ending.TIME_LIMIT, exit_code=128 + signal.SIGKILL)
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_time_limit_leaves_time_to_end_well(runner: Runner, tmp_path: Path) -> None:
    line = "sh -c 'trap \"echo bye; exit 5\" TERM; sleep 1000 & wait'"
    result = await outcome(runner, line, tmp_path, time_limit=0.3)
    assert result == Outcome(ending=Ending.TIME_LIMIT, exit_code=5)
    assert (tmp_path / "stdout.txt").read_text() == "bye\n"


async def test_infinite_time_limit_is_no_overflow(runner: Runner, tmp_path: Path) -> None:
    result = await outcome(runner, "true", tmp_path, time_limit=10675199 * 86400.0)
    assert result == Outcome(ending=Ending.EXITED, exit_code=0)


async def test_daemon_ends_with_its_command(runner: Runner, tmp_path: Path) -> None:
    result = await outcome(runner, "sh -c '(setsid sleep 1000 & echo $!); exit 4'", tmp_path)
    assert result == Outcome(ending=Ending.EXITED, exit_code=4)
    assert not is_alive(int((tmp_path / "stdout.txt").read_text()))


async def test_daemon_of_a_background_command_lives_until_it_is_terminated(runner: Runner, tmp_path: Path) -> None:
    attempt = await runner.start(command("sh -c '(setsid sleep 1000 & echo $!)'", tmp_path, background=True))
    assert await asyncio.wait_for(attempt.ready(), BOUND) is None
    daemon = int((tmp_path / "stdout.txt").read_text())
    assert is_alive(daemon)
    attempt.terminate()
    assert await attempt.outcome() == Outcome(ending=Ending.TERMINATED, exit_code=0)
    assert not is_alive(daemon)


async def test_daemon_of_a_background_command_that_fails_ends_with_it(runner: Runner, tmp_path: Path) -> None:
    line = "sh -c '(setsid sleep 1000 & echo $!); exit 4'"
    attempt = await runner.start(command(line, tmp_path, background=True))
    assert await asyncio.wait_for(attempt.ready(), BOUND) == Outcome(ending=Ending.EXITED, exit_code=4)
    assert not is_alive(int((tmp_path / "stdout.txt").read_text()))


async def test_background_command_that_leaves_nothing_has_ended(runner: Runner, tmp_path: Path) -> None:
    attempt = await runner.start(command("true", tmp_path, background=True))
    assert await asyncio.wait_for(attempt.ready(), BOUND) is None
    assert await asyncio.wait_for(attempt.outcome(), BOUND) == Outcome(ending=Ending.EXITED, exit_code=0)


async def test_time_limit_ends_the_daemon_of_a_background_command(runner: Runner, tmp_path: Path) -> None:
    line = "sh -c '(setsid sleep 1000 & echo $!)'"
    attempt = await runner.start(command(line, tmp_path, background=True, time_limit=0.3))
    assert await asyncio.wait_for(attempt.ready(), BOUND) is None
    ended = await asyncio.wait_for(attempt.outcome(), BOUND)
    assert ended == Outcome(ending=Ending.TIME_LIMIT, exit_code=0)
    assert not is_alive(int((tmp_path / "stdout.txt").read_text()))


async def test_terminate_may_be_repeated_and_the_exit_code_is_kept(runner: Runner, ready: Path) -> None:
    line = f"sh -c 'trap \"exit 7\" TERM; echo on > {ready}; sleep 1000 & wait'"
    attempt = await runner.start(command(line, ready.parent))
    assert await content_of(ready) == "on\n"
    attempt.terminate()
    attempt.terminate()
    assert await attempt.outcome() == Outcome(ending=Ending.TERMINATED, exit_code=7)
    attempt.terminate()
    assert await attempt.outcome() == Outcome(ending=Ending.TERMINATED, exit_code=7)


async def test_terminate_right_after_the_start_is_not_lost(runner: Runner, tmp_path: Path) -> None:
    attempt = await runner.start(command("sleep 1000", tmp_path))
    attempt.terminate()
    result = await asyncio.wait_for(attempt.outcome(), BOUND)
    assert result.ending is Ending.TERMINATED


async def test_terminate_wakes_stopped_processes(runner: Runner, ready: Path) -> None:
    line = f"sh -c 'trap \"exit 7\" TERM; (echo on > {ready}) ; kill -STOP $$; sleep 1000 & wait'"
    attempt = await runner.start(command(line, ready.parent))
    await content_of(ready)
    attempt.terminate()
    result = await asyncio.wait_for(attempt.outcome(), BOUND)
    assert result == Outcome(ending=Ending.TERMINATED, exit_code=7)


async def test_storm_of_daemons_is_swept(runner: Runner, ready: Path) -> None:
    attempt, pids = await start_family(runner, ready, 60)
    attempt.terminate()
    assert (await asyncio.wait_for(attempt.outcome(), BOUND)).ending is Ending.TERMINATED
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_endless_forking_is_ended(runner: Runner, tmp_path: Path) -> None:
    line = "sh -c 'while :; do (setsid sleep 1000 &) ; (setsid sleep 1000 &) ; done'"
    assert (await outcome(runner, line, tmp_path, time_limit=0.5)).ending is Ending.TIME_LIMIT


async def test_death_of_the_service_is_the_death_of_its_commands(instance: str, ready: Path) -> None:
    line = f"{PYTHON} {shlex.quote(FAMILY)} {shlex.quote(str(ready))} 3"
    arguments = [sys.executable, "-c", DRIVER, instance, str(ready.parent), line]
    with subprocess.Popen(arguments, cwd=ROOT) as service:
        pids = [int(pid) for pid in (await content_of(ready)).split()]
        ours = carrying(instance)
        assert set(ours) & set(pids)
        service.kill()
    assert wait_until_gone(pids + ours) == []
    assert carrying(instance) == []
    result = Outcome.read(ready.parent / "status.json")
    assert result == Outcome(ending=Ending.ORPHANED, exit_code=128 + signal.SIGKILL)


async def test_leftovers_of_killed_services_and_shims_are_killed(instance: str, ready: Path) -> None:
    line = f"{PYTHON} {shlex.quote(FAMILY)} {shlex.quote(str(ready))} 2"
    arguments = [sys.executable, "-c", DRIVER, instance, str(ready.parent), line]
    with subprocess.Popen(arguments, cwd=ROOT) as service:
        pids = [int(pid) for pid in (await content_of(ready)).split()]
        service.send_signal(signal.SIGSTOP)
        marked = [p for p in leftovers.living_processes() if p.carries(leftovers.INSTANCE_VARIABLE, instance)]
        for process in marked:
            if process.is_shim:
                os.kill(process.pid, signal.SIGKILL)
        service.kill()
    unmarked = pids[1]  # has neither environment, nor session, nor shim
    try:
        left = sorted(set(pids) - {unmarked})
        assert all(is_alive(pid) for pid in left)
        killed = Runner(instance).kill_leftovers()
        assert set(left) <= set(killed)
        assert wait_until_gone(left) == []
        assert carrying(instance) == []
    finally:
        for child in Path(f"/proc/{unmarked}/task/{unmarked}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        os.kill(unmarked, signal.SIGKILL)


async def test_only_leftovers_of_the_instance_are_killed(runner: Runner, instance: str) -> None:
    ours = subprocess.Popen(["sleep", "1000"], env={leftovers.INSTANCE_VARIABLE: instance})
    other = subprocess.Popen(["sleep", "1000"], env={leftovers.INSTANCE_VARIABLE: instance + "0"})
    try:
        assert await asyncio.to_thread(runner.kill_leftovers, shim_grace=0.1) == [ours.pid]
        assert ours.wait() == -signal.SIGKILL
        assert other.poll() is None
        assert runner.kill_leftovers() == []
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


async def test_killed_shim_is_reported_and_its_command_ends(runner: Runner, ready: Path) -> None:
    attempt, pids = await start_family(runner, ready, 1)
    mine = pids[:1]
    os.kill(attempt.pid, signal.SIGKILL)
    result = await asyncio.wait_for(attempt.outcome(), BOUND)
    assert (result.ending, result.exit_code) == (Ending.SHIM_LOST, None)
    assert str(attempt.pid) in result.message
    assert [pid for pid in mine if is_alive(pid)] == []
    for child in Path(f"/proc/{pids[1]}/task/{pids[1]}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    os.kill(pids[1], signal.SIGKILL)  # without environment, session and shim: out of reach


async def test_process_without_environment_is_found_by_its_session(runner: Runner, ready: Path) -> None:
    attempt = await runner.start(command(f"env -i /bin/sh -c 'echo $$ > {ready}; sleep 1000'", ready.parent))
    pid = int(await content_of(ready))
    os.kill(attempt.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(attempt.outcome(), BOUND)).ending is Ending.SHIM_LOST
    assert not is_alive(pid)


async def test_shim_that_is_asked_to_end_ends_its_command(runner: Runner, ready: Path) -> None:
    attempt, pids = await start_family(runner, ready, 1)
    os.kill(attempt.pid, signal.SIGTERM)
    assert (await asyncio.wait_for(attempt.outcome(), BOUND)).ending is Ending.TERMINATED
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_killed_spawner_does_not_affect_commands(runner: Runner, instance: str, ready: Path) -> None:
    attempt = await runner.start(command(f"sh -c 'echo on > {ready}; cat {ready}; exit 9'", ready.parent))
    assert await content_of(ready) == "on\n"
    marked = [p for p in leftovers.living_processes() if p.carries(leftovers.INSTANCE_VARIABLE, instance)]
    nurseries = [process.pid for process in marked if process.is_shim and process.pid != attempt.pid]
    assert len(nurseries) == 1
    os.kill(nurseries[0], signal.SIGKILL)
    results = await asyncio.gather(*(outcome(runner, "sh -c 'exit 6'", ready.parent) for _ in range(5)))
    assert results == [Outcome(ending=Ending.EXITED, exit_code=6)] * 5
    await asyncio.to_thread(ready.write_text, "go")
    assert await attempt.outcome() == Outcome(ending=Ending.EXITED, exit_code=9)


async def test_nothing_secret_can_be_seen_from_outside(runner: Runner, ready: Path) -> None:
    environment = {"PATH": PATH, "SAS": "sig=s3cret"}
    line = f"sh -c 'echo on > {ready}; cat {ready}'"
    attempt = await runner.start(command(line, ready.parent, environment=environment))
    await content_of(ready)
    shown = Path(f"/proc/{attempt.pid}/environ").read_bytes().split(b"\0")
    assert [entry.split(b"=")[0].decode() for entry in shown if entry] == [leftovers.INSTANCE_VARIABLE]
    assert str(ready).encode() not in Path(f"/proc/{attempt.pid}/cmdline").read_bytes()
    await asyncio.to_thread(ready.write_text, "go")
    await attempt.outcome()


async def test_commands_run_side_by_side(runner: Runner, ready: Path) -> None:
    reader = await runner.start(command(f"cat {ready}", ready.parent, stdout=ready.parent / "reader.txt"))
    writer = await runner.start(command(f"sh -c 'echo met > {ready}; exit 2'", ready.parent))
    both = await asyncio.wait_for(asyncio.gather(reader.outcome(), writer.outcome()), BOUND)
    assert [result.exit_code for result in both] == [0, 2]
    assert (ready.parent / "reader.txt").read_text() == "met\n"


async def test_descriptors_return_to_their_number(runner: Runner, tmp_path: Path) -> None:
    await outcome(runner, "true", tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        lines = ["true"] * MOST_IDLE * 2 + ["no-such-program", "'"]
        await asyncio.gather(*(outcome(runner, line, tmp_path) for line in lines))
        idle = len(os.listdir("/proc/self/fd")) - before + 1
        assert 1 <= idle <= MOST_IDLE


async def test_supervisor_runs_one_command_after_the_other(runner: Runner, instance: str, tmp_path: Path) -> None:
    script = """
import os
print(os.getppid(), os.getsid(0), oct(os.umask(0)), os.getcwd(), sorted(os.listdir("/proc/self/fd"))[:-1])
"""
    pids, seen = [], []
    for number, umask in enumerate((0o022, 0o077, 0o022)):
        directory = tmp_path / str(number)
        directory.mkdir()
        attempt = await runner.start(command(f"{PYTHON} {shlex.quote(script)}", directory, umask=umask))
        assert await attempt.outcome() == Outcome(ending=Ending.EXITED, exit_code=0)
        pids.append(attempt.pid)
        seen.append((directory / "stdout.txt").read_text())
        assert os.readlink(f"/proc/{attempt.pid}/cwd") == "/"
    pid = pids[0]
    assert pids == [pid] * 3
    surroundings = [("0o22", 0), ("0o77", 1), ("0o22", 2)]
    assert seen == [f"{pid} {pid} {umask} {tmp_path}/{n} ['0', '1', '2']\n" for umask, n in surroundings]
    assert len(carrying(instance)) == 2  # the supervisor and the spawner


@pytest.mark.parametrize("ending", [Ending.TERMINATED, Ending.TIME_LIMIT, Ending.LAUNCH_FAILED, Ending.SHIM_LOST])
async def test_supervisor_of_a_command_that_did_not_exit_is_not_reused(
    runner: Runner, tmp_path: Path, ending: Ending
) -> None:
    first = await runner.start(command("true", tmp_path))
    await first.outcome()
    line = "/etc/passwd" if ending is Ending.LAUNCH_FAILED else "sleep 1000"
    attempt = await runner.start(command(line, tmp_path, time_limit=0.1 if ending is Ending.TIME_LIMIT else None))
    if ending is Ending.TERMINATED:
        attempt.terminate()
    if ending is Ending.SHIM_LOST:
        os.kill(attempt.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(attempt.outcome(), BOUND)).ending is ending
    following = await runner.start(command("true", tmp_path))
    await following.outcome()
    assert first.pid == attempt.pid != following.pid
    assert not is_alive(attempt.pid)


async def test_idle_supervisor_that_was_killed_is_replaced(runner: Runner, tmp_path: Path) -> None:
    first = await runner.start(command("true", tmp_path))
    await first.outcome()
    os.kill(first.pid, signal.SIGKILL)
    assert wait_until_gone([first.pid]) == []
    assert await outcome(runner, "sh -c 'exit 3'", tmp_path) == Outcome(ending=Ending.EXITED, exit_code=3)


async def test_signal_of_a_command_does_not_reach_the_next_one(runner: Runner, ready: Path) -> None:
    """A command that sends SIGTERM to its supervisor as its last act."""
    for _ in range(5):
        ended = await outcome(runner, "sh -c 'kill -TERM $PPID'", ready.parent)
        assert ended.ending in (Ending.EXITED, Ending.TERMINATED)
        assert await outcome(runner, "true", ready.parent) == Outcome(ending=Ending.EXITED, exit_code=0)


async def test_idle_supervisors_end_with_the_service(instance: str, tmp_path: Path) -> None:
    program = DRIVER.replace("await attempt.outcome()\n", "await attempt.outcome()\n    os.kill(os.getpid(), 9)\n")
    arguments = [sys.executable, "-c", program, instance, str(tmp_path), "true"]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert wait_until_gone(carrying(instance)) == []


async def test_large_requests_do_not_block_the_service(runner: Runner, tmp_path: Path) -> None:
    environment = {"PATH": PATH, **{f"V{number}": "x" * 100_000 for number in range(15)}}
    results = await asyncio.gather(*(outcome(runner, "true", tmp_path, environment=environment) for _ in range(4)))
    assert results == [Outcome(ending=Ending.EXITED, exit_code=0)] * 4


async def test_outcome_arrives_even_if_it_cannot_be_written(runner: Runner, tmp_path: Path) -> None:
    result = await outcome(runner, "sh -c 'exit 3'", tmp_path, status_file=tmp_path / "missing" / "status.json")
    assert (result.ending, result.exit_code) == (Ending.EXITED, 3)
    assert "status file could not be written" in result.message


async def test_outcome_of_a_previous_attempt_is_ignored(runner: Runner, ready: Path) -> None:
    request = command(f"sh -c 'echo on > {ready}; sleep 1000'", ready.parent)
    request.status_file.write_text('{"ending": "exited", "exitCode": 0, "message": ""}')
    attempt = await runner.start(request)
    await content_of(ready)
    os.kill(attempt.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(attempt.outcome(), BOUND)).ending is Ending.SHIM_LOST


@pytest.mark.parametrize("content", [None, "", '{"ending": "exi', "[]", '{"ending": "unheard of", "exitCode": 0}'])
async def test_unreadable_status_file_is_no_outcome(tmp_path: Path, content: str | None) -> None:
    status = tmp_path / "status.json"
    if content is not None:
        status.write_text(content)
    assert Outcome.read(status) is None


async def test_closed_runner_has_ended_everything_and_starts_nothing(instance: str, ready: Path) -> None:
    runner = Runner(instance, grace=GRACE)
    attempt, pids = await start_family(runner, ready, 2)
    await asyncio.wait_for(runner.close(), BOUND)
    assert [pid for pid in pids if is_alive(pid)] == []
    assert carrying(instance) == []
    assert (await attempt.outcome()).ending is Ending.TERMINATED
    with pytest.raises(RuntimeError, match="closed"):
        await runner.start(command("true", ready.parent))


async def test_every_ending_of_the_shim_is_known_to_the_runner() -> None:
    words = {shim.EXITED, shim.READY, shim.TIME_LIMIT, shim.TERMINATED, shim.ORPHANED}
    words |= {shim.PROGRAM_NOT_FOUND, shim.LAUNCH_FAILED}
    assert words == {ending.value for ending in Ending} - {Ending.SHIM_LOST.value}


@pytest.mark.parametrize("platform", ["darwin", "win32"])
async def test_other_platforms_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(RuntimeError, match=platform):
        Runner("instance")


async def test_termination_before_the_program_is_executed_is_not_lost(tmp_path: Path) -> None:
    patient = Runner(f"test-{uuid.uuid4().hex}", grace=30)  # so that only SIGTERM can end these in time
    try:
        for _ in range(20):
            attempt = await patient.start(command("sleep 1000", tmp_path))
            attempt.terminate()
            outcome = await asyncio.wait_for(attempt.outcome(), BOUND)
            assert outcome.ending is Ending.TERMINATED
    finally:
        await patient.close()
