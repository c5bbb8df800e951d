"""Supervisors of commands (shims): each owns one command's process tree, time limit, output files and outcome.

spawner.py starts this file as ``python -I -S shim.py``, with the standard library only. That process, the spawner,
only forks: for every lease that arrives on its control socket it forks a shim. This saves each shim the start of an
interpreter (10 ms) and the imports (10 ms), and the service does not have to reap processes.

A lease is one end of a socket pair. The shim writes its pid to it, then runs one command after the other: it reads the
request and later perhaps TERMINATE, and writes its report, one line, when no process of the command is left. End of
file means that the service has ended, and ends the command and the shim.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

CONTROL = 1  # descriptor of the spawner's control socket
LEASE = 1  # descriptor of a shim's lease, in the place of the spawner's control socket
TERMINATE = b"T"
LENGTH_BYTES = 8  # size of the big-endian length in front of the request

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
OUTPUT_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY
LAST_OF_COMMANDS = 124  # exit code; those of shells and container engines come after it
DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
LONGEST_WAIT = 3600.0  # seconds; poll() takes milliseconds as a C int, which 25 days overflow
CLEAN_UP_LIMIT = 10.0  # seconds
RESCAN_DELAYS = (0.005, 0.5)  # seconds, first and longest, between two scans of a tree that is being killed

EXITED, TIME_LIMIT, TERMINATED, ORPHANED = "exited", "timelimit", "terminated", "orphaned"
READY = "ready"  # not an end: the command has succeeded, and the processes that it has started live on
PROGRAM_NOT_FOUND, LAUNCH_FAILED = "programnotfound", "launchfailed"

# Python ignores SIGPIPE, and programs inherit ignored signals.
RESET = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

libc = ctypes.CDLL(None, use_errno=True)


class Report(NamedTuple):
    ending: str
    exit_code: int | None
    message: str = ""


class Refused(Exception):
    """The program could not be executed."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the shims
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.freeze()  # a collection in a shim would copy the pages that it shares with the spawner
    control = socket.socket(fileno=CONTROL)
    while True:
        message, leases, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        fork_shim(leases[0])


def fork_shim(lease: int) -> None:
    try:
        pid = os.fork()
    except OSError:
        pid = -1  # the service then reads end of file before a pid
    if pid == 0:
        try:
            os.dup2(lease, LEASE)
            os.close(lease)
            os.setsid()  # the session id, the shim's pid, marks all processes that stay in the session
            supervise()
        finally:
            os._exit(0)
    os.close(lease)


def supervise() -> None:
    """Run commands, as a shim, until the service closes the lease."""
    become_subreaper()
    wakeup = watch_signals()
    os.write(LEASE, b"%d\n" % os.getpid())
    while (received := receive()) is not None:
        request, terminated = received
        publish(encode(request["status_file"]), run(request, wakeup, terminated=terminated))


def receive() -> tuple[dict[str, Any], bool] | None:
    """Read the request, and whether it is already terminated; None if the service has ended."""
    buffer = b""
    while len(buffer) < LENGTH_BYTES or len(buffer) - LENGTH_BYTES < int.from_bytes(buffer[:LENGTH_BYTES], "big"):
        chunk = read_lease(1 << 20)
        if not chunk:
            return None
        buffer += chunk
    end = LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "big")
    return json.loads(buffer[LENGTH_BYTES:end]), TERMINATE in buffer[end:]


def read_lease(size: int) -> bytes:
    try:
        return os.read(LEASE, size)
    except ConnectionResetError:  # the service was killed with our report, or a part of it, unread
        return b""


def run(request: dict[str, Any], wakeup: int, *, terminated: bool) -> Report:
    drain(wakeup)
    try:
        command = launch(request)
    except Refused as refused:
        return refused.report
    except (OSError, ValueError) as error:
        return Report(LAUNCH_FAILED, None, explain(error))
    tree = Tree(
        command,
        wakeup,
        limit=request["time_limit"],
        grace=request["grace"],
        orphan_grace=request["orphan_grace"],
        background=request["background"],
    )
    if terminated:
        tree.stop(TERMINATED)
    status = tree.watch()
    if request["clean_up"] and (tree.ending is not None or exit_code(status) > LAST_OF_COMMANDS):
        clean_up(request)
    return Report(tree.ending or EXITED, exit_code(status))


def clean_up(request: dict[str, Any]) -> None:
    """Run the command that removes what is outside of the process tree, such as a container."""
    silent = os.open("/dev/null", os.O_RDWR)
    try:
        pid = spawn([encode(word) for word in request["clean_up"]], environment_of(request), silent, silent)
    except (Refused, ValueError):
        return
    finally:
        os.close(silent)
    until = time.monotonic() + CLEAN_UP_LIMIT
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended == pid:
            until = 0.0  # whatever it has started has had its time
        if time.monotonic() >= until:
            signal_all(descendants(), signal.SIGKILL)
        if not ended:
            time.sleep(RESCAN_DELAYS[0])


def become_subreaper() -> None:
    """Adopt orphans of the command: once this process has no children, the whole tree has ended."""
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become the reaper of the command's processes")


def watch_signals() -> int:
    """A descriptor on which the numbers of received signals arrive, SIGCHLD included."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return readable


def drain(wakeup: int) -> None:
    """Discard the signals that the previous command may have sent to its shim."""
    with contextlib.suppress(BlockingIOError):
        while os.read(wakeup, 4096):
            pass


def launch(request: dict[str, Any]) -> int:
    """Start the command in its working directory, with its output files and umask; returns its pid."""
    argv = split(request["command_line"])
    output = errors = None
    try:
        output = os.open(encode(request["stdout"]), OUTPUT_FLAGS, 0o600)
        errors = os.open(encode(request["stderr"]), OUTPUT_FLAGS, 0o600)
        os.chdir(encode(request["working_directory"]))
        os.umask(request["umask"])
        return spawn(argv, environment_of(request), output, errors)
    finally:
        os.chdir("/")  # a shim that waits for its next command must not keep the directory in use
        for descriptor in (output, errors):
            if descriptor is not None:
                os.close(descriptor)


def environment_of(request: dict[str, Any]) -> dict[bytes, bytes]:
    return {encode(name): encode(value) for name, value in request["environment"].items()}


def split(command_line: str) -> list[bytes]:
    try:
        words = shlex.split(command_line)
    except ValueError as error:
        raise ValueError(f"the command line cannot be parsed: {error}") from error
    if not words:
        raise ValueError("the command line is empty")
    return [encode(word) for word in words]


def encode(text: str) -> bytes:
    # UTF-8 in any locale: the text came as JSON. Surrogates stand for undecodable bytes of file names.
    return text.encode("utf-8", "surrogateescape")


def spawn(argv: list[bytes], environment: dict[bytes, bytes], output: int, errors: int) -> int:
    """Start the program, searched for in the command's own PATH; returns its pid. Raises Refused with the reason."""
    name = argv[0]
    search = [b""] if b"/" in name else environment.get(b"PATH", DEFAULT_PATH).split(b":")
    denied: OSError | None = None
    for directory in search:
        try:
            return os.posix_spawn(
                os.path.join(directory, name),
                argv,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, errors, 2)],  # 1 was the lease
                setpgroup=0,
                setsigmask=(),
                setsigdef=RESET,
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            denied = error  # like execvp(3): a later directory may have an executable one
        except OSError as error:
            denied = error
            break
    program = f"program {os.fsdecode(name[:200])!r}"
    if denied is None:
        raise Refused(Report(PROGRAM_NOT_FOUND, None, f"{program}: the program or its interpreter does not exist"))
    raise Refused(Report(LAUNCH_FAILED, None, f"{program}: {denied.strerror}"))


class Tree:
    """The process tree of the command, from its start until the last process has ended."""

    def __init__(
        self,
        command: int,
        wakeup: int,
        *,
        limit: float | None,
        grace: float,
        orphan_grace: float,
        background: bool,
    ) -> None:
        self.ending: str | None = None  # why it is being stopped, if so
        self._background = background
        self._command = command
        self._status: int | None = None  # as waitpid() gives it, once the command itself has ended
        self._wakeup = wakeup
        self._grace = grace
        self._orphan_grace = orphan_grace
        self._limit_at = None if limit is None else time.monotonic() + limit
        self._kill_at: float | None = None
        self._rescan = RESCAN_DELAYS[0]
        self._poll = select.poll()
        self._poll.register(LEASE, select.POLLIN)
        self._poll.register(wakeup, select.POLLIN)

    def watch(self) -> int:
        """Wait for the end of the command, then kill its descendants, or let them live on until they are stopped."""
        while self._reap():
            now = time.monotonic()
            if self._limit_at is not None and now >= self._limit_at:
                self._limit_at = None
                self.stop(TIME_LIMIT)
            if self._kill_at is not None and now >= self._kill_at:
                signal_all(descendants(), signal.SIGKILL)
            self._wait(now)
        assert self._status is not None
        return self._status

    def stop(self, ending: str) -> None:
        """Send SIGTERM to every process now, and SIGKILL after the grace. The first reason is kept."""
        if self.ending is not None or (self._status is not None and not self._lives_on()):
            return
        self.ending = ending
        self._limit_at = None
        self._kill_at = time.monotonic() + self._grace
        processes = list(descendants())
        signal_all(processes, signal.SIGTERM)
        signal_all(processes, signal.SIGCONT)  # a stopped process handles no SIGTERM

    def _reap(self) -> bool:
        """Reap all processes that have ended; returns False once none is left."""
        # Never a blocking wait: a fork that races the scan would leave a process that is never killed.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._command:
                self._status = status
                if self.ending is None and self._lives_on():
                    send(Report(READY, 0))
                elif self.ending is None:
                    self._kill_at = 0.0

    def _lives_on(self) -> bool:
        """Whether what the command has started lives longer than itself: if that was asked for, and it succeeded."""
        return self._background and self._status == 0

    def _wait(self, now: float) -> None:
        until = [moment for moment in (self._limit_at, self._kill_at) if moment is not None]
        timeout = min([LONGEST_WAIT, *(moment - now for moment in until)])
        if self._kill_at is not None and now >= self._kill_at:
            timeout, self._rescan = self._rescan, min(self._rescan * 2, RESCAN_DELAYS[1])
        for descriptor, _ in self._poll.poll(max(0.0, timeout) * 1000 + 1):
            if descriptor == LEASE:
                self._read_lease()
            elif not set(os.read(self._wakeup, 4096)) <= {signal.SIGCHLD}:
                self.stop(TERMINATED)

    def _read_lease(self) -> None:
        if read_lease(4096):
            self.stop(TERMINATED)
            return
        self._poll.unregister(LEASE)
        self.stop(ORPHANED)
        self._kill_at = time.monotonic() + self._orphan_grace


def descendants() -> Iterable[int]:
    """The pids of all descendants. A fork may race the scan: repeat it until none is left."""
    pending = [os.getpid()]
    find = children if os.path.exists(f"/proc/{pending[0]}/task/{pending[0]}/children") else parents_table()
    while pending:
        found = find(pending.pop())
        pending += found
        yield from found


def children(parent: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # it has ended; its children are ours now, and found by the next scan
    return found


def parents_table() -> Callable[[int], list[int]]:
    """`children` for a kernel without CONFIG_PROC_CHILDREN: one scan of all processes of the machine."""
    table: dict[int, list[int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                parent = file.read().rpartition(b")")[2].split()[1]  # the name before it may contain anything
        except OSError:
            continue
        table.setdefault(int(parent), []).append(int(pid))
    return lambda parent: table.get(parent, [])


def signal_all(processes: Iterable[int], number: int) -> None:
    for pid in processes:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # ended, or a set-uid program, which only root can kill


def exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def explain(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    return f"{os.fsdecode(error.filename)!r}: {error.strerror}"


def publish(status_file: bytes, outcome: Report) -> None:
    """Write the report to the status file, for a restarted service, then send it to the running one."""
    try:
        write(status_file, serialise(outcome))
    except OSError as error:
        notice = f"the status file could not be written: {explain(error)}"
        outcome = outcome._replace(message=f"{outcome.message}; {notice}" if outcome.message else notice)
    send(outcome)


def send(report: Report) -> None:
    """Send the report to the running service. If that has ended, the next one reads the status file."""
    with contextlib.suppress(OSError):
        os.write(LEASE, serialise(report))


def serialise(outcome: Report) -> bytes:
    ending, code, message = outcome
    return json.dumps({"ending": ending, "exitCode": code, "message": message}).encode() + b"\n"


def write(path: bytes, payload: bytes) -> None:
    """Write a file that a kill cannot truncate: one system call, and no part of a report is one.

    It is not flushed to the disk: if the machine fails, its node is lost, and the Batch task runs again.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, payload)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
