"""The script that a Batch task runs: how it is started, and what it finds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager, suppress

from blob_requests import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

CANNOT_START = 126  # the exit code, as of a shell
OURS = (
    *("INPUT_SIZE", "INPUT_MD5", "INPUT_ETAG", "OUTPUT_URL", "OUTPUT_PREFIX", "OUTPUT_SAS_TOKEN", "OUTPUT_INLINE"),
    *("RECORD_URL", "RECORD_SAS_TOKEN", "RECORDS_FROM", "SAS_EXPIRES"),
    *("GROUP_FILE", "GROUP_DIGEST", "GROUP_MEMBERS", "FILE_SECONDS", "ISOLATE"),
)
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")  # the first is how to write the second as it stands


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


def fill_in(arguments: list[str], values: dict[str, str]) -> list[str]:
    """The arguments with the placeholders filled in, and the input file last where none of them names it."""

    def value(found: re.Match[str]) -> str:
        return f"{{{found[1]}}}" if found[1] else values.get(found[2], found[0])

    filled = [PLACEHOLDER.sub(value, argument) for argument in arguments]
    names = [found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument)]
    return filled if "input" in names else [*filled, values["input"]]


def variables(values: dict[str, str]) -> dict[str, str]:
    """What the script finds in its environment of the file."""
    return {"INPUT_FILE": values["input"], "INPUT_NAME": values["name"], "OUTPUT_DIR": values["output_dir"]}


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


def exit_code(status: int) -> int:
    """Of a script that a signal has ended 128 and its number, as a shell gives it."""
    return 128 - status if status < 0 else status


def shown(name: str) -> str:
    """The name without what a terminal would obey."""
    return name if name.isprintable() else repr(name)[1:-1]


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


def hide_environment() -> None:
    """Keep the script, a process of the same user, from reading the tokens in /proc."""
    import ctypes

    global oom_score
    with suppress(OSError):
        oom_score = open("/proc/self/oom_score_adj", "r+b", buffering=0)  # noqa: SIM115  # as long as this process
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
