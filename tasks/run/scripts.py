"""What a script must be so that a node can run it, and what its arguments may hold."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import InputError
from tasks.errors.local_files import expanded
from tasks.packages.needed import MODULES, SET_UP_NODE, WHEELS

NODE_SCRIPTS = Path(__file__).resolve().parents[2] / "node_scripts"
RUN_FILE = "run_file.py"  # what each Batch task runs: it runs the script
_FOR_EACH = (RUN_FILE, "blob_requests.py", "one_file.py", "user_script.py")
FOR_GROUPS = ("run_group.py", "group_records.py", "script_runner.py", "kept_process.py")  # of no use to other tasks
FOR_IDENTITY = ("node_identity.py",)  # of no use where nodes have SAS
OUR_SCRIPTS = {name: NODE_SCRIPTS / name for name in (*_FOR_EACH, *FOR_GROUPS, *FOR_IDENTITY)}
# What is beside the script on a node.
_OURS = {*OUR_SCRIPTS, SET_UP_NODE, WHEELS, MODULES, "env", "modules"}
_PLACEHOLDERS = ("input", "output_dir", "name", "stem")
_PLACEHOLDER = re.compile(r"\{\{\w+\}\}|\{(\w+)\}")  # as run_file.py has it
_INTERPRETED = (".py", ".sh")  # also without a line #!
_MOST_BYTES = 24 << 10  # of a command line's 32 KB; the rest is ours
_ELF = b"\x7fELF"
_FOREIGN = {b"MZ": "Windows", b"\xcf\xfa\xed\xfe": "macOS", b"\xca\xfe\xba\xbe": "macOS"}


def name_on_nodes(script: Path) -> str:
    """The script's name there: it becomes part of a command line."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", script.name)
    return f"script_{name}" if name in _OURS or name.startswith(("-", ".")) else name


def refuse_bad_modules(modules: Sequence[Path]) -> None:
    """Raises InputError for a module that would not be found on the nodes, because one beside the script is."""
    for module in modules:
        if f"{module.stem}.py" in OUR_SCRIPTS:
            raise InputError(f"module {str(module)!r}: nodes have a module {module.stem!r} of their own; rename it")


def find_script(script: str) -> Path:
    """Raises InputError, naming the fix, for what no node could run."""
    path = expanded("script", script)
    refuse_bad_script(path)
    return path


def refuse_bad_script(script: Path) -> None:
    """Raises InputError, naming the fix, for what no node could run."""
    if reason := _why_not(script):
        raise InputError(f"script {str(script)!r}: {reason}")


def _why_not(script: Path) -> str:
    try:
        if script.exists() and not script.is_file():  # a pipe, which opening would wait for
            return "is not a regular file; name a file"
        with script.open("rb") as file:
            start = file.readline(4096)
    except FileNotFoundError:
        return f"does not exist, seen from {str(Path.cwd())!r}; check the path"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', error)}); name a file that you may read"
    if not start:
        return "is empty; name a program"
    if start.startswith(b"#!"):
        if start.rstrip(b"\n").endswith(b"\r"):
            return (
                "its first line ends with CRLF, so that Linux looks for an interpreter of another name; save it with LF"
            )
        return "" if start[2:].strip() else "names no interpreter after #!; begin it with #!/usr/bin/env python3, say"
    if start.startswith(codecs.BOM_UTF8 + b"#!"):
        return "begins with a byte-order mark, so that Linux does not see its #!; save it as UTF-8 without one"
    for magic, system in _FOREIGN.items():
        if start.startswith(magic):
            return f"is a program for {system}, and nodes run Linux; name one that is built for Linux"
    if start.startswith(_ELF) or script.suffix in _INTERPRETED:
        return ""
    return "is not executable and has no interpreter; begin it with a line such as #!/usr/bin/env python3 or #!/bin/sh"


def refuse_bad_arguments(arguments: Sequence[str]) -> None:
    """Raises InputError for a placeholder that does not exist, and for what no command line can hold."""
    for argument in arguments:
        for found in _PLACEHOLDER.finditer(argument):
            if found[1] and found[1] not in _PLACEHOLDERS:
                known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
                raise InputError(
                    f"argument {argument!r}: there is no placeholder {found[0]}; there are {known}, and {{{found[0]}}} "
                    f"stands for the text {found[0]}"
                )
        if "\0" in argument or not _is_text(argument):
            raise InputError(
                f"argument {argument!r}: no command line can hold it; leave out NUL and invalid characters"
            )
    if (size := sum(len(os.fsencode(argument)) + 3 for argument in arguments)) > _MOST_BYTES:
        raise InputError(
            f"the script's arguments have {size:,} bytes, and Azure Batch takes {_MOST_BYTES:,}; "
            "put them in a file and bring it along with --with"
        )


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True
