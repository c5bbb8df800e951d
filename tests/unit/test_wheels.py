"""Packages are resolved for the nodes' Python, downloaded and packed, or refused with the reason."""

from __future__ import annotations

import base64
import os
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.packages.archive import files_of, write_archive
from tasks.packages.indexes import pip_settings, translated
from tasks.packages.needed import Packages
from tasks.packages.node_python import NodePython
from tasks.packages.wheels import Wheelhouse, refuse_other_python, refuse_source_code, resolve, why_unresolved
from tests.support.wheels import make_wheel

TARGET = NodePython(version="3.12", machine="x86_64", glibc=(2, 35))
ONLY_WHEELS = (
    "nodes install wheels only: name a version that has one for Python 3.12 on x86_64, use an image with another "
    "Python, or give source code in pure Python with --with"
)


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No index of the user's, and one try of each request."""
    for name in os.environ:
        if name.startswith(("UV_", "PIP_")) and not name.endswith(("_CERT", "_CACHE_DIR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder of wheels, the only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder, "pip", "99.0")
    return folder


@pytest.fixture
def offline(index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


def resolved(tmp_path: Path, *requirements: str, target: NodePython = TARGET) -> Wheelhouse | None:
    file = tmp_path / "requirements.txt"
    file.write_text("\n".join(requirements) + "\n")
    folder = tmp_path / "work"
    folder.mkdir()
    return resolve(Packages(requirements=file), target, folder)


def test_wheels_and_markers_are_those_of_the_nodes(tmp_path: Path, offline: Path) -> None:
    make_wheel(offline, "app", requires=['old; python_version < "3.12"', 'new; python_version >= "3.12"'])
    for tag in ("cp311-cp311-manylinux_2_17_x86_64", "cp312-cp312-manylinux_2_35_x86_64"):
        make_wheel(offline, "new", "2.0", tag)
    make_wheel(offline, "new", "3.0", "cp312-cp312-manylinux_2_36_x86_64")  # needs a later glibc
    make_wheel(offline, "new", "4.0", "cp312-cp312-manylinux_2_17_aarch64")
    make_wheel(offline, "old")
    made = resolved(tmp_path, "app")
    assert made is not None
    assert made.packages == ("app 1.0", "new 2.0")
    assert [path.name for path in made.files] == ["set_up_node.py", "wheels.zip"]
    with zipfile.ZipFile(made.files[1]) as archive:
        assert archive.namelist() == [
            "app-1.0-py3-none-any.whl",
            "new-2.0-cp312-cp312-manylinux_2_35_x86_64.whl",
            "pip-99.0-py3-none-any.whl",
            "python_version",
        ]
        assert archive.read("python_version") == b"3.12"
    assert str(made).startswith("packages app 1.0, new 2.0 for Python 3.12 on x86_64: ")


def test_a_compiled_wheel_of_pypi_for_another_python_is_downloaded(tmp_path: Path) -> None:
    target = NodePython(version="3.12", machine="aarch64", glibc=(2, 39))
    made = resolved(tmp_path, "markupsafe==3.0.2", target=target)
    assert made is not None
    with zipfile.ZipFile(made.files[1]) as archive:
        wheel, pip, _ = archive.namelist()
        assert wheel == "MarkupSafe-3.0.2-cp312-cp312-manylinux_2_17_aarch64.manylinux2014_aarch64.whl"
        assert pip.startswith("pip-")


def test_a_script_names_its_packages_itself(tmp_path: Path, offline: Path) -> None:
    make_wheel(offline, "app")
    script = tmp_path / "count"
    script.write_text('#!/usr/bin/env python3\n# /// script\n# dependencies = ["app"]\n# ///\nimport app\n')
    made = resolve(Packages(script=script), TARGET, tmp_path)
    assert made is not None
    assert made.packages == ("app 1.0",)


def test_requirements_that_name_nothing_need_nothing(tmp_path: Path, offline: Path) -> None:
    assert resolved(tmp_path, "# later", "app; python_version < '3.12'") is None


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("absent", "absent was not found in the provided package locations"),
        ("source", ONLY_WHEELS),
        ("app>=2", "correct its name or version"),
        ("app >", "correct the file"),
    ],
)
def test_what_cannot_be_resolved_is_refused(tmp_path: Path, offline: Path, requirement: str, said: str) -> None:
    make_wheel(offline, "app")
    (offline / "source-1.0.tar.gz").touch()
    with pytest.raises(InputError) as error:
        resolved(tmp_path, requirement)
    start = f"requirements in {tmp_path / 'requirements.txt'} cannot be resolved for Python 3.12 on x86_64: "
    assert str(error.value).startswith(start)
    assert said in str(error.value)


def test_the_reason_is_one_sentence_with_the_fix() -> None:
    output = (
        "error: No solution found when resolving dependencies\n"
        "  cause: Because all versions of docopt have no usable wheels and you require docopt, we can conclude that\n"
        "         your requirements are unsatisfiable.\n\nhint: Wheels are required for `docopt`\n"
    )
    assert why_unresolved(output, ["requirements.txt"], TARGET) == (
        "requirements in requirements.txt cannot be resolved for Python 3.12 on x86_64: Because all versions of docopt "
        "have no usable wheels and you require docopt, we can conclude that your requirements are unsatisfiable; "
        + ONLY_WHEELS
    )
    output = "error: Request failed\n  cause: Failed to fetch: https://joe:secret@host/simple/\n"
    assert str(InputError(why_unresolved(output, ["a.txt", "b.py"], TARGET))) == (
        "requirements in a.txt and b.py cannot be resolved for Python 3.12 on x86_64: Request failed: Failed to fetch: "
        "https://***@host/simple/; check the network and your package index"
    )


def test_source_code_is_no_requirement() -> None:
    refuse_source_code("--index-url https://x\n\na==1 \\\n    --hash=sha256:0\nb @ https://host/b-1.whl\n", TARGET)
    for line in ("./b", "-e ./b", "b @ git+https://host/b@1"):
        with pytest.raises(InputError) as error:
            refuse_source_code(f"a==1\n{line} \\\n", TARGET)
        assert str(error.value) == f"requirement {line!r} is source code; {ONLY_WHEELS}"


@pytest.mark.parametrize("required", ["", ">=3.11", ">=3.12.3", "==3.12.*", "<3.13"])
def test_a_script_that_allows_the_nodes_python_is_accepted(required: str) -> None:
    refuse_other_python(Packages(requires_python=required), TARGET)


def test_a_script_for_another_python_is_refused() -> None:
    with pytest.raises(InputError) as error:
        refuse_other_python(Packages(requires_python=">=3.13"), TARGET)
    assert str(error.value) == (
        "the script requires Python >=3.13 (requires-python in its metadata block), but the nodes have Python 3.12 on "
        "x86_64; use an image with another Python, or set node_python to one that the image has besides"
    )
    with pytest.raises(InputError, match=r"requires-python '3\.11' is not a version specifier; write one such as"):
        refuse_other_python(Packages(requires_python="3.11"), TARGET)


# Package indexes.


class PrivateIndex(SimpleHTTPRequestHandler):
    """A package index that asks for a user and a password."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") == "Basic " + base64.b64encode(b"joe:secret").decode():
            return super().do_GET()
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic realm=packages")
        return self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def private(index: Path) -> Iterator[str]:
    for name in ("app", "pip"):
        (index / "simple" / name).mkdir(parents=True)
    make_wheel(index / "simple" / "app", "app")
    (index / "pip-99.0-py3-none-any.whl").rename(index / "simple" / "pip" / "pip-99.0-py3-none-any.whl")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(PrivateIndex, directory=str(index))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}/simple"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["PIP_INDEX_URL", "UV_DEFAULT_INDEX"])
def test_the_user_s_index_serves_both_tools(
    variable: str, tmp_path: Path, private: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://joe:secret@{private}")
    made = resolved(tmp_path, "app")
    assert made is not None
    assert made.packages == ("app 1.0",)
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "work").rglob("*") if file.is_file())


def test_a_refused_password_is_not_shown(tmp_path: Path, private: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://joe:swordfish@{private}")
    with pytest.raises(InputError) as error:
        resolved(tmp_path, "app")
    assert "swordfish" not in str(error.value)
    assert "app" in str(error.value)


def test_settings_of_pip_are_read_in_its_order() -> None:
    listed = (
        ":env:.timeout='9'\nglobal.index-url='https://global'\nglobal.timeout='1'\ninstall.index-url='https://install'\n"
        "download.index-url='https://download'\nglobal.extra-index-url='\\nhttps://a\\nhttps://b'\n"
    )
    assert pip_settings(listed) == {
        "timeout": "9",
        "index-url": "https://download",
        "extra-index-url": "\nhttps://a\nhttps://b",
    }
    assert pip_settings(listed, "install")["index-url"] == "https://install"


def test_settings_of_pip_become_those_of_uv_unless_uv_has_its_own() -> None:
    pip = {
        "index-url": "https://pip",
        "extra-index-url": "\nhttps://a\nhttps://b",
        "find-links": "x y",
        "cert": "c.pem",
    }
    assert translated({"HOME": "/h"}, pip).environment == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://pip",
        "UV_INDEX": "https://a https://b",
        "UV_FIND_LINKS": "x,y",
        "SSL_CERT_FILE": "c.pem",
        "HOME": "/h",
    }
    own = {"UV_INDEX_URL": "https://uv", "UV_INDEX_STRATEGY": "first-index", "SSL_CERT_FILE": "own.pem"}
    assert translated(own, pip).environment == own
    assert [translated({}, {"no-index": value}).none for value in ("1", "True", "0")] == [True, True, False]


# Archives.


def test_an_archive_has_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        package = tmp_path / name / "lib"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("X = 1\n")
        (package / "run").write_text("#!/bin/sh\n")
        (package / "run").chmod(0o700)
        (package / "data" / "é.txt").write_text(name[:0])
        for junk in (".git/HEAD", "__pycache__/x.pyc", ".env", "old.pyc"):
            (package / junk).parent.mkdir(exist_ok=True)
            (package / junk).write_text(name)
        os.utime(package / "run", (0, len(name)))
        write_archive(tmp_path / f"{name}.zip", files_of([package]))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        modes = {item.filename: oct(item.external_attr >> 16) for item in archive.infolist()}
    assert modes == {"lib/__init__.py": "0o100644", "lib/data/é.txt": "0o100644", "lib/run": "0o100755"}


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    lib.mkdir()
    (lib / "loop").symlink_to(lib)
    with pytest.raises(InputError, match=r"module folder '.*lib/loop': it is a link to a folder that contains it"):
        files_of([lib])
    (lib / "loop").unlink()
    (tmp_path / os.fsdecode(b"lib/\xff.py")).touch()
    with pytest.raises(InputError, match=r"lib/.*\.py': the name is not valid UTF-8; rename the file"):
        write_archive(tmp_path / "modules.zip", files_of([lib]))
    with pytest.raises(InputError, match=r"absent': cannot be packed for the nodes \(No such file or directory\)"):
        write_archive(tmp_path / "modules.zip", {"absent": tmp_path / "absent"})
