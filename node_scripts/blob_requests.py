"""Requests to Blob Storage, over connections that are kept."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
import time
import urllib.parse
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPConnection
    from typing import Any, BinaryIO

STORAGE_VERSION = "2021-08-06"
SILENCE = 60.0  # seconds without an answer
ATTEMPTS = 5
LONGEST_PAUSE = 60.0  # seconds
LARGEST_PUT = 256 << 20  # bytes; what is larger goes in blocks
BLOCK = 64 << 20
FETCH_FAILED = 73  # the exit code for an input that is not what was uploaded; EX_CANTCREAT of sysexits.h
UPLOAD_FAILED = 74  # the exit code; EX_IOERR
EXISTS = (409, 412)  # the status for a blob that is there
ADVICE = {
    ("PUT", 403): "The SAS token has expired, or does not permit create and write in this container.",
    ("PUT", 404): "The container or the account does not exist.",
    ("GET", 403): "The SAS token has expired, or does not permit read.",
    ("GET", 412): "The blob has changed since the run began.",
}
NO_ROLE = "The managed identity needs the role Storage Blob Data {} on the account: a new one takes minutes to apply."
IDENTITY = "NODE_IDENTITY"  # the variable with the managed identity, where blobs are read and stored without a SAS


class Failure(Exception):
    """What fails a file, or the Batch task, with an exit code of this script's own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def digest(path: str) -> str:
    """MD5, hexadecimal."""
    found = hashlib.md5()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def store(url: str, sas: str, path: str, *, sleep: Callable[[float], None] = time.sleep) -> tuple[int, str]:
    """Upload the file; returns its size and its MD5, which the service has checked too."""
    size = os.path.getsize(path)
    md5 = digest(path)
    kept = base64.b64encode(bytes.fromhex(md5)).decode()
    if size <= LARGEST_PUT:
        with open(path, "rb") as file:
            put(url, sas, file, size, {"x-ms-blob-type": "BlockBlob", "Content-MD5": kept}, sleep=sleep)
        return size, md5
    ids = []
    with open(path, "rb") as file:
        for number, block in enumerate(iter(lambda: file.read(BLOCK), b"")):
            ids.append(base64.b64encode(f"{number:08}".encode()).decode())
            check = base64.b64encode(hashlib.md5(block).digest()).decode()
            where = f"{url}?comp=block&blockid={urllib.parse.quote(ids[-1], safe='')}"
            put(where, sas, block, len(block), {"Content-MD5": check}, sleep=sleep)
    blocks = "".join(f"<Latest>{id}</Latest>" for id in ids)
    body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()
    put(f"{url}?comp=blocklist", sas, body, len(body), {"x-ms-blob-content-md5": kept}, sleep=sleep)
    return size, md5


def put_json(url: str, sas: str, data: bytes, **headers: str) -> int:
    check = base64.b64encode(hashlib.md5(data).digest()).decode()
    headers = {"x-ms-blob-type": "BlockBlob", "Content-MD5": check, "Content-Type": "application/json", **headers}
    return put(url, sas, data, len(data), headers, expected=EXISTS if "If-None-Match" in headers else ())


def put(
    url: str,
    sas: str,
    body: bytes | BinaryIO,
    size: int,
    headers: dict[str, str],
    *,
    expected: tuple[int, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """The status, one of success or an expected one. Raises Failure for others, with a message without the SAS."""
    headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream", **headers}
    return send("PUT", url, sas, body, headers, expected=expected, sleep=sleep)[0]


def send(
    method: str,
    url: str,
    sas: str,
    body: bytes | BinaryIO = b"",
    headers: dict[str, str] | None = None,
    *,
    expected: tuple[int, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, bytes]:
    """One request. What may pass is tried again; the rest is a Failure, with a message without the SAS.

    Without a SAS it has a token of the node's managed identity, if there is one; no token leaves it unencrypted.
    """
    import http.client

    encrypted = url.startswith("https:") or is_loopback(url)
    identity = os.environ.get(IDENTITY, "") if encrypted and not sas else ""
    signed = f"{url}{'&' if '?' in url else '?'}{sas}" if sas else url
    headers = {"x-ms-version": STORAGE_VERSION, **(headers or {})}
    what, of, code = ("Upload", "to", UPLOAD_FAILED) if method == "PUT" else ("Download", "of", FETCH_FAILED)
    reason = advice = ""
    for attempt in range(1, ATTEMPTS + 1):
        pause = 2 ** (attempt - 1) * (0.5 + os.urandom(1)[0] / 255)  # with jitter
        try:
            if identity:
                from node_identity import token

                headers["Authorization"] = f"Bearer {token(identity, code)}"
            status, received, answer = exchange(method, signed, body, headers)
            if 200 <= status < 300 or status in expected:
                return status, answer
            error = received.get("x-ms-error-code") or error_code(answer)
            reason, advice = f"HTTP {status} {error}".rstrip(), ADVICE.get((method, status), "")
            if identity and status == 403:
                advice = NO_ROLE.format("Contributor" if method == "PUT" else "Reader")
            if identity and status == 401 and attempt == 1:  # the token has been revoked
                from node_identity import forget

                forget(identity)
                continue
            if status not in (408, 429) and status < 500 and error != "Md5Mismatch":
                break
            with suppress(ValueError):  # Retry-After may also be a date; the storage service sends seconds
                pause = float(received.get("Retry-After", ""))
        except OSError as failed:
            reason, advice = str(failed) or type(failed).__name__, ""
        except http.client.HTTPException as failed:
            reason, advice = type(failed).__name__, ""  # no more of it: it may quote the URL, and with it the SAS
        if attempt < ATTEMPTS:
            pause = min(max(pause, 0.0), LONGEST_PAUSE)
            print(f"{what} attempt {attempt} failed ({reason}); next in {pause:.1f} s", file=sys.stderr, flush=True)
            sleep(pause)
    raise Failure(f"{what} {of} {url.partition('?')[0]} failed: {reason}. {advice}".rstrip(), code)


def exchange(method: str, url: str, body: bytes | BinaryIO, headers: dict[str, str]) -> tuple[int, Any, bytes]:
    """Status, headers and body of the answer, over the connection that is kept to the host."""
    import http.client

    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if (scheme, host) not in connections:
        connections[scheme, host] = connect(scheme, host)
    connection, prefix, more = connections[scheme, host]
    while True:
        kept = connection.sock is not None
        try:
            if not isinstance(body, bytes):
                body.seek(0)
            connection.request(method, prefix + slash + path, body, {**headers, **more})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        except BaseException as error:
            connection.close()
            # The server ends connections that nobody has used for a while.
            if not kept or not isinstance(error, (ConnectionError, http.client.BadStatusLine)):
                raise


connections: dict[tuple[str, str], tuple[HTTPConnection, str, dict[str, str]]] = {}  # by scheme and host


def connect(scheme: str, host: str) -> tuple[HTTPConnection, str, dict[str, str]]:
    """A connection, through the proxy that the environment names; what paths begin with, and headers, on it."""
    import http.client
    import urllib.request

    proxy = urllib.request.getproxies().get(scheme, "")
    if is_loopback(f"{scheme}://{host}") or urllib.request.proxy_bypass(host):
        proxy = ""
    via = urllib.parse.urlsplit(proxy if "://" in proxy else f"//{proxy}")
    kind = http.client.HTTPSConnection if "https" in (scheme, via.scheme) else http.client.HTTPConnection
    connection = kind(via.netloc.rpartition("@")[2] or host, timeout=SILENCE, blocksize=1 << 20)
    headers = {}
    if via.username is not None:
        user = f"{urllib.parse.unquote(via.username)}:{urllib.parse.unquote(via.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    if scheme == "https" and proxy:
        connection.set_tunnel(host, headers=headers)
        return connection, "", {}
    return connection, f"http://{host}" if proxy else "", headers


def is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d+){3}", host))


def error_code(body: bytes) -> str:
    found = re.search(rb"<Code>(\w+)</Code>", body)
    return found.group(1).decode() if found else ""
