"""The settings of package indexes, so that uv and pip use the same ones, whichever of them the user has set up.

python -m tasks.packages.indexes ARGUMENTS: runs uv with them. It needs only the standard library, pip and uv.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

# uv's own: where one is set, the user has set up uv, and pip's indexes are not added to them.
_UV_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")

# pip's setting, uv's variable with the same meaning, and what separates several values there.
_INDEXES = (
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
)
_OTHERS = (
    ("constraint", "UV_CONSTRAINT", " "),
    ("trusted-host", "UV_INSECURE_HOST", " "),
    ("cert", "SSL_CERT_FILE", " "),
    ("client-cert", "SSL_CLIENT_CERT", " "),
    ("proxy", "ALL_PROXY", " "),
)


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """Where uv and pip look for packages: the environment in which they run."""

    environment: Mapping[str, str] = field(repr=False)  # URLs in it may contain passwords
    none: bool = False  # only the folders of find-links; uv has an option for it, and no variable


def find_indexes(command: str = "download") -> Indexes:
    """This process's environment, with pip's settings for that command of pip as uv's variables."""
    list_settings = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(list_settings, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False)
    return translated(os.environ, pip_settings(listed.stdout, command))


def pip_settings(listed: str, command: str = "download") -> dict[str, str]:
    """pip's settings for a command, from what `pip config list` prints: variables before commands before global."""
    found: dict[str, tuple[int, str]] = {}
    ranks = {"global": 0, command: 1, ":env:": 2}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, setting = name.rpartition(".")
        rank = ranks.get(section, -1)
        if rank >= 0 and rank >= found.get(setting, (0, ""))[0]:
            found[setting] = rank, str(ast.literal_eval(value))
    return {setting: value for setting, (_, value) in found.items()}


def translated(environment: Mapping[str, str], pip: Mapping[str, str]) -> Indexes:
    """The environment with pip's settings as variables of uv, where uv has none of its own."""
    has_uv_indexes = any(environment.get(name) for name in _UV_INDEXES)
    added = {
        variable: separator.join(pip[setting].split())
        for setting, variable, separator in (*(() if has_uv_indexes else _INDEXES), *_OTHERS)
        if pip.get(setting)
    }
    none = pip.get("no-index", "").lower() in ("1", "true", "yes", "on")
    # A requirements file means what it means to pip, for which all indexes are one.
    return Indexes(environment={"UV_INDEX_STRATEGY": "unsafe-best-match", **added, **environment}, none=none)


def _run_uv(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by uv, to install or renew what is locked: constraints of pip are for what is not."""
    indexes = find_indexes("install")
    environment = {name: value for name, value in indexes.environment.items() if name != "UV_CONSTRAINT"}
    os.execve(
        sys.executable,
        [sys.executable, "-P", "-m", "uv", *arguments, *(["--no-index"] if indexes.none else [])],
        environment,
    )


if __name__ == "__main__":
    _run_uv(sys.argv[1:])
