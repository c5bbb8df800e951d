"""Which packages and modules a script needs on the nodes: a requirements file, its own metadata block, --with."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import tomllib

from tasks.errors import InputError
from tasks.errors.local_files import expanded

# Names of the files that the start task turns into env/ and modules/ in the directory that all tasks of a node share.
WHEELS = "wheels.zip"
MODULES = "modules.zip"
SET_UP_NODE = "set_up_node.py"
FILES_TO_INSTALL = (SET_UP_NODE, WHEELS, MODULES)

# The regular expression of the specification of inline script metadata (PEP 723).
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_PYTHON_LINE = re.compile(rb"#!.*(python|\buv run\b)")


@dataclass(frozen=True, kw_only=True)
class Packages:
    """What a script needs on the nodes besides itself and the standard library."""

    requirements: Path | None = None
    script: Path | None = None  # where its metadata block has dependencies
    requires_python: str = ""  # of that block, such as ">=3.11"
    extra: tuple[Path, ...] = ()  # modules and folders that the script imports

    def __bool__(self) -> bool:
        return bool(self.requirements or self.script or self.requires_python or self.extra)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files that name packages to install."""
        return tuple(path for path in (self.requirements, self.script) if path)


NO_PACKAGES = Packages()


def find_packages(
    script: Path, requirements: str | os.PathLike[str] | None = None, extra: Sequence[str | os.PathLike[str]] = ()
) -> Packages:
    """What the script needs: a requirements file, a metadata block in it, modules or folders that it imports.

    Raises InputError, naming the fix, for a file that cannot be read, a block that is not valid, and two modules of
    one name.
    """
    block = _metadata(script)
    return Packages(
        requirements=_readable(expanded("requirements", requirements)) if requirements else None,
        script=script if block.get("dependencies") else None,
        requires_python=block.get("requires-python", ""),
        extra=_modules(extra),
    )


def refuse_existing_pool(packages: Packages, existing_pool_id: str | None) -> None:
    """Raise InputError where packages are for a pool of somebody else: its start task installs nothing of ours."""
    if existing_pool_id and (packages.sources or packages.extra):
        named = [str(path) for path in (*packages.sources, *packages.extra)]
        raise InputError(
            f"pool {existing_pool_id!r} exists already, so its start task cannot install what {', '.join(named)} "
            "names; leave out the pool, so that the run creates one, or the packages and modules"
        )


def refuse_container_image(packages: Packages, container_image: str | None) -> None:
    """Raise InputError where packages are to be installed for a container: the nodes' own Python would have them."""
    if container_image and packages.sources:
        raise InputError(
            f"the Batch tasks run in the container image {container_image!r}, where the packages that "
            f"{', '.join(map(str, packages.sources))} names cannot be installed; put them in the image, and leave them "
            "out here"
        )


def metadata_in(text: str) -> str | None:
    """The TOML of the script's metadata block; None without one. Raises ValueError for more than one."""
    blocks = [match for match in _BLOCK.finditer(text) if match["type"] == "script"]
    if len(blocks) > 1:
        raise ValueError("there is more than one '# /// script' block; keep one")
    if not blocks:
        return None
    lines = blocks[0]["content"].splitlines(keepends=True)
    return "".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)


def _metadata(script: Path) -> dict[str, Any]:
    """The metadata block of a Python script, empty without one."""
    with _opened(script, "script") as file:
        if script.suffix != ".py" and not _PYTHON_LINE.match(file.readline(256)):
            return {}
        file.seek(0)
        text = file.read().decode(errors="replace").replace("\r\n", "\n")
    try:
        block = tomllib.loads(metadata_in(text) or "")
        _check(block)
    except ValueError as error:  # a TOMLDecodeError too
        raise InputError(f"script {str(script)!r}: its metadata block '# /// script' is not valid: {error}") from None
    return block


def _check(block: dict[str, Any]) -> None:
    dependencies, version = block.get("dependencies", []), block.get("requires-python", "")
    if not isinstance(dependencies, list) or not all(isinstance(each, str) for each in dependencies):
        raise ValueError('dependencies must be a list of texts, such as ["requests>=2"]')
    if not isinstance(version, str):
        raise ValueError('requires-python must be a text, such as ">=3.11"')


def _readable(path: Path) -> Path:
    with _opened(path, "requirements"):
        return path


@contextmanager
def _opened(path: Path, what: str) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{what} {str(path)!r}: cannot be read ({error.strerror}); check the path and permissions"
        ) from None


def _modules(entries: Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """The modules and folders as absolute paths, each once."""
    paths = list(dict.fromkeys(Path(os.path.abspath(expanded("module", entry))) for entry in entries))
    names: dict[str, Path] = {}
    for path in paths:
        if not path.name or not (path.is_dir() or path.is_file()):
            raise InputError(f"module {str(path)!r}: there is no such file or folder; check the path of --with")
        if path.stem in sys.stdlib_module_names:
            raise InputError(
                f"module {str(path)!r}: it would hide Python's own {path.stem!r} from the script; rename it"
            )
        if names.setdefault(path.name, path) != path:
            raise InputError(
                f"modules {str(names[path.name])!r} and {str(path)!r} would both be {path.name!r} on the nodes; "
                "rename one of them"
            )
    return tuple(paths)
