"""Resolves and downloads the wheels of a run's packages, and packs what the start task installs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from tasks.errors import InputError
from tasks.errors.text import listed
from tasks.packages.archive import files_of, write_archive
from tasks.packages.hashes import refuse_other_hashes
from tasks.packages.indexes import Indexes, find_indexes
from tasks.packages.needed import MODULES, SET_UP_NODE, WHEELS, Packages
from tasks.packages.node_python import NodePython

_SET_UP_NODE = Path(__file__).resolve().parents[2] / "node_scripts" / SET_UP_NODE
_GLIBCS = (17, 28, *range(31, 41))  # of glibc 2, whose platforms uv knows by name
_MOST_REASON = 800  # characters
_ONLY_WHEELS = (
    "nodes install wheels only: name a version that has one for {target}, use an image with another Python, "
    "or give source code in pure Python with --with"
)
_INDEX = "correct its name or version, or the settings of your package index"
_ADVICE = (
    (r"no usable wheels|no wheels with a matching|[Bb]uilding (from source|source distributions) is", _ONLY_WHEELS),
    (r"was not found in|no versions? of|(is|are) available and you require", _INDEX),
    (r"[Ff]ailed to fetch|error sending request|Could not connect", "check the network and your package index"),
    (r"[Cc]ouldn't parse|Error parsing|failed to read", "correct the file"),
    ("", "correct the requirements, or use an image with another Python"),
)


@dataclass(frozen=True, kw_only=True)
class Wheelhouse:
    """What is uploaded once, for the start task of each node to install."""

    files: tuple[Path, ...]  # the script that sets up a node, and the archives for it
    packages: tuple[str, ...]  # names and versions, such as "numpy 2.4.1"
    modules: tuple[str, ...]
    target: NodePython
    seconds: float

    def __str__(self) -> str:
        size = sum(path.stat().st_size for path in self.files)
        parts = [f"packages {listed(self.packages)}"] if self.packages else []
        parts += [f"modules {listed(self.modules)}"] if self.modules else []
        return f"{' and '.join(parts)} for {self.target}: {size:,} bytes, ready in {self.seconds:.1f} s"


def resolve(packages: Packages, target: NodePython, folder: Path) -> Wheelhouse | None:
    """Resolve the packages for the nodes' Python, download them into the folder, and pack them with the modules.

    None where there is nothing to install. Raises InputError, with the requirement and the fix, for what cannot be
    resolved or packed.
    """
    start = time.monotonic()
    refuse_other_python(packages, target)
    archives: list[Path] = []
    wheels = _wheels(packages.sources, target, folder) if packages.sources else []
    if wheels:
        archives.append(folder / WHEELS)
        version = {"python_version": target.version.encode()}
        write_archive(archives[-1], version | {wheel.name: wheel for wheel in wheels}, compress=False)
    if packages.extra:
        archives.append(folder / MODULES)
        write_archive(archives[-1], files_of(packages.extra))
    if not archives:
        return None
    return Wheelhouse(
        files=(_SET_UP_NODE, *archives),
        packages=tuple(_name(wheel) for wheel in wheels if not wheel.name.startswith("pip-")),
        modules=tuple(path.name for path in packages.extra),
        target=target,
        seconds=time.monotonic() - start,
    )


def refuse_other_python(packages: Packages, target: NodePython) -> None:
    """Raise InputError where the script's metadata excludes the nodes' Python."""
    required = packages.requires_python
    try:
        allowed = SpecifierSet(required)
    except InvalidSpecifier:
        raise InputError(
            f"the script's metadata block: requires-python {required!r} is not a version specifier; "
            'write one such as ">=3.11"'
        ) from None
    # The nodes' patch version is not known: what allows any is accepted.
    if not any(allowed.contains(f"{target.version}.{patch}") for patch in range(100)):
        raise InputError(
            f"the script requires Python {required} (requires-python in its metadata block), but the nodes have "
            f"{target}; use an image with another Python, or set node_python to one that the image has besides"
        )


def _wheels(sources: Sequence[Path], target: NodePython, folder: Path) -> list[Path]:
    """The wheels that the sources name, with all that they depend on, and pip's own; none where they name nothing."""
    indexes = find_indexes()
    bootstrap = folder / "pip.in"
    bootstrap.write_text("pip\n")
    resolved = _pins([*sources, bootstrap], target, indexes)
    refuse_source_code(resolved, target)
    if all(line.startswith("pip==") for line in _requirements_in(resolved)):
        return []
    pins = folder / "pins.txt"
    pins.touch(mode=0o600)  # URLs of package indexes in it may contain passwords
    try:
        pins.write_text(resolved)
        wheels = _download(pins, target, folder / "wheels", indexes)
    finally:
        pins.unlink()
    refuse_other_hashes(sources, wheels)
    return wheels


def _pins(sources: Sequence[Path], target: NodePython, indexes: Indexes) -> str:
    options = ["--python-version", target.version, "--python-platform", _platform(target), "--only-binary", ":all:"]
    output = ["--no-header", "--no-annotate", "--generate-hashes", "--emit-index-url", "--emit-find-links", "--quiet"]
    command = ["pip", "compile", *options, *output, "--no-python-downloads", *map(str, sources)]
    command += ["--no-index"] if indexes.none else []
    result = _run("uv", command, indexes)
    if result.returncode:
        raise InputError(why_unresolved(result.stderr, [str(source) for source in sources[:-1]], target))
    return result.stdout


def _download(pins: Path, target: NodePython, folder: Path, indexes: Indexes) -> list[Path]:
    platforms = [option for tag in target.platforms for option in ("--platform", tag)]
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", target.version, *platforms]
    quiet = ["--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar", "off"]
    result = _run("pip", ["download", *options, *quiet, "--dest", str(folder), "--requirement", str(pins)], indexes)
    if result.returncode:
        errors = [line.removeprefix("ERROR: ") for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
        raise InputError(
            f"packages for {target} cannot be downloaded: {_reason(' '.join(errors) or result.stderr)}; "
            "check the network and the settings of your package index"
        )
    return sorted(folder.glob("*.whl"))


def _run(tool: str, arguments: Sequence[str], indexes: Indexes) -> subprocess.CompletedProcess[str]:
    # -P: a module of that name in the working directory is not the tool.
    return subprocess.run(
        [sys.executable, "-P", "-m", tool, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=dict(indexes.environment),
        check=False,
    )


def _platform(target: NodePython) -> str:
    """The newest platform that uv has a name for and that the nodes' glibc can run."""
    minor = max(each for each in _GLIBCS if each <= max(target.glibc[1], _GLIBCS[0]))
    return f"{target.machine}-manylinux_2_{minor}"


def _requirements_in(pins: str) -> list[str]:
    lines = [line for line in pins.splitlines() if line.strip() and not line.startswith((" ", "#", "--"))]
    return [line.removesuffix("\\").split(" ; ")[0].strip() for line in lines]


def refuse_source_code(pins: str, target: NodePython) -> None:
    """Raise InputError for a resolved requirement that is a folder or an archive of source code."""
    for requirement in _requirements_in(pins):
        if "==" not in requirement and not requirement.split("#")[0].endswith(".whl"):
            raise InputError(f"requirement {requirement!r} is source code; {_ONLY_WHEELS.format(target=target)}")


def why_unresolved(output: str, sources: Sequence[str], target: NodePython) -> str:
    """The message for what uv could not resolve, from what it wrote."""
    advice = next(advice for pattern, advice in _ADVICE if re.search(pattern, output))
    return (
        f"requirements in {' and '.join(sources)} cannot be resolved for {target}: {_reason(output)}; "
        f"{advice.format(target=target)}"
    )


def _reason(output: str) -> str:
    """On one line, and where it is long, its end: it names the requirement."""
    text = re.sub(r"(?m)^error:", "", output.split("\n\nhint:")[0])
    text = re.sub(r"\s+cause:", ":", " ".join(text.split())).removesuffix(".")
    text = text.removeprefix("No solution found when resolving dependencies:").strip()
    return text if len(text) <= _MOST_REASON else f"... {text[-_MOST_REASON:]}"


def _name(wheel: Path) -> str:
    return " ".join(wheel.name.split("-")[:2])
