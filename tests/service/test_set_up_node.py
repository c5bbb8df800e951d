"""A pool's start task brings packages and modules to its nodes, as a run of the flow has it do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest
from azure.batch import BatchClient

from tasks.packages.archive import write_archive
from tasks.packages.needed import Packages
from tasks.packages.wheels import Wheelhouse, resolve
from tasks.resources.images import python_of_nodes
from tasks.resources.pool import _start_task, set_up_seconds
from tasks.run.settings import PoolSettings
from tasks.run.uploads import UploadedFile
from tests.support.batch_service import (
    QUICK,
    HttpFiles,
    RunningService,
    create_job,
    create_pool,
    pool_options,
    run_task,
    shell,
    stdout,
    wait_for_nodes,
)
from tests.support.wheels import make_wheel

SCRIPT = """
import sys, markupsafe, markupsafe._speedups, shop.prices
assert "site-packages" in markupsafe.__file__ and sys.prefix != sys.base_prefix
print(markupsafe.__version__, shop.prices.PRICE)
"""


def served(http_files: HttpFiles, *files: Path) -> list[UploadedFile]:
    for file in files:
        shutil.copy(file, http_files.directory)
    return [
        UploadedFile(
            name=file.name,
            size=file.stat().st_size,
            modified=datetime.now(timezone.utc),
            container="application",
            sas_url=http_files.url(file.name),
        )
        for file in files
    ]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Wheelhouse:
    """A package with a compiled module, and a folder of ours that the script imports."""
    tmp_path = tmp_path_factory.mktemp("packed")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "prices.py").write_text("PRICE = 12\n")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("markupsafe==3.0.2\n")
    service = RunningService(tmp_path / "batch", QUICK)
    service.start()
    try:
        target = python_of_nodes(service.client(), PoolSettings())
    finally:
        service.stop()
    assert target.version == "{}.{}".format(*sys.version_info)
    found = resolve(Packages(requirements=requirements, extra=(tmp_path / "shop",)), target, tmp_path)
    assert found is not None
    return found


def test_images_list_the_python_of_the_nodes(client: BatchClient) -> None:
    create_pool(client)
    create_job(client)
    described = 'import sys, platform as p; print("Python%d.%d" % sys.version_info[:2], p.machine(), *p.libc_ver())'
    run_task(client, shell(f"python3 -c '{described}'"))
    python, machine, library, version = stdout(client).split()
    for image in client.list_supported_images(filter="osType eq 'linux'"):
        assert (image.capabilities or [])[-3:] == [python, machine, library + version]


def test_packages_and_modules_are_there_for_every_task(
    client: BatchClient, packed: Wheelhouse, http_files: HttpFiles, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    start_task = _start_task(served(http_files, script, *packed.files))
    (node,) = create_pool(client, start_task=start_task)
    said = b"".join(client.download_node_file("pool", node.id, "startup/stdout.txt")).decode()
    first, second = said.splitlines()
    assert first.startswith("env: MarkupSafe 3.0.2 installed for Python ")
    assert second.startswith("modules: 1 files unpacked in ")
    (seconds,) = set_up_seconds(client, "pool")
    assert seconds >= float(first.split()[-2])
    create_job(client)
    command = (
        'cd "$AZ_BATCH_NODE_SHARED_DIR" && ls && PIP_NO_INDEX=1 PYTHONPATH="$PWD/modules" env/bin/python script.py'
    )
    run_task(client, shell(command))
    *listed, printed = stdout(client).splitlines()
    assert [name.partition("-")[0] for name in listed] == ["env", "env", "modules", "modules", "script.py"]
    assert printed == "3.0.2 12"
    # A node that starts again has all of it.
    client.begin_reboot_node("pool", node.id, {"nodeRebootOption": "requeue"})  # type: ignore[arg-type]
    wait_for_nodes(client, "pool", "idle")
    again = b"".join(client.download_node_file("pool", node.id, "startup/stdout.txt")).decode()
    assert again == "env: is there already\nmodules: is there already\n"


def test_a_failed_installation_fails_the_node_with_its_reason(
    service: RunningService, http_files: HttpFiles, packed: Wheelhouse, tmp_path: Path
) -> None:
    client = service.client()
    with zipfile.ZipFile(packed.files[1]) as archive:
        archive.extractall(tmp_path / "good", [name for name in archive.namelist() if not name.startswith("Markup")])
    wheel = make_wheel(tmp_path / "good", "strange", tag="cp27-cp27m-win32")
    write_archive(tmp_path / "wheels.zip", {path.name: path for path in (tmp_path / "good").iterdir()})
    start_task = _start_task(served(http_files, packed.files[0], tmp_path / "wheels.zip"))
    start_task.max_task_retry_count = 0
    client.create_pool(pool_options(start_task=start_task))
    (node,) = wait_for_nodes(client, "pool", "starttaskfailed")
    said = b"".join(client.download_node_file("pool", node.id, "startup/stderr.txt")).decode()
    assert node.start_task_info.exit_code == 1
    assert set_up_seconds(client, "pool") == []
    assert said.splitlines()[-1] == (
        "set_up_node.py: the packages cannot be installed on this node: "
        f"{wheel.name} is not a supported wheel on this platform."
    )


def test_a_node_with_another_python_says_which_to_set(tmp_path: Path) -> None:
    write_archive(tmp_path / "wheels.zip", {"python_version": b"3.99"})
    script = Path("node_scripts", "set_up_node.py").resolve()
    ran = subprocess.run(
        [sys.executable, "-I", "-S", str(script)],
        cwd=tmp_path,
        env={"PATH": os.defpath, "AZ_BATCH_NODE_SHARED_DIR": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    own = "{}.{}".format(*sys.version_info)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"set_up_node.py: the packages are for Python 3.99, but python3 of this node is {own}; "
        f'set node_python to "{own}", or use another image\n'
    )
