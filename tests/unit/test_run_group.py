"""A Batch task with a group of files: each is processed, and recorded, as if it were alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

import blob_requests
import group_records
import one_file
import run_file
import script_runner
import user_script
from tasks.run.file_outcomes import shown_end
from tasks.run.records import FileRecord
from tasks.run.scripts import OUR_SCRIPTS
from tests.support.awkward_names import AWKWARD_NAMES
from tests.support.blob_server import SAS, BlobServer
from tests.support.records import contents

RUN_FILE = Path(run_file.__file__).resolve()
RECORDS = "out/groups/task1"
UPPER = """\
import os, sys
def process_file(arguments):
    (path,) = arguments
    text = open(path).read()
    print("read", os.environ["INPUT_NAME"])
    if text == "bad":
        sys.exit("this is bad")
    with open(os.path.join(os.environ["OUTPUT_DIR"], "upper"), "w") as file:
        file.write(text.upper())
"""
PER_FILE = f"""\
#!{sys.executable}
{UPPER.replace("process_file", "main")}
main(sys.argv[1:])
"""
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a Batch task."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(text: str, name: str = "script.py") -> str:
    path = Path(name)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path.resolve())


def described(name: str, data: bytes, **more: str) -> dict[str, Any]:
    """A file in the list of a bundle."""
    md5 = hashlib.md5(data).hexdigest()
    return {"name": quote(os.fsencode(name)), "size": len(data), "md5": md5, "prefix": f"outputs/{name}", **more}


def bundle(listed: Iterable[dict[str, Any]], *data: bytes) -> None:
    Path("bundle").write_bytes(json.dumps({"files": list(listed)}).encode() + b"\n" + b"".join(data))


def run(
    server: BlobServer,
    command: str,
    files: Files | None = None,
    *arguments: str,
    python: Sequence[str] = ("-S", str(RUN_FILE)),
    **changed: str,
) -> subprocess.CompletedProcess[str]:
    if files is not None:
        bundle([described(name, data) for name, data in files.items()], *files.values())
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "GROUP_FILE": "bundle",
        "GROUP_DIGEST": "d1",
        "GROUP_MEMBERS": f"0-{len(files or ()) - 1}",
        "OUTPUT_URL": f"{server.endpoint}/out",
        "OUTPUT_SAS_TOKEN": SAS,
        "OUTPUT_INLINE": "100",
        "RECORD_URL": f"{server.endpoint}/{RECORDS}",
        "RECORD_SAS_TOKEN": SAS,
        "AZ_BATCH_NODE_ID": "tvm-1",
        "AZ_BATCH_TASK_ID": "task1",
        **changed,
    }
    line = [sys.executable, *python, command, *arguments]
    done = subprocess.run(line, env=environment, capture_output=True, errors="surrogateescape", check=False)
    assert "sig=" not in done.stdout + done.stderr
    return done


def lists(server: BlobServer) -> list[list[dict[str, Any]]]:
    found = {path: body for path, body in server.blobs.items() if path.startswith(f"/account/{RECORDS}/")}
    assert list(found) == [f"/account/{RECORDS}/{number:05}.json" for number in range(len(found))]
    return [json.loads(body) for body in found.values()]


def records(server: BlobServer) -> list[FileRecord]:
    """In the order in which they were written, as the client reads them."""
    return [FileRecord.of(each) for group in lists(server) for each in group]


def outcomes(server: BlobServer) -> list[tuple[str, int, str]]:
    return [(each.name, each.record.exit_code, each.problem) for each in records(server)]


# --- what is recorded -------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-S", "-I"])
def test_the_script_may_have_the_name_of_a_module_of_python(server: BlobServer, tmp_path: Path, option: str) -> None:
    for path in OUR_SCRIPTS.values():
        shutil.copy(path, tmp_path)
    done = run(server, script(UPPER, "json.py"), {"a": b"one"}, python=(option, str(tmp_path / RUN_FILE.name)))
    assert (done.returncode, done.stderr) == (0, "")
    assert outcomes(server) == [("a", 0, "")]


@pytest.mark.parametrize("isolate", ["", "1"])
def test_a_file_that_fails_does_not_stop_its_neighbours(server: BlobServer, isolate: str) -> None:
    done = run(server, script(UPPER), {"x/a": b"one", "x/b": b"bad", "y/a": b"two"}, ISOLATE=isolate)
    assert done.returncode == 1
    (found,) = lists(server)
    first, second, third = records(server)
    assert found[0]["outputs"] == [
        {"path": "upper", "blob": "", "size": 3, "md5": hashlib.md5(b"ONE").hexdigest(), "data": "T05F"}
    ]
    assert (first.name, first.size, first.md5) == ("x/a", 3, hashlib.md5(b"one").hexdigest())
    assert (first.record.node, first.record.task, first.record.stdout, first.record.stderr) == ("tvm-1", "task1", 9, 0)
    assert 0 <= first.record.seconds < 60
    assert first.began is not None
    assert "problem" not in found[0]
    assert (first.succeeded, second.succeeded, third.succeeded) == (True, False, True)
    assert (second.record.exit_code, second.problem, second.record.outputs) == (1, "", ())
    assert (second.stdout_end, second.stderr_end) == ("read x/b\n", "this is bad\n")
    assert (first.stdout_end, first.stderr_end, third.stdout_end) == ("read x/a\n", "", "read y/a\n")
    assert contents(third) == {"upper": b"TWO"}
    assert len(server.requests) == 1


def test_what_files_print_goes_to_the_streams_of_the_batch_task(server: BlobServer) -> None:
    text = "import sys\ndef process_file(arguments):\n print('out', end='')\n print('err', file=sys.stderr)\n"
    done = run(server, script(text), {"x/a": b"", "b\n": b""})
    assert done.stdout == "--- x/a\nout\n--- b\\n\nout\n"
    assert done.stderr == "--- x/a\nerr\n--- b\\n\nerr\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("script.py", PER_FILE),
        ("script.py", PER_FILE.partition("\n")[2]),
        ("a-binary", '#!/bin/sh\nprintf "read %s\\n" "$INPUT_NAME"\n[ "$(cat "$1")" != bad ] || exit 1\n'
         'cd "$OUTPUT_DIR" && tr a-z A-Z < "$INPUT_FILE" > upper\n'),
        ("script.sh", '[ "$(cat "$1")" != bad ] || exit 1\ntr a-z A-Z < "$1" > "$OUTPUT_DIR/upper"\n'),
    ],
)  # fmt: skip
def test_any_other_script_is_started_for_each_file(server: BlobServer, name: str, text: str) -> None:
    assert run(server, script(text, name), {"x/a": b"one", "x/b": b"bad", "y/a": b"two"}).returncode == 1
    assert [contents(each) for each in records(server)] == [{"upper": b"ONE"}, {}, {"upper": b"TWO"}]
    assert outcomes(server) == [("x/a", 0, ""), ("x/b", 1, ""), ("y/a", 0, "")]


@pytest.mark.parametrize(
    ("ends", "code", "stderr"),
    [
        ("return 3", 3, ""),
        ("return None", 0, ""),
        ("return 256", 0, ""),
        ("return 'no number'", 1, "no number\n"),
        ("sys.exit(200)", 200, ""),
        ("os._exit(5)", 5, ""),
        ("raise KeyError(1)", 1, "KeyError: 1\n"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt\n"),
    ],
)
@pytest.mark.parametrize("isolate", ["", "1"])
def test_exit_codes_are_those_of_a_script(server: BlobServer, ends: str, code: int, stderr: str, isolate: str) -> None:
    text = f"import os, sys\ndef process_file(arguments):\n    if '{{name}}' == arguments[0]: {ends}\n"
    text = text.replace("'{name}' == arguments[0]", "arguments[0] == 'a'")
    done = run(server, script(text), {"a": b"", "b": b""}, "{name}", "{input}", ISOLATE=isolate)
    assert done.returncode == code
    first, second = records(server)
    assert first.record.exit_code == code
    assert first.stderr_end.endswith(stderr)
    assert "run_file" not in first.stderr_end
    assert second.succeeded


@pytest.mark.parametrize("isolate", ["", "1"])
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_file_that_kills_its_process_costs_only_itself(
    server: BlobServer, number: signal.Signals, isolate: str
) -> None:
    text = "import os\ndef process_file(arguments):\n    if open(arguments[0]).read(): os.kill(os.getpid(), %d)\n"
    done = run(server, script(text % number), {"a": b"", "b": b"x", "c": b""}, ISOLATE=isolate)
    assert done.returncode == 128 + number
    assert outcomes(server) == [("a", 0, ""), ("b", 128 + number, f"killed by signal {int(number)}"), ("c", 0, "")]


def test_a_script_of_its_own_that_crashes_costs_only_its_file(server: BlobServer) -> None:
    done = run(server, script('#!/bin/sh\n[ -s "$1" ] && kill -11 $$\nexit 0\n'), {"a": b"", "b": b"x", "c": b""})
    assert done.returncode == 139
    assert outcomes(server) == [("a", 0, ""), ("b", 139, "killed by signal 11"), ("c", 0, "")]


@pytest.mark.parametrize(
    "text",
    [
        "import signal\ndef process_file(arguments):\n    if open(arguments[0]).read(): signal.pause()\n",
        '#!/bin/sh\n[ -s "$1" ] || exit 0\nsleep 60\n',
    ],
)
@pytest.mark.parametrize("isolate", ["", "1"])
def test_each_file_has_its_own_time_limit(server: BlobServer, text: str, isolate: str) -> None:
    files = {"a": b"", "b": b"x", "c": b""}
    assert run(server, script(text), files, FILE_SECONDS="1", ISOLATE=isolate).returncode == 124
    assert outcomes(server) == [("a", 0, ""), ("b", 124, "timed out"), ("c", 0, "")]
    assert 1 <= records(server)[1].record.seconds < 60


@pytest.mark.parametrize(
    "signature",
    ["process_file()", "process_file(path)", "process_file(arguments, more=None)", "process_file(*arguments)"],
)
def test_a_function_of_that_name_with_other_parameters_is_not_called(server: BlobServer, signature: str) -> None:
    text = f"import os, sys\ndef {signature}: os._exit(9)\nif __name__ == '__main__': print(len(sys.argv))\n"
    assert run(server, script(text), {"a": b"", "b": b""}).returncode == 0
    assert [each.stdout_end for each in records(server)] == ["2\n", "2\n"]


@pytest.mark.parametrize("parameter", ["arguments", "arguments: list[str]", " arguments :'list[str]', "])
def test_the_function_may_name_the_type_of_its_arguments(server: BlobServer, parameter: str) -> None:
    text = f"def process_file({parameter}) -> int | None: pass\n"
    assert script_runner.kept_interpreter(script(text), sys.executable) == [sys.executable]


def test_a_function_that_closes_what_it_has_not_opened_has_succeeded(server: BlobServer) -> None:
    text = "import os, sys\ndef process_file(arguments):\n    print(1, flush=True)\n    os.closerange(3, 99)\n"
    assert run(server, script(text), {"a": b"", "b": b""}).returncode == 0
    assert [(each.stdout_end, each.stderr_end) for each in records(server)] == [("1\n", "")] * 2


def test_a_fork_that_returns_from_the_function_ends(server: BlobServer) -> None:
    text = "import os\ndef process_file(arguments):\n    if os.fork():\n        os.wait()\n        return 3\n"
    assert run(server, script(text), {"a": b"", "b": b""}).returncode == 3
    assert [(each.record.exit_code, each.stderr_end) for each in records(server)] == [(3, "")] * 2


def test_what_a_file_has_registered_for_its_exit_runs_in_its_fork(server: BlobServer) -> None:
    text = (
        "import atexit\natexit.register(print, 'of the import')\n"
        "def process_file(arguments): atexit.register(print, 'of', arguments[0], flush=True)\n"
    )
    assert run(server, script(text), {"a": b"", "b": b""}, "{name}", "{input}", ISOLATE="1").returncode == 0
    assert [each.stdout_end for each in records(server)] == ["of a\n", "of b\n"]


def test_what_a_file_has_written_is_recorded_to_the_byte(server: BlobServer) -> None:
    text = "#!/bin/sh\nprintf 'a\\377\\n'\nprintf '\\303' >&2\nexit 3\n"
    assert run(server, script(text, "x"), {"a": b""}).returncode == 3
    (found,) = records(server)
    assert [os.fsencode(each) for each in (found.stdout_end, found.stderr_end)] == [b"a\xff\n", b"\xc3"]
    assert shown_end(found.stdout_end) == "a\ufffd"


def test_of_a_long_log_whole_lines_are_recorded(server: BlobServer) -> None:
    text = "import sys\ndef process_file(arguments):\n    print('secret' * 20_000)\n    print('x' * 999)\n"
    assert run(server, script(text), {"a": b""}).returncode == 0
    (found,) = records(server)
    assert (found.record.stdout, found.stdout_end) == (121_001, "x" * 999 + "\n")


def test_what_is_no_file_is_named_in_the_stderr_of_its_file(server: BlobServer, folder: Path) -> None:
    text = "import os\ndef process_file(arguments): os.mkfifo(os.environ['OUTPUT_DIR'] + '/' + arguments[0])\n"
    assert run(server, script(text), {"a": b"", "b": b""}, "{name}", "{input}").returncode == 0
    assert [each.stderr_end for each in records(server)] == [
        f"{folder}/file/output/{name} is no file and is not kept\n" for name in "ab"
    ]


def test_processes_that_a_script_leaves_end_with_its_file(server: BlobServer, folder: Path) -> None:
    os.mkfifo("held")  # whoever has it open for writing keeps the reader from its end
    text = '#!/bin/sh\n[ -s "$1" ] || exit 0\nsleep 60 9> "$PIPE" &\nexit 0\n'
    reader = os.open("held", os.O_RDONLY | os.O_NONBLOCK)
    assert run(server, script(text), {"a": b"x", "b": b""}, PIPE=str(folder / "held")).returncode == 0
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("isolate", ["", "1"])
@pytest.mark.parametrize("name", ["process_file", "main"])
def test_what_a_file_has_left_running_writes_into_no_other_file(
    server: BlobServer, folder: Path, name: str, isolate: str
) -> None:
    for pipe in ("go", "written"):
        os.mkfifo(pipe)
    text = (
        f"#!{sys.executable}\nimport os, subprocess, sys\n"
        "LATE = 'read x < $PIPES/go; echo late > $OUTPUT_DIR/late; echo > $PIPES/written'\n"
        f"def {name}(arguments):\n"
        "    if os.environ['INPUT_NAME'] == 'a':\n"
        "        subprocess.Popen(['sh', '-c', LATE], start_new_session=True)\n"
        "    elif os.environ['INPUT_NAME'] == 'b':\n"
        "        open(os.environ['PIPES'] + '/go', 'w').close()\n"
        "        open(os.environ['PIPES'] + '/written').read()\n"
        f"if __name__ == '__main__': {name}(sys.argv[1:])\n"
    )
    done = run(server, script(text), {"a": b"", "b": b"", "c": b""}, PIPES=str(folder), ISOLATE=isolate)
    assert done.returncode == 0, done.stderr
    assert [contents(each) for each in records(server)] == [{}, {}, {}]


def test_a_script_that_cannot_be_imported_fails_each_file_with_the_reason(server: BlobServer) -> None:
    assert (
        run(server, script("import nowhere\ndef process_file(arguments): pass\n"), {"a": b"", "b": b""}).returncode == 1
    )
    assert [each.stderr_end.splitlines()[-1] for each in records(server)] == [
        "ModuleNotFoundError: No module named 'nowhere'"
    ] * 2


def test_a_script_that_cannot_be_started_fails_each_file(server: BlobServer) -> None:
    assert run(server, script("#!/no/such/shell\n", "x"), {"a": b"", "b": b""}).returncode == 126
    assert outcomes(server) == [("a", 126, "could not start"), ("b", 126, "could not start")]
    assert records(server)[0].stderr_end.endswith("its interpreter /no/such/shell is not on this node\n")


# --- what the script finds --------------------------------------------------------------------------------


@pytest.mark.parametrize("isolate", ["", "1"])
def test_each_file_finds_its_own_environment(server: BlobServer, folder: Path, isolate: str) -> None:
    text = (
        "import json, os, sys\n"
        "def process_file(arguments):\n"
        "    seen = [arguments, sys.argv[1:], os.getcwd(), os.listdir('.'), os.listdir(os.environ['OUTPUT_DIR']),"
        " os.environ.get('MINE'), os.environ['INPUT_NAME'], os.environ['INPUT_FILE']]\n"
        "    os.environ['MINE'] = 'left'\n"
        "    open('left', 'w').close()\n"
        "    os.mkdir(os.path.join(os.environ['OUTPUT_DIR'], 'empty'))\n"
        "    print(json.dumps(seen))\n"
        "    sys.stdout.close()\n"
        "    os.close(1)\n"
        "if __name__ == '__main__': 1 / 0\n"
    )
    done = run(server, script(text), {"x/a.txt": b"1", "y/a.txt": b"2"}, "-s", "{stem}={input}", ISOLATE=isolate)
    assert done.returncode == 0, done.stderr
    path = f"{folder}/file/input/a.txt"
    for name, line in zip(("x/a.txt", "y/a.txt"), done.stdout.splitlines()[1::2], strict=True):
        arguments = ["-s", f"a={path}"]
        assert json.loads(line) == [arguments, arguments, f"{folder}/file/work", [], [], None, name, path]


@pytest.mark.parametrize("isolate", ["", "1"])
@pytest.mark.parametrize("at", ["import", "call", "both"])
def test_a_script_may_replace_its_streams(server: BlobServer, at: str, isolate: str) -> None:
    replaces = "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')\n"
    text = (
        "import io, logging, sys\n"
        "logging.basicConfig(stream=sys.stderr)\n"
        f"{'' if at == 'call' else replaces}"
        "def process_file(arguments):\n"
        f"    {'pass' if at == 'import' else replaces}\n"
        "    print('é', end='')\n"
        "    logging.warning('w')\n"
    )
    done = run(server, script(text), {"a": b"", "b": b"", "c": b""}, ISOLATE=isolate)
    assert done.stdout == "--- a\né\n--- b\né\n--- c\né\n"
    assert done.stderr == "--- a\nWARNING:root:w\n--- b\nWARNING:root:w\n--- c\nWARNING:root:w\n"


def test_a_script_finds_no_token(server: BlobServer) -> None:
    text = (
        "import os\n"
        "def process_file(arguments):\n"
        "    print(dict(os.environ))\n"
        "    for name in ('environ', 'cmdline'): print(open(f'/proc/self/{name}', 'rb').read())\n"
    )
    done = run(server, script(text), {"a": b""})  # which looks for the SAS
    assert not any(name in done.stdout for name in user_script.OURS)
    assert "'INPUT_NAME': 'a'" in done.stdout


@pytest.mark.parametrize("kept", [True, False])
def test_a_script_is_killed_before_what_runs_it_where_memory_runs_out(server: BlobServer, kept: bool) -> None:
    text = (
        "import os\n"
        "def process_file(arguments):\n"
        "    for pid in (os.getpid(), os.getppid()): print(open(f'/proc/{pid}/oom_score_adj').read().strip())\n"
    )
    path = script(text if kept else f"#!{sys.executable}\n{text.replace('process_file', 'main')}main(0)\n")
    scores = [int(line) for line in run(server, path, {"a": b""}).stdout.splitlines()[1:]]
    assert scores == [min(1000, scores[1] + 500), scores[1]]


def test_awkward_names_reach_the_script_and_the_record(server: BlobServer) -> None:
    text = (
        "import os\n"
        "def process_file(arguments):\n"
        "    assert os.path.basename(arguments[0]) == os.path.basename(os.environ['INPUT_NAME'])\n"
        "    open(os.path.join(os.environ['OUTPUT_DIR'], os.path.basename(arguments[0])), 'w').close()\n"
    )
    done = run(server, script(text), {f"x/{name}": b"" for name in AWKWARD_NAMES})
    assert done.returncode == 0, done.stderr
    found = records(server)
    assert [each.name for each in found] == [f"x/{name}" for name in AWKWARD_NAMES]
    assert [list(each.contents) for each in found] == [[os.path.basename(name)] for name in AWKWARD_NAMES]


def test_the_function_is_called_by_the_scripts_own_interpreter(server: BlobServer, folder: Path) -> None:
    (folder / "shared/env/bin").mkdir(parents=True)
    (folder / "shared/modules").mkdir()
    (folder / "shared/modules/ours.py").write_text("name = 'ours'\n")
    (folder / "shared/env/bin/python").symlink_to(sys.executable)
    text = "#!/usr/bin/env python3\nimport ours, sys\ndef process_file(arguments): print(ours.name, sys.executable)\n"
    done = run(server, script(text), {"a": b""}, AZ_BATCH_NODE_SHARED_DIR=str(folder / "shared"))
    assert done.stdout == f"--- a\nours {folder}/shared/env/bin/python\n"


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("#!/usr/bin/env python3", ["/usr/bin/env", "python3"]),
        ("#! /opt/python -u ", ["/opt/python", "-u"]),
        ("#!/usr/bin/env -S python3 -X utf8", ["/usr/bin/env", "-S python3 -X utf8"]),
        ("#!/usr/bin/env -S uv run --python 3.12 --script", []),
        ("#!/bin/sh", []),
        ("# no first line", [sys.executable]),
    ],
)
def test_the_function_needs_the_interpreter_of_the_first_line(first: str, expected: list[str]) -> None:
    path = script(f"{first}\ndef process_file(arguments): pass\n")
    assert script_runner.kept_interpreter(path, sys.executable) == expected
    assert script_runner.kept_interpreter(script(f"{first}\nx = 'def process_file('\n"), sys.executable) == []


# --- a Batch task that runs again -------------------------------------------------------------------------


def test_another_node_processes_only_what_is_not_done(
    server: BlobServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a": b"", "b": b"", "c": b""}
    fails = script(
        "import os\ndef process_file(arguments):\n print(end='ran')\n return os.environ['INPUT_NAME'] == 'b'\n"
    )
    assert run(server, fails, files).returncode == 1
    (folder / "other").mkdir()
    monkeypatch.chdir(folder / "other")
    done = run(server, script("def process_file(arguments): print('again')\n"), files)
    assert (done.returncode, done.stdout) == (0, "--- b\nagain\n")
    assert outcomes(server) == [("a", 0, ""), ("b", 1, ""), ("c", 0, ""), ("b", 0, "")]
    assert [len(each) for each in lists(server)] == [3, 1]
    assert run(server, script("def process_file(arguments): print('never')\n"), files).stdout == ""
    assert len(lists(server)) == 2


def test_a_file_with_another_content_is_processed_again(server: BlobServer) -> None:
    path = script("def process_file(arguments): print('ran')\n")
    run(server, path, {"a": b"1", "b": b"1"})
    assert run(server, path, {"a": b"1", "b": b"2"}, GROUP_DIGEST="d2").stdout == "--- b\nran\n"


def test_only_members_are_processed_and_only_their_own_lists_count(server: BlobServer) -> None:
    path = script("def process_file(arguments): print('ran')\n")
    files = dict.fromkeys("abcdef", b"")
    assert run(server, path, files, GROUP_MEMBERS="0-1,3").returncode == 0
    assert [each.name for each in records(server)] == ["a", "b", "d"]
    assert run(server, path, files, GROUP_MEMBERS="1,5", RECORDS_FROM="1").returncode == 0
    assert [[each["name"] for each in group] for group in lists(server)] == [["a", "b", "d"], ["b", "f"]]


def test_a_file_that_kills_the_batch_task_takes_no_other_along(server: BlobServer, folder: Path) -> None:
    text = (
        "import os\n"
        "def process_file(arguments):\n"
        "    with open(os.environ['LOG'], 'a') as log: log.write(os.environ['INPUT_NAME'])\n"
        "    if open(arguments[0]).read():\n"
        "        os.kill(os.getppid(), 9)\n"
        "        os._exit(0)\n"
    )
    path, log = script(text), folder / "log"
    files = {"a": b"", "b": b"x", "c": b""}
    assert run(server, path, files, LOG=str(log)).returncode == -9
    assert (log.read_text(), lists(server)) == ("ab", [])
    assert run(server, path, files, LOG=str(log)).returncode == -9
    assert log.read_text() == "abcb"
    assert outcomes(server) == [("a", 0, ""), ("c", 0, "")]  # stored before the file was tried again
    assert run(server, path, files, LOG=str(log)).returncode == 137
    assert log.read_text() == "abcb"
    assert outcomes(server)[2:] == [("b", 137, "killed by signal 9")]
    assert records(server)[2].stderr_end == "the Batch task has ended twice while it was at this file\n"


def test_a_journal_of_which_the_last_line_was_not_whole_is_read(server: BlobServer, folder: Path) -> None:
    text = (
        "import os\ndef process_file(arguments):\n    print('ran')\n"
        "    if os.environ.get('KILL'): os.kill(os.getppid(), 9)\n"
    )
    path, files = script(text), {"a": b"", "b": b""}
    assert run(server, path, files, KILL="1").returncode == -9
    (journal,) = folder.glob("journal-*")
    with journal.open("ab") as file:
        file.write(b'\n{"ended": {"name": "a", "exi')
    done = run(server, path, files)
    assert (done.returncode, done.stdout) == (0, "--- b\nran\n--- a\nran\n")
    assert list(folder.glob("journal-*")) == []


def test_the_journal_outlives_the_working_directory(
    server: BlobServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "import os\ndef process_file(arguments):\n    print('ran')\n"
        "    if os.environ.get('KILL'): os.kill(os.getppid(), 9)\n"
    )
    path, files = script(text), {"a": b"", "b": b""}
    (folder / "shared").mkdir()
    shared = {"AZ_BATCH_NODE_SHARED_DIR": str(folder / "shared")}
    assert run(server, path, files, KILL="1", **shared).returncode == -9
    (folder / "new").mkdir()
    monkeypatch.chdir(folder / "new")
    done = run(server, path, files, GROUP_DIGEST="d2", **shared)
    assert done.stdout == "--- a\nran\n--- b\nran\n"  # another group
    assert run(server, path, files, RECORDS_FROM="1", KILL="1", **shared).returncode == -9
    (folder / "newer").mkdir()
    monkeypatch.chdir(folder / "newer")
    done = run(server, path, files, RECORDS_FROM="1", **shared)
    assert done.stdout == "--- b\nran\n--- a\nran\n"


@pytest.mark.parametrize(
    "text",
    [
        "import os, signal\ndef process_file(arguments):\n    if os.environ['INPUT_NAME'] == 'b':\n"
        "        os.kill(os.getppid(), 15)\n        signal.pause()\n",
        "import os, signal\ndef process_file(arguments):\n    if os.environ['INPUT_NAME'] == 'b':\n"
        "        os.execvp('sh', ['sh', '-c', '(kill $$; kill $PPID)'])\n",
        "#!/bin/sh\n[ $INPUT_NAME = b ] || exit 0\nkill $PPID\nsleep 60\n",
        "#!/bin/sh\n[ $INPUT_NAME = b ] || exit 0\n(kill $$; kill $PPID)\nsleep 60\n",
    ],
)
def test_sigterm_ends_the_script_and_stores_what_is_done(server: BlobServer, text: str) -> None:
    """Also where the script has the signal before this process."""
    files = {"a": b"", "b": b"", "c": b""}
    assert run(server, script(text), files).returncode == 143
    assert outcomes(server) == [("a", 0, "")]
    assert run(server, script("def process_file(arguments): print('ran')\n", "again.py"), files).returncode == 0
    assert outcomes(server) == [("a", 0, ""), ("b", 0, ""), ("c", 0, "")]


# --- what is stored when ----------------------------------------------------------------------------------


def test_large_outputs_are_blobs_and_are_stored_before_their_record(server: BlobServer) -> None:
    text = '#!/bin/sh\ncd "$OUTPUT_DIR" && printf %0101d 0 > large && printf %0100d 0 > small\n'
    assert run(server, script(text, "x"), {"x/a": b""}).returncode == 0
    paths = [unquote(path.partition("?")[0]) for path, _, _ in server.requests]
    assert paths == ["/account/out/outputs/x/a/large", f"/account/{RECORDS}/00000.json"]
    large, small = records(server)[0].record.outputs
    assert (large.blob, large.size) == ("outputs/x/a/large", 101)
    assert (small.blob, small.size) == ("", 100)
    assert contents(records(server)[0]) == {"small": b"0" * 100}


def test_outputs_that_are_kept_elsewhere_are_all_blobs(server: BlobServer) -> None:
    path = script('#!/bin/sh\n: > "$OUTPUT_DIR/empty"\n', "x")
    assert run(server, path, {"a": b""}, OUTPUT_INLINE="0").returncode == 0
    assert server.blobs["/account/out/outputs/a/empty"] == b""
    assert contents(records(server)[0]) == {}


def test_an_output_that_cannot_be_stored_fails_its_file_alone(server: BlobServer) -> None:
    missing: tuple[int, dict[str, str], bytes] = (404, {}, b"")
    server.answers = [missing, (403, {"x-ms-error-code": "AuthorizationFailure"}, SAS.encode())]
    path = script('#!/bin/sh\necho x > "$OUTPUT_DIR/x"\n', "x")
    assert run(server, path, {"a": b"", "b": b""}, OUTPUT_INLINE="").returncode == 74
    assert outcomes(server) == [("a", 74, "could not upload"), ("b", 0, "")]
    assert records(server)[0].stderr_end.startswith(f"Upload to {server.endpoint}/out/outputs/a/x failed: HTTP 403")


@pytest.fixture
def journal(server: BlobServer, tmp_path: Path) -> Iterable[group_records.Records]:
    times = iter([0.0, 4.9, 5.0, 5.0, 9.9, 10.0, 10.0])
    made = group_records.Records(
        f"{server.endpoint}/{RECORDS}", SAS, str(tmp_path / "journal"), clock=lambda: next(times)
    )
    made.restore(0)
    yield made
    made.close()
    blob_requests.connections.clear()


def ended(name: str, **more: Any) -> dict[str, Any]:
    file = described(name, b"")
    return {**one_file.make_record(file, datetime.now(timezone.utc), 0.0), **more}


def test_records_are_stored_every_5_seconds(server: BlobServer, journal: group_records.Records) -> None:
    for name in "abcd":
        journal.end(ended(name))
    assert [[each["name"] for each in group] for group in lists(server)] == [["a", "b"], ["c", "d"]]


def test_records_are_stored_before_they_are_many_bytes(server: BlobServer, journal: group_records.Records) -> None:
    journal.end(ended("a", stdout_end="x" * (4 << 20)))
    assert [len(each) for each in lists(server)] == [1]


def test_a_list_that_another_node_has_written_is_kept(server: BlobServer, journal: group_records.Records) -> None:
    server.blobs[f"/account/{RECORDS}/00000.json"] = b"[]"
    journal.end(ended("a"))
    journal.store()
    assert [len(each) for each in lists(server)] == [0, 1]


def test_a_list_whose_answer_was_lost_is_not_stored_twice(server: BlobServer, journal: group_records.Records) -> None:
    record = ended("a")
    journal.end(record)
    server.blobs[f"/account/{RECORDS}/00000.json"] = json.dumps([record]).encode()
    journal.store()
    journal.end(ended("b"))
    journal.store()
    assert [[each["name"] for each in group] for group in lists(server)] == [["a"], ["b"]]


def test_records_that_cannot_be_stored_fail_the_batch_task_and_are_kept(server: BlobServer) -> None:
    server.answers = [(404, {}, b""), (403, {}, b"")]
    path, files = script("def process_file(arguments): print('ran')\n"), {"a": b"", "b": b""}
    done = run(server, path, files)
    assert done.returncode == 74
    assert done.stderr.startswith(f"Upload to {server.endpoint}/{RECORDS}/00000.json failed: HTTP 403")
    done = run(server, path, files)
    assert (done.returncode, done.stdout) == (0, "")
    assert outcomes(server) == [("a", 0, ""), ("b", 0, "")]


# --- the inputs -------------------------------------------------------------------------------------------


def test_blobs_in_place_are_fetched_over_a_kept_connection(server: BlobServer) -> None:
    there = {"x/a": b"one", "x/c": b"two"}
    server.blobs |= {f"/account/in/{name}": data for name, data in there.items()}
    listed = [described(name, data, url=f"{server.endpoint}/in/{name}?{SAS}") for name, data in there.items()]
    bundle([listed[0], described("b", b"three"), listed[1]], b"three")
    assert run(server, script(UPPER), GROUP_MEMBERS="0-2").returncode == 0
    assert [contents(each)["upper"] for each in records(server)] == [b"ONE", b"THREE", b"TWO"]
    assert server.gets[1:] == [f"/account/in/{name}?{SAS}" for name in there]
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, {"x-ms-error-code": "BlobNotFound"}, b""), "HTTP 404 BlobNotFound."),
        ((403, {}, b""), "HTTP 403. The SAS token has expired, or does not permit read."),
        ((412, {}, b""), "HTTP 412. The blob has changed since the run began."),
    ],
)
def test_a_blob_that_cannot_be_fetched_fails_its_file_alone(
    server: BlobServer, answer: tuple[int, dict[str, str], bytes], reason: str
) -> None:
    server.answers = [(404, {}, b""), answer]
    listed = described("a", b"one", url=f"{server.endpoint}/in/a?{SAS}", etag="0x1")
    bundle([{**listed, "md5": ""}, described("b", b"two")], b"two")
    assert run(server, script(UPPER), GROUP_MEMBERS="0-1").returncode == 73
    assert outcomes(server) == [("a", 73, "could not fetch"), ("b", 0, "")]
    first = records(server)[0]
    assert (first.stderr_end, first.etag) == (f"Download of {server.endpoint}/in/a failed: {reason}\n", "0x1")
    assert SAS not in json.dumps(lists(server))


def test_a_file_that_is_not_what_was_uploaded_fails_alone(server: BlobServer) -> None:
    bundle([described("a", b"one"), described("b", b"two")], b"onf", b"two")
    assert run(server, script(UPPER), GROUP_MEMBERS="0-1").returncode == 73
    assert outcomes(server) == [("a", 73, "could not fetch"), ("b", 0, "")]
    assert "expected 3 bytes with MD5" in records(server)[0].stderr_end


@pytest.mark.parametrize("data", [b"", b"{}\n", b"[1]\n", b'{"files": [{}]}\n', b"\xff\n"])
def test_a_bundle_without_list_fails_the_batch_task(server: BlobServer, data: bytes) -> None:
    Path("bundle").write_bytes(data)
    done = run(server, script(UPPER), GROUP_MEMBERS="0-1")
    assert done.returncode == 73
    assert done.stderr.startswith("GROUP_FILE is no list of files (")


def test_memory_does_not_grow_with_what_is_stored(server: BlobServer) -> None:
    text = (
        "import os, re\n"
        "def process_file(arguments):\n"
        "    with open(os.path.join(os.environ['OUTPUT_DIR'], 'x'), 'wb') as file: file.write(bytes(512 << 10))\n"
        "    print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/%d/status' % os.getppid()).read())[1])\n"
    )
    done = run(server, script(text), {str(number): b"" for number in range(80)}, OUTPUT_INLINE=str(1 << 20))
    kilobytes = [int(line) for line in done.stdout.splitlines()[1::2]]
    assert len(kilobytes) == 80
    assert kilobytes[-1] - kilobytes[0] < 25 << 10
