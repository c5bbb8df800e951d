"""Which scripts and arguments a node can run, and why the others are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.run.scripts import find_script, name_on_nodes, refuse_bad_arguments


def refusal(script: Path | str) -> str:
    with pytest.raises(InputError) as error:
        find_script(str(script))
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("count.py", b"print()"),
        ("count.py", b"\xef\xbb\xbfprint()"),
        ("count.sh", b"echo"),
        ("count", b"#!/bin/sh\necho"),
        ("count", b"#! /usr/bin/env -S python3 -u\n"),
        ("count", b"#!/bin/sh"),  # without an end of the line
        ("count.pl", b"#!/usr/bin/perl\nprint;\r\n"),
        ("count", b"\x7fELF\x02\x01\x01"),
    ],
)
def test_what_a_node_can_run_is_accepted(name: str, content: bytes, tmp_path: Path) -> None:
    script = tmp_path / name
    script.write_bytes(content)
    script.chmod(0o644)  # nodes set the permission to run it
    assert find_script(str(script)) == script


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("count.py", b"", "is empty; name a program"),
        (
            "count.py",
            b"#!/usr/bin/env python3\r\nprint()\r\n",
            "its first line ends with CRLF, so that Linux looks for an interpreter of another name; save it with LF",
        ),
        (
            "count.sh",
            b"#!/bin/sh\r",
            "its first line ends with CRLF, so that Linux looks for an interpreter of another name; save it with LF",
        ),
        ("count.sh", b"#!\n", "names no interpreter after #!; begin it with #!/usr/bin/env python3, say"),
        ("count.sh", b"#!  ", "names no interpreter after #!; begin it with #!/usr/bin/env python3, say"),
        (
            "count.pl",
            b"print 1\n",
            "is not executable and has no interpreter; begin it with a line such as #!/usr/bin/env python3 or "
            "#!/bin/sh",
        ),
        (
            "count.exe",
            b"MZ\x90\0",
            "is a program for Windows, and nodes run Linux; name one that is built for Linux",
        ),
        (
            "count",
            b"\xcf\xfa\xed\xfe\x07",
            "is a program for macOS, and nodes run Linux; name one that is built for Linux",
        ),
        (
            "count",
            b"\xca\xfe\xba\xbe\0\0\0\x02",
            "is a program for macOS, and nodes run Linux; name one that is built for Linux",
        ),
    ],
)
def test_what_no_node_can_run_is_refused_with_the_fix(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    script = tmp_path / name
    script.write_bytes(content)
    script.chmod(0o755)
    assert refusal(script) == f"script {str(script)!r}: {reason}"


def test_a_script_that_is_no_readable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("absent.py") == f"script 'absent.py': does not exist, seen from '{tmp_path}'; check the path"
    assert refusal(tmp_path) == f"script '{tmp_path}': is not a regular file; name a file"
    assert (
        refusal("a\0b.py") == "script 'a\\x00b.py': cannot be read (embedded null byte); name a file that you may read"
    )
    assert (
        refusal("x" * 300)
        == f"script '{'x' * 300}': cannot be read (File name too long); name a file that you may read"
    )
    assert (
        refusal("~nobody-here/count.py")
        == "script '~nobody-here/count.py': there is no such home directory; name another"
    )


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.sh")
    assert refusal(tmp_path / "pipe.sh").endswith("is not a regular file; name a file")


def test_a_script_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "count.py"
    script.write_text("print()")

    def denied(*given: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root may read everything
    assert refusal(script) == f"script '{script}': cannot be read (Permission denied); name a file that you may read"


@pytest.mark.parametrize(
    ("name", "on_nodes"),
    [
        ("count.py", "count.py"),
        ("count lines (1).py", "count_lines__1_.py"),
        ("$(x);'é'.sh", "__x_____.sh"),
        ("-rf.sh", "script_-rf.sh"),
        (".hidden.py", "script_.hidden.py"),
        ("run_file.py", "script_run_file.py"),
        ("run_group.py", "script_run_group.py"),
        ("set_up_node.py", "script_set_up_node.py"),
        ("env", "script_env"),
        ("wheels.zip", "script_wheels.zip"),
    ],
)
def test_a_script_has_a_name_that_no_shell_splits(name: str, on_nodes: str) -> None:
    assert name_on_nodes(Path(name)) == on_nodes


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "--level=ERROR",
        "{input}",
        "--out={output_dir}/{stem}.txt",
        "{name}",
        "{{inputt}}",
        "{}",
        "{a b}",
        "{",
        "日本",
    ],
)
def test_arguments_with_known_placeholders_are_accepted(argument: str) -> None:
    refuse_bad_arguments([argument])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["ok", "--out={outputdir}/x"],
            "argument '--out={outputdir}/x': there is no placeholder {outputdir}; there are {input}, {output_dir}, "
            "{name}, {stem}, and {{outputdir}} stands for the text {outputdir}",
        ),
        (
            ["{{input}} {Input}"],
            "argument '{{input}} {Input}': there is no placeholder {Input}; there are {input}, {output_dir}, {name}, "
            "{stem}, and {{Input}} stands for the text {Input}",
        ),
        (["a\0"], "argument 'a\\x00': no command line can hold it; leave out NUL and invalid characters"),
        (["\udce9"], "argument '\\udce9': no command line can hold it; leave out NUL and invalid characters"),
        (
            ["x" * 12_000, "é" * 6_300],
            "the script's arguments have 24,606 bytes, and Azure Batch takes 24,576; put them in a file and bring it "
            "along with --with",
        ),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        refuse_bad_arguments(arguments)
    assert str(error.value) == said
