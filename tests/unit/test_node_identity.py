"""A Batch task that reads and stores blobs with the managed identity of its pool: no SAS reaches the node."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import blob_requests
import node_identity
import run_file
from tests.support.blob_server import UNAUTHORIZED, BlobServer, serving

IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
HEADER = "only-this-node-knows"
DATA = b"one\ntwo\n"


class IdentityServer(ThreadingHTTPServer):
    """An identity endpoint, as azure-identity knows it; each token is another, and the blob server takes them."""

    def __init__(self, blobs: BlobServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs = blobs
        self.asked: list[dict[str, list[str]]] = []
        self.status = 200
        self.lifetime = 3600

    @property
    def environment(self) -> dict[str, str]:
        endpoint = f"http://127.0.0.1:{self.server_port}/msi/token"
        return {"NODE_IDENTITY": IDENTITY, "IDENTITY_ENDPOINT": endpoint, "IDENTITY_HEADER": HEADER}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, IdentityServer)
        assert server.blobs.tokens is not None
        server.asked.append(parse_qs(urlsplit(self.path).query))
        status = server.status if self.headers["X-IDENTITY-HEADER"] == HEADER else 401
        token = f"secret-token-{len(server.asked)}"
        answer = {"access_token": token, "expires_on": str(1_000 + server.lifetime), "token_type": "Bearer"}
        if status == 200:
            server.blobs.tokens.add(token)
        else:
            answer = {"error": "invalid_request", "error_description": "Identity not found"}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def blobs() -> Iterator[BlobServer]:
    with serving() as server:
        server.tokens = set()
        yield server


@pytest.fixture
def identity(blobs: BlobServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[IdentityServer]:
    server = IdentityServer(blobs)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(node_identity, "tokens", {})
    monkeypatch.setattr(blob_requests, "connections", {})
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def token(now: float) -> str:
    return node_identity.token(IDENTITY, 73, clock=lambda: now)


def put(blobs: BlobServer) -> int:
    return blob_requests.put_json(f"{blobs.endpoint}/out/record", "", b"{}")


def test_a_batch_task_stores_its_outputs_with_one_token(
    blobs: BlobServer, identity: IdentityServer, tmp_path: Path
) -> None:
    identity.lifetime = 1 << 40
    (tmp_path / "a.txt").write_bytes(DATA)
    script = tmp_path / "script.sh"
    script.write_text('wc -l < "$1" > "$OUTPUT_DIR/lines"\n')
    environment = {
        **identity.environment,
        "PATH": os.environ["PATH"],
        "INPUT_FILE": "a.txt",
        "INPUT_NAME": "a.txt",
        "INPUT_SIZE": str(len(DATA)),
        "INPUT_MD5": hashlib.md5(DATA).hexdigest(),
        "OUTPUT_URL": f"{blobs.endpoint}/out",
        "OUTPUT_PREFIX": "outputs/a.txt",
        "RECORD_URL": f"{blobs.endpoint}/out/records/a.txt.json",
    }
    line = [sys.executable, "-S", str(Path(run_file.__file__).resolve()), str(script)]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path for path, _, _ in blobs.requests] == [
        "/account/out/outputs/a.txt/lines",
        "/account/out/records/a.txt.json",
    ]
    assert {headers["authorization"] for _, headers, _ in blobs.requests} == {"Bearer secret-token-1"}
    assert identity.asked == [
        {"api-version": ["2019-08-01"], "resource": ["https://storage.azure.com/"], "mi_res_id": [IDENTITY]}
    ]


def test_a_token_is_kept_until_shortly_before_its_end(identity: IdentityServer) -> None:
    assert [token(now) for now in (1_000, 4_299, 4_300)] == ["secret-token-1", "secret-token-1", "secret-token-2"]


def test_a_token_serves_to_its_end_while_no_other_can_be_had(identity: IdentityServer) -> None:
    assert token(1_000) == "secret-token-1"
    identity.status = 503
    assert token(4_599) == "secret-token-1"
    with pytest.raises(OSError, match=r"^no token of the managed identity: HTTP 503 "):
        token(4_600)
    identity.status = 200
    assert token(4_600) == "secret-token-4"


def test_a_token_that_is_refused_is_replaced_once(
    blobs: BlobServer, identity: IdentityServer, capsys: pytest.CaptureFixture[str]
) -> None:
    identity.lifetime = 1 << 40
    assert put(blobs) == 201
    blobs.tokens = set()
    assert put(blobs) == 201
    assert len(identity.asked) == 2
    assert "secret-token" not in capsys.readouterr().err
    blobs.answers = [UNAUTHORIZED] * 2
    with pytest.raises(blob_requests.Failure, match=r"HTTP 401 InvalidAuthenticationInfo"):
        put(blobs)


def test_an_identity_that_the_pool_has_not_fails_at_once(blobs: BlobServer, identity: IdentityServer) -> None:
    identity.status = 400
    with pytest.raises(blob_requests.Failure) as failure:
        put(blobs)
    assert failure.value.exit_code == blob_requests.UPLOAD_FAILED
    assert str(failure.value) == (
        f"No token of the managed identity {IDENTITY}: HTTP 400 invalid_request Identity not found. Add the identity "
        "to the pool, or leave node_identity out."
    )


def test_a_busy_identity_endpoint_is_asked_again(
    blobs: BlobServer, identity: IdentityServer, capsys: pytest.CaptureFixture[str]
) -> None:
    identity.status, identity.lifetime = 429, 1 << 40

    def recover(_: float) -> None:
        identity.status = 200

    url = f"{blobs.endpoint}/out/record"
    assert blob_requests.put(url, "", b"{}", 2, {}, sleep=recover) == 201
    said = capsys.readouterr().err
    assert said.startswith(
        "Upload attempt 1 failed (no token of the managed identity: HTTP 429 invalid_request Identity"
    )


@pytest.mark.parametrize(("method", "role"), [("PUT", "Contributor"), ("GET", "Reader")])
def test_a_missing_role_is_named(blobs: BlobServer, identity: IdentityServer, method: str, role: str) -> None:
    identity.lifetime = 1 << 40
    blobs.answers = [(403, {"x-ms-error-code": "AuthorizationPermissionMismatch"}, b"")]
    with pytest.raises(blob_requests.Failure) as failure:
        blob_requests.send(method, f"{blobs.endpoint}/out/x", "", headers={"Content-Length": "0"})
    assert str(failure.value).endswith(
        f"failed: HTTP 403 AuthorizationPermissionMismatch. The managed identity needs the role Storage Blob Data "
        f"{role} on the account: a new one takes minutes to apply."
    )


def test_a_sas_is_used_where_there_is_one(blobs: BlobServer, identity: IdentityServer) -> None:
    blobs.tokens = None
    assert blob_requests.put_json(f"{blobs.endpoint}/out/record", "sig=x", b"{}") == 201
    assert (identity.asked, "authorization" in blobs.requests[0][1]) == ([], False)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1.invalid"])
def test_no_token_is_sent_unencrypted(identity: IdentityServer, host: str) -> None:
    with pytest.raises(blob_requests.Failure, match=rf"^Upload to http://{host}/x failed: "):
        blob_requests.put(f"http://{host}/x", "", b"", 0, {}, sleep=lambda _: None)
    assert identity.asked == []


def test_on_a_node_of_azure_the_metadata_service_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
    url, body, headers = node_identity.where(IDENTITY)
    assert url.partition("?")[0] == "http://169.254.169.254/metadata/identity/oauth2/token"
    assert parse_qs(urlsplit(url).query) == {
        "api-version": ["2018-02-01"],
        "resource": ["https://storage.azure.com/"],
        "msi_res_id": [IDENTITY],
    }
    assert (body, headers) == (None, {"Metadata": "true"})
