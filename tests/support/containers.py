"""A container engine for tests: that of this machine if it runs containers, else a stand-in that really runs commands.

No registry is asked for anything: the image is made of this machine's own shell, Python and libraries.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from azure.batch import models as m

from local_azure.batch.node.containers import Engine, NoEngine, find_engine

IMAGE = "localhost/batch-tests/python:1"
RUN_OPTIONS = "--rm --user 0:0 --entrypoint="  # as a run of the flow has them

# What it takes of an engine's command line it carries out: directory, environment, command. Other options it refuses.
# It is no sandbox, so it needs no image; it keeps a file for each container until that has ended or is removed.
STAND_IN = f"""#!{sys.executable}
import os, pathlib, sys

folder = pathlib.Path(__file__).parent / "containers"
folder.mkdir(exist_ok=True)
with open(folder.parent / "calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
arguments = sys.argv[2:]
if sys.argv[1] == "info":
    print('["name=seccomp"]')
elif sys.argv[1] == "rm":
    (folder / arguments[1]).unlink(missing_ok=True)
elif sys.argv[1] == "run":
    values = {{"--env": []}}
    while arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in ("--rm", "--entrypoint="):
            continue
        assert option in ("--name", "--network", "--mount", "--security-opt", "--workdir", "--env", "--user"), option
        value = arguments.pop(0)
        values["--env"].append(value) if option == "--env" else values.__setitem__(option, value)
    environment = {{"PATH": "{Path(sys.executable).parent}:/usr/bin:/bin", "IMAGE": arguments[0]}}
    for each in values["--env"]:
        name, given, value = each.partition("=")
        environment[name] = value if given else os.environ[name]
    assert values["--mount"].startswith("type=bind,source=/"), values
    pid = os.fork()
    if pid == 0:
        os.chdir(values.get("--workdir", "/"))
        try:
            os.execve(arguments[1], arguments[1:], environment)
        except FileNotFoundError:
            print("no such program:", arguments[1], file=sys.stderr, flush=True)
            os._exit(127)
    (folder / values["--name"]).write_text(str(pid))
    _, status = os.waitpid(pid, 0)
    (folder / values["--name"]).unlink()
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def machine(offer: str = "ubuntu-hpc", sku: str = "2204", **configuration: object) -> m.VirtualMachineConfiguration:
    """A machine with an engine; by default of the image that can have one."""
    publisher, agent = ("microsoft-dsvm", "22.04") if offer == "ubuntu-hpc" else ("canonical", "24.04")
    return m.VirtualMachineConfiguration(
        image_reference=m.BatchVmImageReference(publisher=publisher, offer=offer, sku=sku),
        node_agent_sku_id=f"batch.node.ubuntu {agent}",
        container_configuration=m.BatchContainerConfiguration(
            {"type": "dockerCompatible", "containerImageNames": [IMAGE], **configuration}
        ),
    )


def write_stand_in(folder: Path, text: str = STAND_IN, name: str = "docker") -> Path:
    """An engine in the folder; returns the file in which it notes how it is called."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return folder / "calls"


@cache
def why_no_containers() -> str:
    """Why this machine runs no container, of our image; empty if it does."""
    try:
        engine = find_engine()
    except NoEngine as error:
        return str(error)
    _import_image(engine)
    command = [engine.program, "run", "--rm", "--network", "host", IMAGE, "/bin/sh", "-c", "exit 7"]
    found = subprocess.run(command, capture_output=True, text=True)
    return "" if found.returncode == 7 else f"{engine.program} runs no container: {found.stderr.strip()}"


def _import_image(engine: Engine) -> None:
    if subprocess.run([engine.program, "image", "inspect", IMAGE], capture_output=True).returncode == 0:
        return
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        _write_image(archive)
        subprocess.run([engine.program, "import", str(archive), IMAGE], check=True, capture_output=True)


def _write_image(archive: Path) -> None:
    """The shell, a few tools and the Python of this machine with the libraries that they load."""
    python = Path(os.path.realpath(shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable))
    library = Path(subprocess.check_output([python, "-Ic", "import os; print(os.__file__)"], text=True).strip()).parent
    programs = {f"/bin/{name}": Path(shutil.which(name) or "/none") for name in ("sh", "cat", "sleep", "id", "env")}
    programs[f"{python.parents[1]}/bin/python3"] = python
    linked = [*programs.values(), *(library / "lib-dynload").glob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}")]
    with tarfile.open(archive, "w", dereference=True) as image:
        for name, path in programs.items():
            image.add(os.path.realpath(path), name)
        for needed in sorted({each for path in linked for each in _libraries(path)}):
            image.add(needed, needed)
        image.add(library, str(library), filter=_standard)
        for name in ("/tmp", "/etc"):
            image.add("/tmp", name, recursive=False)


def _libraries(program: Path) -> list[str]:
    found = subprocess.run(["ldd", str(program)], capture_output=True, text=True)
    return re.findall(r"(?:=> |^\s*)(/\S+) \(0x", found.stdout, re.MULTILINE)


def _standard(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    left_out = ("__pycache__", "test", "tests", "idlelib", "dist-packages", "site-packages", "ensurepip", "lib2to3")
    name = entry.name.rpartition("/")[2]
    return None if name in left_out or name.startswith("config-") else entry
