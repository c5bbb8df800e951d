"""What a Batch task runs: it checks its input, runs the script, and stores what that leaves."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

import blob_requests
import one_file
import run_file
import user_script
from tasks.run.records import FileRecord
from tasks.run.scripts import NODE_SCRIPTS, OUR_SCRIPTS
from tests.support.blob_server import SAS, BlobServer, serving
from tests.support.certificates import self_signed
from tests.support.records import contents

RUN_FILE = Path(run_file.__file__).resolve()
DATA = b"one\ntwo\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a Batch task, with its input file."""
    monkeypatch.chdir(tmp_path)
    Path("input").mkdir()
    Path("input/a.txt").write_bytes(DATA)
    return tmp_path


def script(text: str, name: str = "script.sh") -> str:
    path = Path(name)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path.resolve())


def run(
    server: BlobServer | None,
    *command: str,
    name: str = "logs/a.txt",
    python: Sequence[str] = ("-S", str(RUN_FILE)),
    **changed: str,
) -> subprocess.CompletedProcess[str]:
    endpoint = server.endpoint if server else "http://127.0.0.1:1"
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "INPUT_FILE": "input/a.txt",
        "INPUT_NAME": quote(os.fsencode(name)),
        "INPUT_SIZE": str(len(DATA)),
        "INPUT_MD5": hashlib.md5(DATA).hexdigest(),
        "OUTPUT_URL": f"{endpoint}/out",
        "OUTPUT_PREFIX": "outputs/logs/a.txt",
        "OUTPUT_SAS_TOKEN": SAS,
        "RECORD_URL": f"{endpoint}/out/records/logs/a.txt.json",
        "RECORD_SAS_TOKEN": SAS,
        "AZ_BATCH_NODE_ID": "tvm-1",
        "AZ_BATCH_TASK_ID": "task7",
        **changed,
    }
    line = [sys.executable, *python, *command]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert "sig=" not in done.stdout + done.stderr
    return done


def stored(server: BlobServer) -> dict[str, bytes]:
    """What was stored, by the blob's name below the container."""
    return {unquote(path.partition("?")[0].partition("/out/")[2]): body for path, _, body in server.requests}


def record(server: BlobServer) -> dict[str, object]:
    path, _, body = server.requests[-1]
    assert path == f"/account/out/records/logs/a.txt.json?{SAS}"
    found: dict[str, object] = json.loads(body)
    return found


def test_every_file_of_the_output_folder_is_stored_and_then_recorded(server: BlobServer) -> None:
    text = 'mkdir -p "$OUTPUT_DIR/sub/é"\nwc -l < "$1" > "$OUTPUT_DIR/lines"\nprintf x > "$OUTPUT_DIR/sub/é/100%."\n'
    done = run(server, script("#!/bin/sh\n" + text))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    blobs = stored(server)
    assert list(blobs)[:2] == ["outputs/logs/a.txt/lines", "outputs/logs/a.txt/sub/é/100%25%2E"]
    assert [blobs[name] for name in list(blobs)[:2]] == [b"2\n", b"x"]
    assert record(server)["outputs"] == [
        {"path": "lines", "blob": "outputs/logs/a.txt/lines", "size": 2, "md5": hashlib.md5(b"2\n").hexdigest()},
        {
            "path": quote("sub/é/100%."),
            "blob": "outputs/logs/a.txt/sub/é/100%25%2E",
            "size": 1,
            "md5": hashlib.md5(b"x").hexdigest(),
        },
    ]
    _, headers, body = server.requests[0]
    assert headers["x-ms-blob-type"] == "BlockBlob"
    assert headers["content-md5"] == base64.b64encode(hashlib.md5(body).digest()).decode()


def test_the_record_says_what_was_run_where_and_for_how_long(server: BlobServer, tmp_path: Path) -> None:
    for stream, text in (("stdout", "abc"), ("stderr", "")):
        (tmp_path / f"{stream}.txt").write_text(text)
    done = run(server, script("#!/bin/sh\nexit 0\n"), AZ_BATCH_TASK_DIR=str(tmp_path))
    assert done.returncode == 0
    found = record(server)
    assert 0 <= float(str(found.pop("seconds"))) < 60
    assert str(found.pop("began")).endswith("+00:00")
    assert found == {
        "name": "logs/a.txt",
        "input": {"size": 8, "md5": hashlib.md5(DATA).hexdigest()},
        "exit_code": 0,
        "node": "tvm-1",
        "task": "task7",
        "outputs": [],
        "stdout": 3,
        "stderr": 0,
    }


def test_the_record_says_which_blob_without_md5_was_read(server: BlobServer) -> None:
    assert run(server, script("#!/bin/sh\n"), INPUT_MD5="", INPUT_ETAG="0x1").returncode == 0
    assert record(server)["input"] == {"size": 8, "md5": "", "etag": "0x1"}


def test_the_script_finds_its_input_and_no_token(server: BlobServer, folder: Path) -> None:
    done = run(server, script("#!/bin/sh\nenv\n"))
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["INPUT_FILE"] == str(folder / "input/a.txt")
    assert found["OUTPUT_DIR"] == str(folder / "output")
    assert found["INPUT_NAME"] == "logs/a.txt"
    assert found["AZ_BATCH_TASK_ID"] == "task7"
    assert not found.keys() & set(user_script.OURS)
    assert SAS not in done.stdout


def test_its_environment_is_hidden_from_processes_of_its_user() -> None:
    get_dumpable = "ctypes.CDLL(None).prctl(3)"
    code = f"import ctypes, user_script; user_script.hide_environment(); print({get_dumpable})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=RUN_FILE.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["{input}"]),
        (["--level", "a b"], ["--level", "a b", "{input}"]),
        (["--in={input}", "-o", "{output_dir}/{stem}.csv"], ["--in={input}", "-o", "{output_dir}/a.csv"]),
        (["{name}"], ["logs/a.txt", "{input}"]),
        (["{{input}}", "{print $1}", "{other}"], ["{{input}}"[1:-1], "{print $1}", "{other}", "{input}"]),
    ],
)
def test_placeholders_are_filled_in_and_the_input_comes_last(arguments: list[str], expected: list[str]) -> None:
    values = {"input": "/wd/input/a.txt", "output_dir": "/wd/output", "name": "logs/a.txt", "stem": "a"}
    filled = user_script.fill_in(arguments, values)
    literal = arguments[:1] == ["{{input}}"]
    known = {name: value for name, value in values.items() if name in ("input", "output_dir")}
    wanted = [
        each if literal and at == 0 else each.replace("{input}", known["input"]) for at, each in enumerate(expected)
    ]
    assert filled == [each.replace("{output_dir}", known["output_dir"]) for each in wanted]


@pytest.mark.parametrize(("ends", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("exit 200", 200)])
def test_the_exit_code_is_the_scripts_and_nothing_is_stored(server: BlobServer, ends: str, code: int) -> None:
    done = run(server, script(f'#!/bin/sh\necho x > "$OUTPUT_DIR/x"\n{ends}\n'))
    assert (done.returncode, server.requests) == (code, [])


def test_python_and_shell_need_no_first_line_and_no_permission(server: BlobServer) -> None:
    for name, text in (("a.py", "print('python')"), ("a.sh", "echo shell")):
        Path(name).write_text(text)
    assert run(server, str(Path("a.py").resolve())).stdout == "python\n"
    assert run(server, str(Path("a.sh").resolve())).stdout == "shell\n"


def test_a_script_that_cannot_be_started_is_named_with_the_reason(server: BlobServer) -> None:
    done = run(server, script("#!/no/such/interpreter\n"))
    assert done.returncode == 126
    assert done.stderr.endswith(
        "cannot be started: No such file or directory; its interpreter /no/such/interpreter is not on this node\n"
    )
    assert server.requests == []


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"INPUT_SIZE": "9"}, "expected 9 bytes with MD5 {md5}, found 8 bytes with MD5 {md5}"),
        ({"INPUT_MD5": "0" * 32}, "expected 8 bytes with MD5 " + "0" * 32 + ", found 8 bytes with MD5 {md5}"),
        (
            {"INPUT_NAME": "none", "INPUT_FILE": "input/none", "INPUT_MD5": ""},
            "expected 8 bytes, found nothing (No such file or directory)",
        ),
    ],
)
def test_an_input_that_is_not_what_was_uploaded_fails_with_73(
    server: BlobServer, changed: dict[str, str], found: str
) -> None:
    done = run(server, script("#!/bin/sh\necho ran\n"), **changed)
    assert (done.returncode, done.stdout, server.requests) == (73, "", [])
    assert done.stderr.endswith(f"is not what was uploaded: {found.format(md5=hashlib.md5(DATA).hexdigest())}\n")


def test_an_input_without_known_md5_is_checked_by_its_size(server: BlobServer) -> None:
    assert run(server, script("#!/bin/sh\n"), INPUT_MD5="").returncode == 0
    assert run(server, script("#!/bin/sh\n"), INPUT_MD5="", INPUT_SIZE="7").returncode == 73


@pytest.mark.parametrize("name", ["logs/two words.txt", "logs/\udce9\n.log", "logs/'quoted' $HOME.txt"])
def test_the_input_has_its_own_name_on_the_node(server: BlobServer, folder: Path, name: str) -> None:
    done = run(server, script('#!/bin/sh\ncp "$1" "$OUTPUT_DIR/copy" && ls -1 input | wc -l\n'), name=name)
    assert done.returncode == 0, done.stderr
    assert os.listdir(os.fsencode(folder / "input")) == [os.fsencode(name.partition("/")[2])]
    assert stored(server)["outputs/logs/a.txt/copy"] == DATA


def test_a_batch_task_that_runs_again_starts_with_an_empty_output_folder(server: BlobServer) -> None:
    again = script('#!/bin/sh\nls "$OUTPUT_DIR"; echo x > "$OUTPUT_DIR/x"\n')
    for _ in range(2):
        done = run(server, again, name="logs/b.txt")
        assert (done.returncode, done.stdout) == (0, "")


def test_packages_and_modules_of_the_start_task_are_found(server: BlobServer, tmp_path: Path) -> None:
    beside = tmp_path / "shared"
    (beside / "env/bin").mkdir(parents=True)
    (beside / "modules").mkdir()
    (beside / "modules/ours.py").write_text("name = 'ours'\n")
    (beside / "env/bin/python").symlink_to(sys.executable)
    (beside / "env/bin/a-tool").write_text("#!/bin/sh\necho tool\n")
    (beside / "env/bin/a-tool").chmod(0o755)
    for each in OUR_SCRIPTS.values():
        shutil.copy(each, beside)
    text = "#!/usr/bin/env python3\nimport ours, subprocess, sys\nprint(ours.name, sys.executable, flush=True)\n"
    path = script(text + "subprocess.check_call(['a-tool'])\n", "uses.py")
    environment = {"INPUT_NAME": "a.txt", "INPUT_SIZE": "8", "INPUT_MD5": "", "INPUT_FILE": "input/a.txt"}
    urls = {"OUTPUT_URL": server.endpoint, "OUTPUT_PREFIX": "o", "RECORD_URL": f"{server.endpoint}/out/records/a.json"}
    tokens = {"OUTPUT_SAS_TOKEN": SAS, "RECORD_SAS_TOKEN": SAS, "PATH": os.environ["PATH"]}
    tokens["AZ_BATCH_NODE_SHARED_DIR"] = str(beside)
    done = subprocess.run(
        [sys.executable, str(beside / "run_file.py"), path],
        env={**environment, **urls, **tokens}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"ours {beside}/env/bin/python\ntool\n", done.stderr


def test_small_outputs_are_in_the_record_too(server: BlobServer) -> None:
    text = '#!/bin/sh\ncd "$OUTPUT_DIR" && : > empty && printf 12345 > large && printf 1234 > small\n'
    assert run(server, script(text), OUTPUT_INLINE="4").returncode == 0
    blobs = stored(server)
    assert [blobs[f"outputs/logs/a.txt/{name}"] for name in ("empty", "large", "small")] == [b"", b"12345", b"1234"]
    found = FileRecord.parse(blobs["records/logs/a.txt.json"])
    assert contents(found) == {"empty": b"", "small": b"1234"}
    assert [each.blob for each in found.record.outputs] == [
        f"outputs/logs/a.txt/{n}" for n in ("empty", "large", "small")
    ]


def test_a_record_has_no_more_than_4_mib_of_outputs(server: BlobServer) -> None:
    text = '#!/bin/sh\ncd "$OUTPUT_DIR" && for n in 1 2 3; do head -c 2097152 /dev/zero > $n; done\n'
    assert run(server, script(text), OUTPUT_INLINE=str(3 << 20)).returncode == 0
    found = FileRecord.parse(stored(server)["records/logs/a.txt.json"])
    assert (list(found.contents), len(found.record.outputs)) == (["1", "2"], 3)


# --- the upload -------------------------------------------------------------------------------------------


def test_a_large_output_goes_in_blocks_with_its_whole_md5(
    server: BlobServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(blob_requests, "LARGEST_PUT", 4)
    monkeypatch.setattr(blob_requests, "BLOCK", 3)
    (tmp_path / "large").write_bytes(b"0123456789")
    found = blob_requests.store(f"{server.endpoint}/out/large", SAS, "large")
    assert found == (10, hashlib.md5(b"0123456789").hexdigest())
    assert [body for _, _, body in server.requests[:-1]] == [b"012", b"345", b"678", b"9"]
    path, headers, body = server.requests[-1]
    assert path == f"/account/out/large?comp=blocklist&{SAS}"
    assert body.count(b"<Latest>") == 4
    assert headers["x-ms-blob-content-md5"] == base64.b64encode(hashlib.md5(b"0123456789").digest()).decode()


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_upload_that_may_pass_is_tried_again(server: BlobServer, status: int) -> None:
    server.answers = [(status, {"Retry-After": "0", "x-ms-error-code": "ServerBusy"}, b"")] * 2
    done = run(server, script('#!/bin/sh\necho abc > "$OUTPUT_DIR/x"\n'))
    assert done.returncode == 0
    assert [body for _, _, body in server.requests[:3]] == [b"abc\n"] * 3
    assert done.stderr.splitlines()[1] == f"Upload attempt 2 failed (HTTP {status} ServerBusy); next in 0.0 s"


def test_an_upload_that_cannot_pass_fails_at_once_with_74(server: BlobServer) -> None:
    server.answers = [(403, {"x-ms-error-code": "AuthorizationFailure"}, SAS.encode())]
    done = run(server, script('#!/bin/sh\necho abc > "$OUTPUT_DIR/x"\n'))
    assert (done.returncode, len(server.requests)) == (74, 1)
    assert done.stderr.startswith(f"Upload to {server.endpoint}/out/outputs/logs/a.txt/x failed: HTTP 403")


def test_a_service_that_stays_busy_fails_after_five_attempts(server: BlobServer) -> None:
    server.answers = [(503, {"Retry-After": "0"}, b"<Error><Code>ServerBusy</Code></Error>")] * 9
    done = run(server, script("#!/bin/sh\n"))
    assert (done.returncode, len(server.requests)) == (74, 5)
    assert done.stderr.splitlines()[-1].endswith("/records/logs/a.txt.json failed: HTTP 503 ServerBusy.")


def test_pauses_double_while_nobody_answers() -> None:
    pauses: list[float] = []
    with pytest.raises(blob_requests.Failure, match="Connection refused") as stopped:
        blob_requests.put("http://127.0.0.1:1/c/b", SAS, b"x", 1, {}, sleep=pauses.append)
    assert "sig=" not in str(stopped.value)
    for nominal, pause in zip((1, 2, 4, 8), pauses, strict=True):
        assert nominal * 0.5 <= pause <= nominal * 1.5


@pytest.fixture
def no_connections() -> Iterator[None]:
    blob_requests.connections.clear()
    yield
    for connection, _, _ in blob_requests.connections.values():
        connection.close()
    blob_requests.connections.clear()


@pytest.mark.usefixtures("no_connections")
def test_requests_share_a_connection_and_one_that_was_closed_is_opened_again(server: BlobServer) -> None:
    for number in range(3):
        blob_requests.put(f"{server.endpoint}/c/{number}", SAS, b"x", 1, {}, sleep=lambda _: pytest.fail("paused"))
    assert server.connections == 1
    server.hangs_up = True
    for number in range(3, 6):
        blob_requests.put(f"{server.endpoint}/c/{number}", SAS, b"x", 1, {}, sleep=lambda _: pytest.fail("paused"))
    assert len(server.requests) == 6


@pytest.mark.usefixtures("no_connections")
def test_a_proxy_of_the_environment_is_used(server: BlobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "near.example")
    blob_requests.put("http://far.example/c/b", SAS, b"x", 1, {})
    path, headers, _ = server.requests[0]
    assert path == f"http://far.example/c/b?{SAS}"
    assert headers["host"] == "far.example"
    assert headers["proxy-authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    blob_requests.put(f"{server.endpoint}/c/b", SAS, b"x", 1, {})
    assert server.requests[1][0] == f"/account/c/b?{SAS}"
    with pytest.raises(blob_requests.Failure, match=r"^Upload to http://near\.example/c/b failed: "):
        blob_requests.put("http://near.example/c/b", SAS, b"x", 1, {}, sleep=lambda _: None)


@pytest.mark.usefixtures("no_connections")
def test_a_proxy_is_asked_for_a_tunnel_to_https(server: BlobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{server.server_port}")
    with pytest.raises(blob_requests.Failure, match=r"Tunnel connection failed: 501 ") as stopped:  # of this server
        blob_requests.put("https://far.example/c/b", SAS, b"x", 1, {}, sleep=lambda _: None)
    assert "sig=" not in str(stopped.value)


@pytest.mark.usefixtures("no_connections")
def test_certificates_are_verified_with_those_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = self_signed(tmp_path)
    with serving(tls=(certificate, key)) as server:
        with pytest.raises(blob_requests.Failure, match="CERTIFICATE_VERIFY_FAILED"):
            blob_requests.put(f"{server.endpoint}/c/b", SAS, b"x", 1, {}, sleep=lambda _: None)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        blob_requests.connections.clear()
        blob_requests.put(f"{server.endpoint}/c/b", SAS, b"x", 1, {})
        assert server.blobs["/account/c/b"] == b"x"


def test_a_long_path_of_an_output_has_a_name_that_azure_takes() -> None:
    long = "/".join(["é" * 60] * 10)
    names = {one_file.blob_name(long + end) for end in ("", "x")}
    assert len(names) == 2
    assert {len(name) for name in names} == {192}


def test_node_scripts_import_each_other_and_python_3_8() -> None:
    for path in OUR_SCRIPTS.values():
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules = {Path(name).stem for name in OUR_SCRIPTS} - {"run_file"}
        assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names | modules


def test_every_node_script_is_brought_to_the_nodes() -> None:
    others = {"top_words.py", "set_up_node.py"}  # which only some runs bring
    assert {path.name for path in NODE_SCRIPTS.glob("*.py")} == {*OUR_SCRIPTS, *others}


@pytest.mark.parametrize("option", ["-S", "-I"])  # -I: as PYTHONSAFEPATH in a container image
@pytest.mark.parametrize("name", ["json.py", "base64.py", "subprocess.py"])
def test_a_script_may_have_the_name_of_a_module_of_python(
    server: BlobServer, tmp_path: Path, name: str, option: str
) -> None:
    for path in OUR_SCRIPTS.values():
        shutil.copy(path, tmp_path)
    done = run(server, script("#!/bin/sh\necho ran\n", name), python=(option, str(tmp_path / RUN_FILE.name)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
