"""Runs the commands of tasks in containers, by a container engine of this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

from local_azure.batch.node.leftovers import ATTEMPT_VARIABLE, INSTANCE_VARIABLE
from local_azure.batch.state.store import Document

SIGN_IN = "sign in to the registry with `docker login` or `podman login` on this machine, and leave it out"
_PROBE_LIMIT = 3.0  # seconds that an engine has to answer
# What is asked of each engine; it answers only if it can run containers, and says whether root is this user there.
_PROBES = {
    "docker": ("info", "--format", "{{json .SecurityOptions}}"),
    "podman": ("info", "--format", "rootless={{.Host.Security.Rootless}}"),
}
# The variables of this process that an engine's client needs.
_OF_ENGINE = re.compile(
    r"HOME|PATH|USER|TMPDIR|XDG_\w+|DBUS_SESSION_BUS_ADDRESS|DOCKER_\w+|CONTAINERS?_\w+|REGISTRY_AUTH_FILE|"
    r"(?i:https?_proxy|no_proxy)"
)


class Containers(str, Enum):
    """Where tasks with containerSettings run."""

    ENGINE = "engine"  #: in containers, by an engine of this machine
    HOST = "host"  #: on this machine itself, with its programs, as tasks without containerSettings do


class NoEngine(Exception):
    """No container engine answers; the message says which were tried and what to do."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A container engine that answers."""

    program: str  #: its path
    name: str
    rootless: bool

    def user(self) -> list[str]:
        """The options with which files of a container belong to the user of this service, whose nodes they are on."""
        ids = f"{os.getuid()}:{os.getgid()}"
        if not self.rootless:
            return ["--user", ids]
        return ["--userns", "keep-id", "--user", ids] if self.name == "podman" else ["--user", "0:0"]


def find_engine() -> Engine:
    """The engine of this machine. Raises NoEngine. Each engine is asked once in the life of this process."""
    found = _find(os.environ.get("PATH", os.defpath))
    if isinstance(found, Engine):
        return found
    raise NoEngine(found)


@cache
def _find(path: str) -> Engine | str:
    reasons = []
    for name in _PROBES:
        program = shutil.which(name, path=path)
        found = _probe(name, program) if program else f"{name} is not on the PATH"
        if isinstance(found, Engine):
            return found
        reasons.append(found)
    return (
        f"no container engine answers on this machine: {'; '.join(reasons)}. "
        "Install Docker or Podman, or start its daemon, then start this service, or the run that embeds it, again"
    )


def _probe(name: str, program: str) -> Engine | str:
    try:
        answer = subprocess.run(
            [program, *_PROBES[name]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return f"{program} does not answer within {_PROBE_LIMIT:g} seconds"
    except OSError as error:
        return f"{program} cannot be started ({error.strerror})"
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        return f"{program} says {last!r}"
    return Engine(program=program, name=name, rootless="rootless=true" in answer.stdout or "=rootless" in answer.stdout)


@dataclass(frozen=True, kw_only=True)
class ContainerCommand:
    """The command of a task as that of an engine, which runs it in a container.

    clean_up: removes the container where the engine's client was killed.
    """

    arguments: Sequence[str]
    clean_up: Sequence[str]
    environment: Mapping[str, str]


def in_container(
    engine: Engine, settings: Document, command_line: str, environment: Mapping[str, str]
) -> ContainerCommand:
    """How the engine runs a task's command: with its environment, in its directories under their own paths.

    Raises ValueError where the command line or the options cannot be split, or a registry is to be signed in to.
    """
    if settings.get("registry"):
        raise ValueError(f"containerSettings.registry is not implemented: {SIGN_IN}")
    name = f"local-batch-{uuid.uuid4().hex}"
    root = environment["AZ_BATCH_NODE_ROOT_DIR"]
    of_engine = {variable: value for variable, value in os.environ.items() if _OF_ENGINE.fullmatch(variable)}
    in_image = settings.get("workingDirectory", "").lower() == "containerimagedefault"
    arguments = [
        *(engine.program, "run", "--rm", "--name", name),
        # Addresses on loopback, such as that of the local Blob Storage, are the same in the container.
        *("--network", "host"),
        *("--mount", f"type=bind,source={root},target={root}", "--security-opt", "label=disable"),
        *([] if in_image else ["--workdir", environment["AZ_BATCH_TASK_WORKING_DIR"]]),
        *_variables(environment, of_engine),
        *shlex.split(settings.get("containerRunOptions", "")),
        *engine.user(),
        settings["imageName"],
        *shlex.split(command_line),
    ]
    return ContainerCommand(
        arguments=arguments,
        clean_up=[engine.program, "rm", "--force", name],
        environment={**environment, **of_engine},
    )


def _variables(environment: Mapping[str, str], of_engine: Mapping[str, str]) -> list[str]:
    """The options that pass the variables on: by name, since anybody on this machine can read a command line.

    Only those that the engine's client itself has with another value are given with theirs. The marks come from the
    runner, which finds processes by them.
    """
    names = [name if name not in of_engine else f"{name}={value}" for name, value in environment.items()]
    return [word for name in (*names, INSTANCE_VARIABLE, ATTEMPT_VARIABLE) for word in ("--env", name)]
