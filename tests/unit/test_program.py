"""What decides the outputs of a file besides its content, and how that is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.packages.needed import Packages, find_packages
from tasks.run.program import Done, Program
from tasks.run.records import Output, Record
from tasks.run.workload import Workload


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "count.py"
    path.write_text("print()")
    return path


def program(script: Path, *arguments: str, packages: Packages | None = None) -> Program:
    workload = Workload(
        name="run-script",
        node_script=script,
        arguments=arguments,
        read=lambda file, folder: None,
        join=lambda outputs: None,
        packages=packages or Packages(),
    )
    return workload.program


def test_the_same_script_and_arguments_are_the_same_program(script: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy.py"
    copied.write_bytes(script.read_bytes())
    assert program(script, "--level", "ERROR") == program(copied, "--level", "ERROR")


def test_another_script_is_another_program_with_the_same_arguments(script: Path) -> None:
    before = program(script, "x")
    script.write_text("print(1)")
    after = program(script, "x")
    assert (before.script == after.script, before.arguments == after.arguments) == (False, True)


@pytest.mark.parametrize("others", [(), ("a",), ("b", "a"), ("ab",), ("a", "b", ""), ("a b",)])
def test_other_arguments_are_another_program(script: Path, others: tuple[str, ...]) -> None:
    before, after = program(script, "a", "b"), program(script, *others)
    assert (before.script == after.script, before.arguments == after.arguments) == (True, False)


def test_other_requirements_and_modules_are_another_program(script: Path, tmp_path: Path) -> None:
    requirements, module = tmp_path / "requirements.txt", tmp_path / "helpers"
    module.mkdir()
    (module / "a.py").write_text("A = 1")
    found: list[Program] = [program(script)]
    for text in ("rich", "rich>=14"):
        requirements.write_text(text)
        found.append(program(script, packages=find_packages(script, requirements)))
    for text in ("A = 1", "A = 2"):
        (module / "a.py").write_text(text)
        found.append(program(script, packages=find_packages(script, extra=[module])))
    (module / "__pycache__").mkdir()
    (module / "__pycache__" / "a.pyc").write_bytes(b"x")
    again = program(script, packages=find_packages(script, extra=[module]))
    assert len({each.arguments for each in found}) == len(found)
    assert again == found[-1]


def test_what_was_made_is_read_as_it_was_written() -> None:
    output = Output(path="caf\udce9/x", blob="o/caf%E9/x", size=3, md5=b"\x0f")
    record = Record(outputs=(output,), node="n", task="t", seconds=1.5, stdout=1, stderr=2)
    done = Done(content="c", program=Program(script="s", arguments="a"), record=record)
    assert Done.of(json.loads(json.dumps(done.as_values()))) == done


@pytest.mark.parametrize(
    "values", [{}, {"content": "c"}, {"content": "c", "program": {"x": 1}, "record": {}}, [], None]
)
def test_what_is_no_note_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match=r"^(KeyError|TypeError): "):
        Done.of(values)  # type: ignore[arg-type]


def test_a_container_image_changes_what_decides_the_outputs() -> None:
    program = Program(script="s", arguments="a")
    assert program.in_container(None) == program
    images = {program.in_container(image) for image in ("align:1", "align:2", None)}
    assert len(images) == 3
    assert {each.script for each in images} == {"s"}
