#!/usr/bin/env python3
"""Run a script over one input file and store what it leaves: the work of one Azure Batch task.

    run_file.py SCRIPT [ARGUMENT]...

Runs on Python 3.8 and later with nothing but the standard library, so a node can run it as soon as it boots.

SCRIPT is any executable, or a Python or shell file. The placeholders {input}, {output_dir}, {name} and {stem} in its
arguments are filled in; without {input}, the input file comes last. It finds INPUT_FILE, INPUT_NAME and OUTPUT_DIR in
its environment, and what it leaves in OUTPUT_DIR is uploaded once it has ended with exit code 0: first the files, last
of all a record of them. So where there is a record, all outputs are there.

What this script is given comes in through the environment, because anybody on the node can read a command line:
INPUT_FILE (a path in the working directory), INPUT_NAME (percent-encoded), INPUT_SIZE, INPUT_MD5 (empty: not known),
OUTPUT_URL, OUTPUT_PREFIX and OUTPUT_SAS_TOKEN (the container of the outputs and their folder in it), RECORD_URL and
RECORD_SAS_TOKEN (the blob of the record).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from contextlib import suppress
from datetime import datetime, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

STORAGE_VERSION = "2021-08-06"
SILENCE = 60.0  # seconds without an answer
ATTEMPTS = 5
LONGEST_PAUSE = 60.0  # seconds
LARGEST_PUT = 256 << 20  # bytes; what is larger goes in blocks
BLOCK = 64 << 20
FETCH_FAILED = 73  # the exit code for an input that is not what was uploaded; EX_CANTCREAT of sysexits.h
UPLOAD_FAILED = 74  # the exit code; EX_IOERR
CANNOT_START = 126  # the exit code, as of a shell
OURS = (
    *("INPUT_SIZE", "INPUT_MD5", "OUTPUT_URL", "OUTPUT_PREFIX", "OUTPUT_SAS_TOKEN"),
    *("RECORD_URL", "RECORD_SAS_TOKEN", "SAS_EXPIRES"),
)
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")  # the first is how to write the second as it stands
# What a blob's name cannot have, or not keep, in every client; what comes after the first planes is rare enough.
ENCODED = re.compile("[^ -~\xa0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef\U00010000-\U0001fffd]|[%\\\\]|[. ](?=/|\\Z)")
LONGEST_NAME = 250  # of the 1,024 characters of a blob's name; the input's name takes up to 710
ADVICE = {
    403: "The SAS token has expired, or does not permit create and write in this container.",
    404: "The container or the account does not exist.",
}


class Failure(Exception):
    """What ends the Batch task with an exit code of this script's own."""

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


def with_own_name(path: str, name: bytes) -> str:
    """The file under the name that it has where it comes from, as far as this file system takes it."""
    own = name.rpartition(b"/")[2]
    if own in (b"", b".", b"..") or b"\0" in own or len(own) > 255:
        return os.path.abspath(path)
    target = os.path.join(os.path.dirname(os.path.abspath(path)), os.fsdecode(own))
    if os.path.exists(path):  # of a Batch task that runs again it may have its name already
        os.replace(path, target)
    return target


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


def environment(folder: str, values: dict[str, str]) -> dict[str, str]:
    """What the script finds: no token, and the packages and modules that the start task has put into the folder."""
    found = {name: value for name, value in os.environ.items() if name not in OURS}
    found.update(INPUT_FILE=values["input"], INPUT_NAME=values["name"], OUTPUT_DIR=values["output_dir"])
    tools, modules = os.path.join(folder, "env", "bin"), os.path.join(folder, "modules")
    if os.path.isdir(tools):
        found["PATH"] = os.pathsep.join(filter(None, [tools, found.get("PATH", os.defpath)]))
        found["VIRTUAL_ENV"] = os.path.dirname(tools)
    if os.path.isdir(modules):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [modules, found.get("PYTHONPATH", "")]))
    return found


def run_script(script: str, arguments: list[str], values: dict[str, str]) -> int:
    """The exit code; of a script that a signal has ended 128 and its number, as a shell gives it."""
    folder = os.environ.get("AZ_BATCH_NODE_SHARED_DIR", "")  # where the start task installs what the script imports
    python = os.path.join(folder, "env", "bin", "python")
    python = python if os.path.exists(python) else sys.executable
    try:
        line = [*command(script, python), *fill_in(arguments, values)]
        process = subprocess.Popen(line, env=environment(folder, values))
    except OSError as error:
        reason = f"{error.strerror}{no_interpreter(script)}"
        raise Failure(f"{shown(script)} cannot be started: {reason}", CANNOT_START) from None
    import urllib.request  # slow, and not needed before the script has ended

    assert urllib.request
    status = process.wait()
    return 128 - status if status < 0 else status


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
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """One request. What may pass is tried again; the rest is a Failure, with a message without the SAS."""
    import http.client
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if is_loopback(url) else [])
    headers = {"x-ms-version": STORAGE_VERSION, "Content-Length": str(size), **headers}
    headers.setdefault("Content-Type", "application/octet-stream")
    reason = advice = ""
    for attempt in range(1, ATTEMPTS + 1):
        pause = 2 ** (attempt - 1) * (0.5 + os.urandom(1)[0] / 255)  # with jitter
        if not isinstance(body, bytes):
            body.seek(0)
        signed = f"{url}{'&' if '?' in url else '?'}{sas}"
        try:
            opener.open(urllib.request.Request(signed, body, headers, method="PUT"), timeout=SILENCE).close()
            return
        except urllib.error.HTTPError as error:
            code = error.headers.get("x-ms-error-code") or error_code(error.read())
            reason = f"HTTP {error.code} {code}".rstrip()
            advice = ADVICE.get(error.code, "")
            if error.code not in (408, 429) and error.code < 500 and code != "Md5Mismatch":
                break
            with suppress(ValueError):  # Retry-After may also be a date; the storage service sends seconds
                pause = float(error.headers.get("Retry-After", ""))
        except (OSError, http.client.HTTPException) as error:
            # Only a URLError's reason: an HTTPException may quote the URL, and with it the SAS.
            reason, advice = str(getattr(error, "reason", "")) or type(error).__name__, ""
        if attempt < ATTEMPTS:
            pause = min(max(pause, 0.0), LONGEST_PAUSE)
            print(f"Upload attempt {attempt} failed ({reason}); next in {pause:.1f} s", file=sys.stderr, flush=True)
            sleep(pause)
    raise Failure(f"Upload to {url.partition('?')[0]} failed: {reason}. {advice}".rstrip(), UPLOAD_FAILED)


def is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def error_code(body: bytes) -> str:
    found = re.search(rb"<Code>(\w+)</Code>", body)
    return found.group(1).decode() if found else ""


# --- the Batch task ---------------------------------------------------------------------------------------


def store_outputs(folder: str, url: str, prefix: str, sas: str) -> list[dict[str, object]]:
    stored = []
    for path in outputs_in(folder):
        name = f"{prefix}/{blob_name(path)}"
        size, md5 = store(f"{url}/{urllib.parse.quote(name)}", sas, os.path.join(folder, path))
        stored.append({"path": urllib.parse.quote(os.fsencode(path)), "blob": name, "size": size, "md5": md5})
    return stored


def written(stream: str) -> int:
    """How many bytes the Batch task has written to stdout or stderr so far; 0 outside a node."""
    try:
        return os.path.getsize(os.path.join(os.environ.get("AZ_BATCH_TASK_DIR", ""), f"{stream}.txt"))
    except OSError:
        return 0


def work(script: str, arguments: list[str]) -> int:
    env = os.environ
    name = urllib.parse.unquote_to_bytes(env["INPUT_NAME"])
    path = with_own_name(env["INPUT_FILE"], name)
    check_input(path, env["INPUT_SIZE"], env.get("INPUT_MD5", ""))
    folder = os.path.abspath("output")
    if os.path.exists(folder):  # of a Batch task that runs again
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, exist_ok=True)
    stem = os.path.splitext(os.path.basename(path))[0]
    values = {"input": path, "output_dir": folder, "name": os.fsdecode(name), "stem": stem}
    began, start = datetime.now(timezone.utc), time.monotonic()
    status = run_script(script, arguments, values)
    if status:
        return status
    record = {
        "name": env["INPUT_NAME"],
        "input": {"size": int(env["INPUT_SIZE"]), "md5": env.get("INPUT_MD5", "")},
        "exit_code": status,
        "node": env.get("AZ_BATCH_NODE_ID", ""),
        "task": env.get("AZ_BATCH_TASK_ID", ""),
        "began": began.isoformat(timespec="milliseconds"),
        "seconds": round(time.monotonic() - start, 3),
        "outputs": store_outputs(folder, env["OUTPUT_URL"], env["OUTPUT_PREFIX"], env["OUTPUT_SAS_TOKEN"]),
        "stdout": written("stdout"),
        "stderr": written("stderr"),
    }
    data = json.dumps(record).encode()
    check = base64.b64encode(hashlib.md5(data).digest()).decode()
    headers = {"x-ms-blob-type": "BlockBlob", "Content-MD5": check, "Content-Type": "application/json"}
    put(env["RECORD_URL"], env["RECORD_SAS_TOKEN"], data, len(data), headers)
    return 0


def shown(name: str) -> str:
    """The name without what a terminal would obey."""
    return name if name.isprintable() else repr(name)[1:-1]


def hide_environment() -> None:
    """Keep the script, a process of the same user, from reading the tokens in /proc."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    hide_environment()
    try:
        return work(sys.argv[1], sys.argv[2:])
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
