#!/usr/bin/env python3
"""Run a script over an input file, or each of a group, and store what it leaves: the work of one Azure Batch task.

    run_file.py SCRIPT [ARGUMENT]...

Runs on Python 3.8 and later with nothing but the standard library, so a node can run it as soon as it boots.

SCRIPT is any executable, or a Python or shell file. The placeholders {input}, {output_dir}, {name} and {stem} in its
arguments are filled in; without {input}, the input file comes last. It finds INPUT_FILE, INPUT_NAME and OUTPUT_DIR in
its environment, and what it leaves in OUTPUT_DIR is uploaded once it has ended with exit code 0: first the files, last
of all a record of them. So where there is a record, all outputs are there.

What this script is given comes in through the environment, because anybody on the node can read a command line:
INPUT_FILE (a path in the working directory), INPUT_NAME (percent-encoded), INPUT_SIZE, INPUT_MD5 (empty: not known),
OUTPUT_URL, OUTPUT_PREFIX and OUTPUT_SAS_TOKEN (the container of the outputs and their folder in it), RECORD_URL and
RECORD_SAS_TOKEN (the blob of the record). Where OUTPUT_INLINE is set, the record has outputs of up to so many bytes.

A group comes as GROUP_FILE: a line of JSON that lists its files, then their contents. GROUP_MEMBERS says which of them
to process, such as 0-4,7. Each has a folder of its own, and all that holds of a single file holds of it; but its small
outputs are in its record alone, a file that fails has a record too, and the records are lists: RECORD_URL/00000.json,
RECORD_URL/00001.json, and so on. A Batch task that runs again reads them, from number RECORDS_FROM on, and leaves out
what is done. FILE_SECONDS is the time that one file may take. A Python script that has a function process_file, with
the one parameter arguments, is imported once, and called for each file; with ISOLATE in a fork of its process.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
from contextlib import contextmanager, redirect_stderr, suppress
from datetime import datetime, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.client import HTTPConnection
    from typing import Any, BinaryIO

    Values = dict[str, Any]  # of a JSON object

STORAGE_VERSION = "2021-08-06"
SILENCE = 60.0  # seconds without an answer
ATTEMPTS = 5
LONGEST_PAUSE = 60.0  # seconds
LARGEST_PUT = 256 << 20  # bytes; what is larger goes in blocks
BLOCK = 64 << 20
STORED_EVERY = 20.0  # seconds, of a group's records
LARGEST_LIST = 4 << 20  # bytes of records that wait to be stored, and of outputs in one record
LARGEST_SCRIPT = 4 << 20  # bytes in which process_file is looked for
LONGEST_END = 64 << 10  # bytes of stdout and stderr in the record of a file of a group
GRACE = 2.0  # seconds that a script has from SIGTERM to SIGKILL
FETCH_FAILED = 73  # the exit code for an input that is not what was uploaded; EX_CANTCREAT of sysexits.h
UPLOAD_FAILED = 74  # the exit code; EX_IOERR
TIMED_OUT = 124  # the exit code of a file of a group, as of timeout(1)
STREAMS = ("stdout", "stderr")
FOLDERS = ("input", "work", "output")  # of the file of a group that is processed
CANNOT_START = 126  # the exit code, as of a shell
EXISTS = (409, 412)  # the status for a blob that is there
PROBLEMS = {FETCH_FAILED: "could not fetch", UPLOAD_FAILED: "could not upload", CANNOT_START: "could not start"}
WORKER = "--worker"  # the first argument of a process that calls the script's function
OURS = (
    *("INPUT_SIZE", "INPUT_MD5", "OUTPUT_URL", "OUTPUT_PREFIX", "OUTPUT_SAS_TOKEN", "OUTPUT_INLINE"),
    *("RECORD_URL", "RECORD_SAS_TOKEN", "RECORDS_FROM", "SAS_EXPIRES"),
    *("GROUP_FILE", "GROUP_DIGEST", "GROUP_MEMBERS", "FILE_SECONDS", "ISOLATE"),
)
# With this one parameter: a function that is called so by chance takes another.
OFFERED = re.compile(rb"^def process_file\(\s*arguments\s*(:[^()]*)?,?\s*\)", re.MULTILINE)
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")  # the first is how to write the second as it stands
# What a blob's name cannot have, or not keep, in every client; what comes after the first planes is rare enough.
ENCODED = re.compile("[^ -~\xa0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef\U00010000-\U0001fffd]|[%\\\\]|[. ](?=/|\\Z)")
LONGEST_NAME = 250  # of the 1,024 characters of a blob's name; the input's name takes up to 710
ADVICE = {
    ("PUT", 403): "The SAS token has expired, or does not permit create and write in this container.",
    ("PUT", 404): "The container or the account does not exist.",
    ("GET", 403): "The SAS token has expired, or does not permit read.",
    ("GET", 412): "The blob has changed since the run began.",
}


class Failure(Exception):
    """What fails a file, or the Batch task, with an exit code of this script's own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- the input --------------------------------------------------------------------------------------------


def digest(path: str) -> str:
    """MD5, hexadecimal."""
    found = hashlib.md5()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def check_input(path: str, size: str, md5: str) -> None:
    """Raises Failure where the file is not what was uploaded, or what the blob was when the run began."""
    try:
        found = f"{os.path.getsize(path)} bytes", digest(path) if md5 else ""
    except OSError as error:
        found = f"nothing ({error.strerror})", ""
    if found != (f"{size} bytes", md5):
        kinds = " with MD5 ".join(filter(None, found)), f"{size} bytes" + (f" with MD5 {md5}" if md5 else "")
        raise Failure(f"{shown(path)} is not what was uploaded: expected {kinds[1]}, found {kinds[0]}", FETCH_FAILED)


def own_name(name: bytes) -> str:
    """The file's name where it comes from; empty where this file system does not take it."""
    own = name.rpartition(b"/")[2]
    return "" if own in (b"", b".", b"..") or b"\0" in own or len(own) > 255 else os.fsdecode(own)


def with_own_name(path: str, name: bytes) -> str:
    """The file under the name that it has where it comes from, as far as this file system takes it."""
    target = os.path.join(os.path.dirname(os.path.abspath(path)), own_name(name) or os.path.basename(path))
    if os.path.exists(path):  # of a Batch task that runs again it may have its name already
        os.replace(path, target)
    return target


def empty(name: str) -> str:
    """The path of an empty folder; one that exists is emptied, since to delete one takes milliseconds on some disks."""
    folder = os.path.abspath(name)
    if os.path.isdir(folder) and not os.path.islink(folder):
        for entry in os.scandir(folder):
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                import shutil  # slow, and seldom needed

                shutil.rmtree(entry.path, ignore_errors=True)
        if not os.listdir(folder):
            return folder
    if os.path.lexists(folder):
        os.rename(folder, f"{folder}-{time.time_ns()}")
    os.makedirs(folder)
    return folder


# --- the script -------------------------------------------------------------------------------------------


def fill_in(arguments: list[str], values: dict[str, str]) -> list[str]:
    """The arguments with the placeholders filled in, and the input file last where none of them names it."""

    def value(found: re.Match[str]) -> str:
        return f"{{{found[1]}}}" if found[1] else values.get(found[2], found[0])

    filled = [PLACEHOLDER.sub(value, argument) for argument in arguments]
    names = [found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument)]
    return filled if "input" in names else [*filled, values["input"]]


def command(script: str, python: str) -> list[str]:
    """How to start the script: with its interpreter, or as the executable that it is."""
    with open(script, "rb") as file:
        start = file.readline(256)
    ending = os.path.splitext(script)[1]
    if start.startswith(b"#!"):
        is_python = re.search(rb"python|\buv run\b", start)
        return [python, script] if is_python and python != sys.executable else [script]
    return [{".py": python, ".sh": "/bin/sh"}[ending], script] if ending in (".py", ".sh") else [script]


def no_interpreter(script: str) -> str:
    """What is missing where the script itself is there."""
    try:
        with open(script, "rb") as file:
            start = file.readline(256)
    except OSError:
        return ""
    named = os.fsdecode(start[2:]).split()
    if not start.startswith(b"#!") or not named or os.path.exists(named[0]):
        return ""
    return f"; its interpreter {shown(named[0])} is not on this node"


def environment(folder: str) -> dict[str, str]:
    """What scripts find: no token, and the packages and modules that the start task has put into the folder."""
    found = {name: value for name, value in os.environ.items() if name not in OURS}
    tools, modules = os.path.join(folder, "env", "bin"), os.path.join(folder, "modules")
    if os.path.isdir(tools):
        found["PATH"] = os.pathsep.join(filter(None, [tools, found.get("PATH", os.defpath)]))
        found["VIRTUAL_ENV"] = os.path.dirname(tools)
    if os.path.isdir(modules):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [modules, found.get("PYTHONPATH", "")]))
    return found


def start(line: list[str], script: str, env: dict[str, str], **options: Any) -> subprocess.Popen[bytes]:
    """Raises Failure where it cannot be started."""
    try:
        with raised_oom_score():
            return subprocess.Popen(line, env=env, **options)
    except OSError as error:
        reason = f"{error.strerror}{no_interpreter(script)}"
        raise Failure(f"{shown(script)} cannot be started: {reason}", CANNOT_START) from None


oom_score: BinaryIO | None = None  # /proc/self/oom_score_adj, which cannot be opened after hide_environment


@contextmanager
def raised_oom_score() -> Iterator[None]:
    """What is started meanwhile is killed before this process where memory runs out."""
    if oom_score is None:
        yield
        return
    oom_score.seek(0)
    own = oom_score.read()
    with suppress(OSError):
        oom_score.write(b"%d" % min(1000, int(own) + 500))
    try:
        yield
    finally:
        with suppress(OSError):
            oom_score.write(own)


class Script:
    """The script of the Batch task, with its arguments."""

    def __init__(self, path: str, arguments: list[str]) -> None:
        folder = os.environ.get("AZ_BATCH_NODE_SHARED_DIR", "")  # where the start task installs what it imports
        python = os.path.join(folder, "env", "bin", "python")
        self.python = python if os.path.exists(python) else sys.executable
        self.path = os.path.abspath(path)
        self.arguments = arguments
        self.environment = environment(folder)

    def start(self, values: dict[str, str], **options: Any) -> subprocess.Popen[bytes]:
        """Raises Failure where it cannot be started."""
        try:
            line = [*command(self.path, self.python), *fill_in(self.arguments, values)]
        except OSError as error:
            raise Failure(f"{shown(self.path)} cannot be started: {error.strerror}", CANNOT_START) from None
        return start(line, self.path, {**self.environment, **variables(values)}, **options)


def variables(values: dict[str, str]) -> dict[str, str]:
    """What the script finds in its environment of the file."""
    return {"INPUT_FILE": values["input"], "INPUT_NAME": values["name"], "OUTPUT_DIR": values["output_dir"]}


def exit_code(status: int) -> int:
    """Of a script that a signal has ended 128 and its number, as a shell gives it."""
    return 128 - status if status < 0 else status


# --- the script in a process that is kept -----------------------------------------------------------------


def kept_interpreter(script: str, python: str) -> list[str]:
    """How to start the Python that runs the script; empty where it offers no process_file, or is not Python."""
    with suppress(OSError), open(script, "rb") as file:
        text = file.read(LARGEST_SCRIPT)
        if not OFFERED.search(text):
            return []
        line = command(script, python)[:-1]
        first = text.partition(b"\n")[0]
        if re.match(rb"#!.*python", first) and not line and not re.search(rb"\buv\b", first):
            line = [part.strip() for part in os.fsdecode(first[2:]).strip().split(None, 1)]
        return line if line[-1:] != ["/bin/sh"] else []
    return []


class Worker:
    """A process that has imported the script, and calls its function for one file after the other."""

    def __init__(self, line: list[str], script: Script, isolate: bool, **options: Any) -> None:
        self.left = 1  # whether something goes on that the function has started
        requests, answers = os.pipe(), os.pipe()
        pipes = requests[0], answers[1]
        self.requests = open(requests[1], "wb", buffering=0)  # noqa: SIM115  # see close
        self.answers = open(answers[0], "rb")  # noqa: SIM115
        line = [*line, os.path.abspath(__file__), WORKER, script.path, str(int(isolate)), *map(str, pipes)]
        try:
            self.process = start(line, script.path, script.environment, pass_fds=pipes, **options)
        except Failure:
            self.close()
            raise
        finally:
            for each in pipes:
                os.close(each)

    def call(self, request: Values) -> int:
        """The exit code of the function, or of the process where that has ended; negative for a signal."""
        with suppress(BrokenPipeError):
            self.requests.write(json.dumps(request).encode() + b"\n")
        status, _, left = self.answers.readline().partition(b" ")
        self.left = int(left or 1)
        return int(status) if status else self.process.wait()

    def close(self) -> None:
        """Let the process end by itself."""
        self.requests.close()
        self.answers.close()


def serve(script: str, isolate: bool, requests: int, answers: int) -> None:
    """What a worker does."""
    for each in (requests, answers):
        os.set_inheritable(each, False)
    pipes = [requests, answers]

    def leave_pipes() -> None:
        while pipes:
            os.close(pipes.pop())

    adopt_orphans()
    process = os.getpid()
    os.register_at_fork(after_in_child=leave_pipes)  # where this process dies, no child of it is to be waited for
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(script)
    streams = os.dup(1), os.dup(2)
    files = {name: getattr(sys, name) for name in STREAMS}
    env = dict(os.environ)
    functions: list[Callable[[list[str]], object]] = []
    for line in os.fdopen(requests, "rb", closefd=False):
        request = json.loads(line)
        arguments = request["arguments"]
        os.environ.clear()
        os.environ.update(env, **request["environment"])
        sys.argv = [script, *arguments]
        os.chdir(request["folder"])
        for number, name in enumerate(STREAMS, 1):  # the script may have closed or replaced them
            os.dup2(streams[number - 1], number)
            setattr(sys, name, files[name])  # another one that was there may close this one as it goes
            if files[name].closed:
                files[name] = os.fdopen(number, "w", errors="backslashreplace", closefd=False)
                setattr(sys, name, files[name])
        status = 0
        if not functions:
            status = call(lambda: functions.append(load(script)))
            files = {name: getattr(sys, name) for name in STREAMS}
        if functions:
            (function,) = functions
            run = in_fork if isolate else call
            status = run(lambda: function(arguments))  # noqa: B023  # called before the next file
        if os.getpid() != process:  # the function has forked, and the child has returned too
            os._exit(status & 255)
        try:
            os.write(answers, b"%d %d\n" % (status, has_left()))
        except OSError:  # the function has closed what it has not opened
            os._exit(status & 255)


def load(script: str) -> Callable[[list[str]], object]:
    """The script's function; the script is imported as a module, and not run."""
    name = os.path.splitext(os.path.basename(script))[0]
    module: Any = type(sys)(f"script_{name}" if name in sys.modules else name)
    module.__file__ = script
    sys.modules[module.__name__] = module
    try:
        with open(script, "rb") as file:
            exec(compile(file.read(), script, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    found: Callable[[list[str]], object] = module.process_file
    return found


def call(function: Callable[[], object]) -> int:
    """The exit code that the interpreter would have."""
    try:
        code = function()
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:
        import traceback

        code = exit_code(-signal.SIGINT) if isinstance(error, KeyboardInterrupt) else 1

        frames = error.__traceback__
        while frames and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames)
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()  # type: ignore[union-attr]  # else what was printed would go with the next file
    return int(code or 0) & 255


def has_left() -> bool:
    """Whether threads, or processes, go on."""
    with suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises it where there is no child
        return True
    return "threading" in sys.modules and sys.modules["threading"].active_count() > 1


def in_fork(function: Callable[[], object]) -> int:
    """As call, in a process of its own; negative for the signal that has ended it."""
    import atexit

    child = os.fork()
    if not child:
        code = 1
        try:
            atexit._clear()  # what was registered before is the other process's
            code = call(function)
            atexit._run_exitfuncs()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


# --- the outputs ------------------------------------------------------------------------------------------


def outputs_in(folder: str) -> Iterator[str]:
    """The paths of all files, relative to the folder, in order; links to files count as files."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                yield os.path.relpath(path, folder)
            else:
                print(f"{shown(path)} is no file and is not kept", file=sys.stderr)


def blob_name(path: str) -> str:
    """The path as the name of a blob: what Azure would refuse or change is percent-encoded, a long one is digested."""
    text = os.fsencode(path).decode("utf-8", "surrogateescape")

    def encoded(found: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))

    name = ENCODED.sub(encoded, text)
    if len(name) <= LONGEST_NAME:
        return name
    return re.sub("%[0-9A-F]?$", "", name[:150]) + "%_" + hashlib.sha256(os.fsencode(path)).hexdigest()[:40]


def store(url: str, sas: str, path: str, *, sleep: Callable[[float], None] = time.sleep) -> tuple[int, str]:
    """Upload the file; returns its size and its MD5, which the service has checked too."""
    size = os.path.getsize(path)
    md5 = digest(path)
    kept = base64.b64encode(bytes.fromhex(md5)).decode()
    if size <= LARGEST_PUT:
        with open(path, "rb") as file:
            put(url, sas, file, size, {"x-ms-blob-type": "BlockBlob", "Content-MD5": kept}, sleep=sleep)
        return size, md5
    ids = []
    with open(path, "rb") as file:
        for number, block in enumerate(iter(lambda: file.read(BLOCK), b"")):
            ids.append(base64.b64encode(f"{number:08}".encode()).decode())
            check = base64.b64encode(hashlib.md5(block).digest()).decode()
            where = f"{url}?comp=block&blockid={urllib.parse.quote(ids[-1], safe='')}"
            put(where, sas, block, len(block), {"Content-MD5": check}, sleep=sleep)
    blocks = "".join(f"<Latest>{id}</Latest>" for id in ids)
    body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()
    put(f"{url}?comp=blocklist", sas, body, len(body), {"x-ms-blob-content-md5": kept}, sleep=sleep)
    return size, md5


def put(
    url: str,
    sas: str,
    body: bytes | BinaryIO,
    size: int,
    headers: dict[str, str],
    *,
    expected: tuple[int, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """The status, one of success or an expected one. Raises Failure for others, with a message without the SAS."""
    headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream", **headers}
    return send("PUT", url, sas, body, headers, expected=expected, sleep=sleep)[0]


def send(
    method: str,
    url: str,
    sas: str,
    body: bytes | BinaryIO = b"",
    headers: dict[str, str] | None = None,
    *,
    expected: tuple[int, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, bytes]:
    """One request. What may pass is tried again; the rest is a Failure, with a message without the SAS."""
    import http.client

    signed = f"{url}{'&' if '?' in url else '?'}{sas}" if sas else url
    headers = {"x-ms-version": STORAGE_VERSION, **(headers or {})}
    what, of, code = ("Upload", "to", UPLOAD_FAILED) if method == "PUT" else ("Download", "of", FETCH_FAILED)
    reason = advice = ""
    for attempt in range(1, ATTEMPTS + 1):
        pause = 2 ** (attempt - 1) * (0.5 + os.urandom(1)[0] / 255)  # with jitter
        try:
            status, received, answer = exchange(method, signed, body, headers)
            if 200 <= status < 300 or status in expected:
                return status, answer
            error = received.get("x-ms-error-code") or error_code(answer)
            reason, advice = f"HTTP {status} {error}".rstrip(), ADVICE.get((method, status), "")
            if status not in (408, 429) and status < 500 and error != "Md5Mismatch":
                break
            with suppress(ValueError):  # Retry-After may also be a date; the storage service sends seconds
                pause = float(received.get("Retry-After", ""))
        except OSError as failed:
            reason, advice = str(failed) or type(failed).__name__, ""
        except http.client.HTTPException as failed:
            reason, advice = type(failed).__name__, ""  # no more of it: it may quote the URL, and with it the SAS
        if attempt < ATTEMPTS:
            pause = min(max(pause, 0.0), LONGEST_PAUSE)
            print(f"{what} attempt {attempt} failed ({reason}); next in {pause:.1f} s", file=sys.stderr, flush=True)
            sleep(pause)
    raise Failure(f"{what} {of} {url.partition('?')[0]} failed: {reason}. {advice}".rstrip(), code)


def exchange(method: str, url: str, body: bytes | BinaryIO, headers: dict[str, str]) -> tuple[int, Any, bytes]:
    """Status, headers and body of the answer, over the connection that is kept to the host."""
    import http.client

    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if (scheme, host) not in connections:
        connections[scheme, host] = connect(scheme, host)
    connection, prefix, more = connections[scheme, host]
    while True:
        kept = connection.sock is not None
        try:
            if not isinstance(body, bytes):
                body.seek(0)
            connection.request(method, prefix + slash + path, body, {**headers, **more})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        except BaseException as error:
            connection.close()
            # The server ends connections that nobody has used for a while.
            if not kept or not isinstance(error, (ConnectionError, http.client.BadStatusLine)):
                raise


connections: dict[tuple[str, str], tuple[HTTPConnection, str, dict[str, str]]] = {}  # by scheme and host


def connect(scheme: str, host: str) -> tuple[HTTPConnection, str, dict[str, str]]:
    """A connection, through the proxy that the environment names; what paths begin with, and headers, on it."""
    import http.client
    import urllib.request

    proxy = urllib.request.getproxies().get(scheme, "")
    if is_loopback(f"{scheme}://{host}") or urllib.request.proxy_bypass(host):
        proxy = ""
    via = urllib.parse.urlsplit(proxy if "://" in proxy else f"//{proxy}")
    kind = http.client.HTTPSConnection if "https" in (scheme, via.scheme) else http.client.HTTPConnection
    connection = kind(via.netloc.rpartition("@")[2] or host, timeout=SILENCE, blocksize=1 << 20)
    headers = {}
    if via.username is not None:
        user = f"{urllib.parse.unquote(via.username)}:{urllib.parse.unquote(via.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    if scheme == "https" and proxy:
        connection.set_tunnel(host, headers=headers)
        return connection, "", {}
    return connection, f"http://{host}" if proxy else "", headers


def is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def error_code(body: bytes) -> str:
    found = re.search(rb"<Code>(\w+)</Code>", body)
    return found.group(1).decode() if found else ""


def store_outputs(folder: str, file: Values, *, inline: int, apart: bool) -> list[Values]:
    """What the record says of the outputs; small ones are in it, and with `apart` they are stored as blobs too."""
    url, sas = os.environ["OUTPUT_URL"], os.environ["OUTPUT_SAS_TOKEN"]
    outputs = []
    left = LARGEST_LIST
    for path in outputs_in(folder):
        full = os.path.join(folder, path)
        output: Values = {"path": urllib.parse.quote(os.fsencode(path)), "blob": ""}
        size = os.path.getsize(full)
        is_small = 0 < inline >= size <= left
        if is_small:
            left -= size
            with open(full, "rb") as opened:
                data = opened.read()
            output.update(size=len(data), md5=hashlib.md5(data).hexdigest(), data=base64.b64encode(data).decode())
        if apart or not is_small:
            output["blob"] = f"{file['prefix']}/{blob_name(path)}"
            output["size"], output["md5"] = store(f"{url}/{urllib.parse.quote(output['blob'])}", sas, full)
        outputs.append(output)
    return outputs


def put_json(url: str, sas: str, data: bytes, **headers: str) -> int:
    check = base64.b64encode(hashlib.md5(data).digest()).decode()
    headers = {"x-ms-blob-type": "BlockBlob", "Content-MD5": check, "Content-Type": "application/json", **headers}
    return put(url, sas, data, len(data), headers, expected=EXISTS if "If-None-Match" in headers else ())


# --- one file ---------------------------------------------------------------------------------------------


def name_of(file: Values) -> bytes:
    return urllib.parse.unquote_to_bytes(file["name"])


def input_of(file: Values) -> Values:
    """What is another where the content is another."""
    return {"size": file["size"], "md5": file["md5"], **({"etag": file["etag"]} if file.get("etag") else {})}


def make_record(file: Values, began: datetime, seconds: float) -> Values:
    return {
        "name": file["name"],
        "input": input_of(file),
        "exit_code": 0,
        "node": os.environ.get("AZ_BATCH_NODE_ID", ""),
        "task": os.environ.get("AZ_BATCH_TASK_ID", ""),
        "began": began.isoformat(timespec="milliseconds"),
        "seconds": round(seconds, 3),
        "outputs": [],
        "stdout": 0,
        "stderr": 0,
    }


def values_of(path: str, output: str, name: bytes) -> dict[str, str]:
    """What stands for the placeholders."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return {"input": path, "output_dir": output, "name": os.fsdecode(name), "stem": stem}


def written(stream: str) -> int:
    """How many bytes the Batch task has written to stdout or stderr so far; 0 outside a node."""
    try:
        return os.path.getsize(os.path.join(os.environ.get("AZ_BATCH_TASK_DIR", ""), f"{stream}.txt"))
    except OSError:
        return 0


def process_one(script: Script) -> int:
    """The work of a Batch task with one input file."""
    env = os.environ
    file = {"name": env["INPUT_NAME"], "size": int(env["INPUT_SIZE"]), "md5": env.get("INPUT_MD5", "")}
    file["prefix"] = env["OUTPUT_PREFIX"]
    name = name_of(file)
    path = with_own_name(env["INPUT_FILE"], name)
    check_input(path, env["INPUT_SIZE"], env.get("INPUT_MD5", ""))
    folder = empty("output")  # also of a Batch task that runs again
    began, at = datetime.now(timezone.utc), time.monotonic()
    process = script.start(values_of(path, folder, name))
    import urllib.request  # slow, and not needed before the script has ended

    assert urllib.request
    if status := exit_code(process.wait()):
        return status
    record = make_record(file, began, time.monotonic() - at)
    record["outputs"] = store_outputs(folder, file, inline=int(env.get("OUTPUT_INLINE") or 0), apart=True)
    record.update(stdout=written("stdout"), stderr=written("stderr"))
    put_json(env["RECORD_URL"], env["RECORD_SAS_TOKEN"], json.dumps(record).encode())
    return 0


# --- a group of files -------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """The script has to end: its time is over, or the Batch task is."""


class Limits:
    """Interrupts the wait for a script when its time is over, and when the Batch task is to end."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds  # 0: no limit
        self.ending = False
        self._waiting = False
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGALRM, self._interrupt)

    @contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        self._waiting = True
        try:
            if self.ending:
                raise Interrupted
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            self._waiting = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def wait(self, status: Callable[[], int]) -> int:
        """Raises Interrupted where it takes too long."""
        with self.waiting(self.seconds):
            found = status()
        if found == -signal.SIGTERM:  # where the Batch task is to end, all its processes may get the signal
            with suppress(Interrupted), self.waiting(GRACE):
                signal.pause()
            if self.ending:
                raise Interrupted
        return found

    def _interrupt(self, number: int, _: object) -> None:
        self.ending = self.ending or number == signal.SIGTERM
        if self._waiting:
            self._waiting = False
            raise Interrupted


def end(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """End the process and all that it has started in its session."""
    with suppress(OSError, subprocess.TimeoutExpired):
        if number != signal.SIGKILL:
            os.killpg(process.pid, number)
            process.wait(GRACE)
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Runner:
    """Runs the script over one file after the other: in a process for each, or in one that is kept."""

    def __init__(self, script: Script, limits: Limits, *, isolate: bool) -> None:
        self._script = script
        self.limits = limits
        self._isolate = isolate
        self._line = kept_interpreter(script.path, script.python)
        self._folder = "file"
        self._number = 0
        self._left = False  # something that the file before has started
        adopt_orphans()
        self._worker: Worker | None = None
        # What all files of the group write; that of one is what comes after the file before.
        self.streams = {name: open(f"file-{name}", "ab+", buffering=0) for name in STREAMS}  # noqa: SIM115
        # Appends to it what this process has to say of the file.
        self.notes = open("file-stderr", "a", 1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115

    def run(self, values: dict[str, str], folder: str) -> int:
        """The exit code, negative for a signal. Raises Interrupted, and Failure where it cannot be started."""
        options = {**self.streams, "cwd": folder, "start_new_session": True}
        self._left = True
        if not self._line:
            process = self._script.start(values, **options)
            status = self._wait(process, process.wait)
            self._left = not reaped()
            return status
        if self._worker and self._worker.process.poll() is not None:
            self.close()
        worker = self._worker = self._worker or Worker(self._line, self._script, self._isolate, **options)
        arguments = fill_in(self._script.arguments, values)
        request = {"arguments": arguments, "environment": variables(values), "folder": folder}
        status = self._wait(worker.process, lambda: worker.call(request))
        self._left = bool(worker.left)
        return status

    def folders(self) -> list[str]:
        """Empty ones, which are new ones where what the file before has started may still write to its own."""
        if self._left:
            import shutil

            shutil.rmtree(self._folder, ignore_errors=True)
            self._number += 1
            self._folder = f"file-{self._number}"
            self._left = False
        return [empty(f"{self._folder}/{name}") for name in FOLDERS]

    def _wait(self, process: subprocess.Popen[bytes], status: Callable[[], int]) -> int:
        try:
            found = self.limits.wait(status)
        except BaseException:
            end(process, signal.SIGTERM if self.limits.ending else signal.SIGKILL)
            raise
        if process.returncode is not None:
            end(process)  # what it has started and left would go on beside the next file
        return found

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            worker.close()
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(GRACE)
            end(worker.process)


def journal_path(script: Script) -> str:
    """The journal of a Batch task that is given just this, where it is found by a retry in a new working directory."""
    given = [os.environ.get(name, "") for name in (*OURS, "AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_ID")]
    with suppress(OSError):
        given.append(digest(script.path))
    id = hashlib.sha256(os.fsencode("\n".join([*given, *script.arguments]))).hexdigest()[:32]
    shared = os.environ.get("AZ_BATCH_NODE_SHARED_DIR", "")
    return os.path.join(shared if os.access(shared, os.W_OK) else "", f"journal-{id}")


class Records:
    """What became of the files of a group: in a journal on the node, and in lists in the output container.

    A Batch task that dies leaves in the journal the records that it had not stored, and at which file it was.
    """

    def __init__(self, url: str, sas: str, journal: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._sas = url, sas
        self._clock = clock
        self._stored = clock()
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._last: dict[str, Values] = {}  # of each file, without its outputs
        self._deaths: dict[str, int] = {}
        self._path = journal
        self._next = 0

    def restore(self, first: int) -> None:
        """Read the lists, from the first of this Batch task on, and the journal."""
        self._next = first
        known = set()
        while True:
            status, data = send("GET", f"{self._url}/{self._next:05}.json", self._sas, expected=(404,))
            if status == 404:
                break
            self._next += 1
            with suppress(ValueError):
                for record in json.loads(data):
                    self._note(record)
                    known.add((record["name"], record["began"]))
        self._journal = open(self._path, "ab+", buffering=0)  # noqa: SIM115  # as long as this process
        self._journal.seek(0)
        for line in self._journal:
            with suppress(ValueError):  # a line of which only the beginning was written
                for event, value in json.loads(line).items():
                    name = value["name"] if event == "ended" else value
                    self._deaths[name] = self._deaths.get(name, 0) + 1 if event == "began" else 0
                    if event == "ended" and (name, value["began"]) not in known:
                        self._add(value, json.dumps(value).encode())

    def _note(self, record: Values) -> None:
        self._last[record["name"]] = {name: record.get(name) for name in ("input", "exit_code", "problem")}

    def is_done(self, file: Values) -> bool:
        last = self._last.get(file["name"], {"exit_code": 1})
        return not last["exit_code"] and not last["problem"] and last["input"] == input_of(file)

    def exit_code_of(self, file: Values) -> int:
        return 0 if self.is_done(file) else self._last.get(file["name"], {}).get("exit_code") or 1

    def deaths(self, file: Values) -> int:
        """How often the Batch task has begun the file and not come to its end."""
        return self._deaths.get(file["name"], 0)

    def begin(self, file: Values) -> None:
        self._write(b'{"began": %s}' % json.dumps(file["name"]).encode())

    def stop(self, file: Values) -> None:
        """The file was begun and is to be begun again, through no fault of its own."""
        self._write(b'{"stopped": %s}' % json.dumps(file["name"]).encode())

    def end(self, record: Values) -> None:
        data = json.dumps(record).encode()
        self._write(b'{"ended": %s}' % data)
        self._add(record, data)
        if self._clock() - self._stored >= STORED_EVERY or self._bytes >= LARGEST_LIST:
            self.store()

    def _add(self, record: Values, data: bytes) -> None:
        self._note(record)
        self._waiting.append(data)
        self._bytes += len(data)

    def close(self) -> None:
        self._journal.close()

    def forget(self) -> None:
        """Delete the journal: all that it says is stored."""
        with suppress(OSError):
            os.unlink(self._path)

    def _write(self, entry: bytes) -> None:
        self._journal.write(b"\n" + entry)  # the line before may have no end

    def store(self) -> None:
        """Store what waits as the next list. Raises Failure."""
        if not self._waiting:
            return
        data = b"[" + b",\n".join(self._waiting) + b"]"
        # Another node that has been given this Batch task may have stored a list of this number.
        while put_json(url := f"{self._url}/{self._next:05}.json", self._sas, data, **{"If-None-Match": "*"}) in EXISTS:
            if send("GET", url, self._sas)[1] == data:  # the answer to an earlier attempt was lost
                break
            self._next += 1
        self._next += 1
        self._stored = self._clock()
        self._waiting.clear()
        self._bytes = 0


def members_of(bundle: BinaryIO, chosen: str) -> list[Values]:
    """The files that are to be processed, each with its number and where it begins in the bundle."""
    try:
        files: list[Values] = json.loads(bundle.readline())["files"]
        at = bundle.tell()
        for index, file in enumerate(files):
            file["index"], file["at"] = index, at
            at += 0 if file.get("url") else file["size"]
        ranges = [part.partition("-") for part in chosen.split(",")]
        return [files[index] for low, _, high in ranges for index in range(int(low), int(high or low) + 1)]
    except (ValueError, LookupError, TypeError) as error:
        raise Failure(f"GROUP_FILE is no list of files ({type(error).__name__})", FETCH_FAILED) from None


def fetch(file: Values, bundle: BinaryIO, path: str) -> None:
    """Put the file there. Raises Failure."""
    if file.get("url"):
        match = {"If-Match": f'"{file["etag"]}"'} if file.get("etag") and not file["md5"] else {}
        url, _, sas = file["url"].partition("?")
        data = send("GET", url, sas, headers=match)[1]
    else:
        bundle.seek(file["at"])
        data = bundle.read(file["size"])
    with open(path, "wb") as target:
        target.write(data)
    check_input(path, str(file["size"]), file["md5"])


def process_group(script: Script) -> int:
    """The exit code of the first file that is not done, or 0."""
    env = os.environ
    limits = Limits(float(env.get("FILE_SECONDS") or 0))
    runner = Runner(script, limits, isolate=env.get("ISOLATE") == "1")
    records = Records(env["RECORD_URL"], env["RECORD_SAS_TOKEN"], journal_path(script))
    with open(env["GROUP_FILE"], "rb") as bundle:
        files = members_of(bundle, env["GROUP_MEMBERS"])
        records.restore(int(env.get("RECORDS_FROM") or 0))
        try:
            with suppress(Interrupted):
                # Files at which the Batch task has died before come last, so that they take no other along.
                for file in sorted(files, key=records.deaths):
                    if not records.is_done(file):
                        process_member(file, bundle, runner, records)
            records.store()
        finally:
            runner.close()
            records.close()
    if limits.ending:
        return 128 + signal.SIGTERM
    records.forget()
    return next((code for code in map(records.exit_code_of, files) if code), 0)


def process_member(file: Values, bundle: BinaryIO, runner: Runner, records: Records) -> None:
    """Raises Interrupted where the Batch task is to end."""
    if runner.limits.ending:
        raise Interrupted
    begins = {name: size_of(stream) for name, stream in runner.streams.items()}
    deaths = records.deaths(file)
    if deaths:
        records.store()
    if deaths < 2:
        records.begin(file)
        with redirect_stderr(runner.notes):
            record = attempt(file, bundle, runner)
    else:
        print("the Batch task has ended twice while it was at this file", file=runner.notes)
        record = make_record(file, datetime.now(timezone.utc), 0.0)
        record.update(exit_code=exit_code(-signal.SIGKILL), problem=f"killed by signal {int(signal.SIGKILL)}")
    if record is None:
        records.stop(file)
        raise Interrupted
    for name, stream in runner.streams.items():
        record[name], last = show(stream, begins[name], getattr(sys, name).buffer, shown(os.fsdecode(name_of(file))))
        if last:
            record[f"{name}_end"] = last
    records.end(record)


def attempt(file: Values, bundle: BinaryIO, runner: Runner) -> Values | None:
    """The record of the file, also where it has failed; None where the Batch task is to end."""
    began, at, seconds = datetime.now(timezone.utc), time.monotonic(), None
    outputs: list[Values] = []
    try:
        inputs, folder, output = runner.folders()
        path = os.path.join(inputs, own_name(name_of(file)) or "input")
        fetch(file, bundle, path)
        at = time.monotonic()
        status = runner.run(values_of(path, output, name_of(file)), folder)
        seconds = time.monotonic() - at
        code, problem = exit_code(status), f"killed by signal {-status}" if status < 0 else ""
        if not code:
            inline = int(os.environ.get("OUTPUT_INLINE") or 0)
            outputs = store_outputs(output, file, inline=inline, apart=False)
    except Interrupted:
        if runner.limits.ending:
            return None
        code, problem = TIMED_OUT, "timed out"
    except Failure as failure:
        code, problem = failure.exit_code, PROBLEMS[failure.exit_code]
        print(failure, file=sys.stderr)
    except OSError as error:
        code = FETCH_FAILED if seconds is None else UPLOAD_FAILED
        problem = PROBLEMS[code]
        print(f"{shown(str(error.filename or file['name']))}: {error.strerror}", file=sys.stderr)
    record = make_record(file, began, time.monotonic() - at if seconds is None else seconds)
    record.update(exit_code=code, outputs=outputs, **({"problem": problem} if code else {}))
    return record


def size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def show(source: BinaryIO, begin: int, target: BinaryIO, name: str) -> tuple[int, str]:
    """Copy what was written for the file to the Batch task's own stream; its size, and its end as text."""
    import shutil

    size = size_of(source) - begin
    if size <= 0:
        return 0, ""
    source.seek(begin)
    target.write(f"--- {name}\n".encode())
    shutil.copyfileobj(source, target)
    source.seek(begin + max(0, size - LONGEST_END))
    last = source.read(LONGEST_END)
    target.write(b"" if last.endswith(b"\n") else b"\n")
    target.flush()
    if size > LONGEST_END:  # not the rest of a line: nobody could see of a part of a secret that it is one
        last = last.partition(b"\n")[2] or last
    return size, last.decode("utf-8", "surrogateescape")


# --- the Batch task ---------------------------------------------------------------------------------------


def shown(name: str) -> str:
    """The name without what a terminal would obey."""
    return name if name.isprintable() else repr(name)[1:-1]


def adopt_orphans() -> None:
    """Be the parent of each process that a child of this one leaves behind, so that it is known of."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def reaped() -> bool:
    """Whether no child of this process is left; those that have ended are reaped."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return False
    return True


def hide_environment() -> None:
    """Keep the script, a process of the same user, from reading the tokens in /proc."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.argv[1] == WORKER:
        serve(sys.argv[2], sys.argv[3] == "1", int(sys.argv[4]), int(sys.argv[5]))
        return 0
    global oom_score
    with suppress(OSError):
        oom_score = open("/proc/self/oom_score_adj", "r+b", buffering=0)  # noqa: SIM115  # as long as this process
    hide_environment()
    try:
        script = Script(sys.argv[1], sys.argv[2:])
        return process_group(script) if "GROUP_FILE" in os.environ else process_one(script)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
