"""What a script needs on the nodes: its metadata block, a requirements file, modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.packages.needed import Packages, find_packages, metadata_in, refuse_existing_pool

BLOCK = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "rich",\n#\n# ]\n# ///\n'
TOML = 'requires-python = ">=3.11"\ndependencies = [\n  "rich",\n\n]\n'


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "count.py"
    path.write_text("import sys\n")
    return path


@pytest.mark.parametrize(
    ("text", "toml"),
    [
        (BLOCK, 'requires-python = ">=3.11"\ndependencies = [\n  "rich",\n\n]\n'),
        (
            "#!/usr/bin/env python3\n" + BLOCK + "\nprint(1)\n",
            'requires-python = ">=3.11"\ndependencies = [\n  "rich",\n\n]\n',
        ),
        (
            "# /// script\n# a = 1\n# ///\n# b = 2\n# ///\n",
            "a = 1\n///\nb = 2\n",
        ),  # ended by the last one
        ("# /// other\n# a = 1\n# ///\n", None),
        ("# /// script\n# a = 1\n", None),  # not ended
        ("# /// script\n#a = 1\n# ///\n", None),  # no space
        ("    # /// script\n    # a = 1\n    # ///\n", None),
        ("print(1)\n", None),
    ],
)
def test_a_metadata_block_is_found_as_specified(text: str, toml: str | None) -> None:
    assert metadata_in(text) == toml


def test_a_script_with_a_block_needs_its_dependencies(script: Path) -> None:
    script.write_text(BLOCK.replace("\n", "\r\n"), newline="")
    assert find_packages(script) == Packages(script=script, requires_python=">=3.11")
    script.write_text('# /// script\n# requires-python = ">=3.12"\n# ///\n')
    assert find_packages(script) == Packages(requires_python=">=3.12")


def test_only_a_python_script_has_a_block(script: Path) -> None:
    shell = script.rename(script.with_suffix(".sh"))
    shell.write_text("#!/bin/sh\n" + BLOCK)
    assert not find_packages(shell)
    plain = shell.rename(shell.with_suffix(""))
    for first, found in (
        ("#!/usr/bin/env python3\n", True),
        ("#!/usr/bin/env -S uv run --script\n", True),
        ("", False),
    ):
        plain.write_text(first + BLOCK)
        assert bool(find_packages(plain)) == found
    plain.write_bytes(b"\x7fELF\xff\x00" + BLOCK.encode())
    assert not find_packages(plain)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (BLOCK + "\n" + BLOCK, "there is more than one '# /// script' block; keep one"),
        ("# /// script\n# dependencies = [\n# ///\n", "Unexpected end of file"),
        ('# /// script\n# dependencies = "rich"\n# ///\n', "dependencies must be a list of texts"),
        ("# /// script\n# requires-python = 3.11\n# ///\n", "requires-python must be a text"),
    ],
)
def test_a_block_that_is_not_valid_is_refused(script: Path, block: str, reason: str) -> None:
    script.write_text(block)
    with pytest.raises(InputError) as error:
        find_packages(script)
    assert str(error.value).startswith(f"script {str(script)!r}: its metadata block '# /// script' is not valid: ")
    assert reason in str(error.value) or "Invalid" in str(error.value)  # the words of tomllib differ between versions


def test_a_requirements_file_that_is_missing_is_refused(script: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"requirements '.*absent\.txt': cannot be read \(No such file or directory\)"):
        find_packages(script, tmp_path / "absent.txt")
    with pytest.raises(InputError, match=r"requirements '.*': cannot be read \(Is a directory\)"):
        find_packages(script, tmp_path)


def test_modules_are_named_once_and_must_exist(script: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "count.py").touch()
    assert find_packages(script, extra=[script, str(script)]).extra == (script,)
    with pytest.raises(InputError, match=r"modules '.*' and '.*other/count\.py' would both be 'count\.py'"):
        find_packages(script, extra=[script, tmp_path / "other" / "count.py"])
    with pytest.raises(InputError, match=r"module '.*absent': there is no such file or folder; check the path"):
        find_packages(script, extra=[tmp_path / "absent"])


def test_a_module_that_would_hide_one_of_pythons_own_is_refused(script: Path, tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    with pytest.raises(InputError, match=r"json': it would hide Python's own 'json' from the script; rename it"):
        find_packages(script, extra=[tmp_path / "json"])


def test_packages_are_refused_for_an_existing_pool(tmp_path: Path) -> None:
    packages = Packages(requirements=Path("requirements.txt"), extra=(Path("lib"),))
    with pytest.raises(InputError) as error:
        refuse_existing_pool(packages, "team-pool")
    assert str(error.value) == (
        "pool 'team-pool' exists already, so its start task cannot install what requirements.txt, lib names; leave out "
        "the pool, so that the run creates one, or the packages and modules"
    )
    refuse_existing_pool(packages, None)
    refuse_existing_pool(Packages(requires_python=">=3.11"), "team-pool")
