"""One input file: checked, processed by the script, its outputs and its record stored."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import time
import urllib.parse
from contextlib import suppress
from datetime import datetime, timezone

from blob_requests import FETCH_FAILED, Failure, digest, put_json, store
from user_script import Script, exit_code, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Values = dict[str, Any]  # of a JSON object

LARGEST_LIST = 4 << 20  # bytes of records that wait to be stored, and of outputs in one record
# What a blob's name cannot have, or not keep, in every client; what comes after the first planes is rare enough.
ENCODED = re.compile("[^ -~\xa0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef\U00010000-\U0001fffd]|[%\\\\]|[. ](?=/|\\Z)")
LONGEST_NAME = 250  # of the 1,024 characters of a blob's name; the input's name takes up to 710


def process_one(script: Script) -> int:
    """The work of a Batch task with one input file."""
    env = os.environ
    file = {"name": env["INPUT_NAME"], "size": int(env["INPUT_SIZE"]), "md5": env.get("INPUT_MD5", "")}
    file["etag"], file["prefix"] = env.get("INPUT_ETAG", ""), env["OUTPUT_PREFIX"]
    name = name_of(file)
    path = with_own_name(env["INPUT_FILE"], name)
    check_input(path, env["INPUT_SIZE"], env.get("INPUT_MD5", ""))
    folder = empty("output")  # also of a Batch task that runs again
    began, at = datetime.now(timezone.utc), time.monotonic()
    process = script.start(values_of(path, folder, name))
    import urllib.request  # slow, and not needed before the script has ended

    assert urllib.request
    if status := exit_code(process.wait()):
        return status
    record = make_record(file, began, time.monotonic() - at)
    record["outputs"] = store_outputs(folder, file, inline=int(env.get("OUTPUT_INLINE") or 0), apart=True)
    record.update(stdout=written("stdout"), stderr=written("stderr"))
    put_json(env["RECORD_URL"], env.get("RECORD_SAS_TOKEN", ""), json.dumps(record).encode())
    return 0


def check_input(path: str, size: str, md5: str) -> None:
    """Raises Failure where the file is not what was uploaded, or what the blob was when the run began."""
    try:
        found = f"{os.path.getsize(path)} bytes", digest(path) if md5 else ""
    except OSError as error:
        found = f"nothing ({error.strerror})", ""
    if found != (f"{size} bytes", md5):
        kinds = " with MD5 ".join(filter(None, found)), f"{size} bytes" + (f" with MD5 {md5}" if md5 else "")
        raise Failure(f"{shown(path)} is not what was uploaded: expected {kinds[1]}, found {kinds[0]}", FETCH_FAILED)


def own_name(name: bytes) -> str:
    """The file's name where it comes from; empty where this file system does not take it."""
    own = name.rpartition(b"/")[2]
    return "" if own in (b"", b".", b"..") or b"\0" in own or len(own) > 255 else os.fsdecode(own)


def with_own_name(path: str, name: bytes) -> str:
    """The file under the name that it has where it comes from, as far as this file system takes it."""
    target = os.path.join(os.path.dirname(os.path.abspath(path)), own_name(name) or os.path.basename(path))
    if os.path.exists(path):  # of a Batch task that runs again it may have its name already
        os.replace(path, target)
    return target


def empty(name: str) -> str:
    """The path of an empty folder; one that exists is emptied, since to delete one takes milliseconds on some disks."""
    folder = os.path.abspath(name)
    if os.path.isdir(folder) and not os.path.islink(folder):
        for entry in os.scandir(folder):
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                import shutil  # slow, and seldom needed

                shutil.rmtree(entry.path, ignore_errors=True)
        if not os.listdir(folder):
            return folder
    if os.path.lexists(folder):
        os.rename(folder, f"{folder}-{time.time_ns()}")
    os.makedirs(folder)
    return folder


def values_of(path: str, output: str, name: bytes) -> dict[str, str]:
    """What stands for the placeholders."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return {"input": path, "output_dir": output, "name": os.fsdecode(name), "stem": stem}


def written(stream: str) -> int:
    """How many bytes the Batch task has written to stdout or stderr so far; 0 outside a node."""
    try:
        return os.path.getsize(os.path.join(os.environ.get("AZ_BATCH_TASK_DIR", ""), f"{stream}.txt"))
    except OSError:
        return 0


def outputs_in(folder: str) -> Iterator[str]:
    """The paths of all files, relative to the folder, in order; links to files count as files."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                yield os.path.relpath(path, folder)
            else:
                print(f"{shown(path)} is no file and is not kept", file=sys.stderr)


def blob_name(path: str) -> str:
    """The path as the name of a blob: what Azure would refuse or change is percent-encoded, a long one is digested."""
    text = os.fsencode(path).decode("utf-8", "surrogateescape")

    def encoded(found: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))

    name = ENCODED.sub(encoded, text)
    if len(name) <= LONGEST_NAME:
        return name
    return re.sub("%[0-9A-F]?$", "", name[:150]) + "%_" + hashlib.sha256(os.fsencode(path)).hexdigest()[:40]


def store_outputs(folder: str, file: Values, *, inline: int, apart: bool) -> list[Values]:
    """What the record says of the outputs; small ones are in it, and with `apart` they are stored as blobs too."""
    url, sas = os.environ["OUTPUT_URL"], os.environ.get("OUTPUT_SAS_TOKEN", "")
    outputs = []
    left = LARGEST_LIST
    for path in outputs_in(folder):
        full = os.path.join(folder, path)
        output: Values = {"path": urllib.parse.quote(os.fsencode(path)), "blob": ""}
        size = os.path.getsize(full)
        is_small = 0 < inline >= size <= left
        if is_small:
            left -= size
            with open(full, "rb") as opened:
                data = opened.read()
            output.update(size=len(data), md5=hashlib.md5(data).hexdigest(), data=base64.b64encode(data).decode())
        if apart or not is_small:
            output["blob"] = f"{file['prefix']}/{blob_name(path)}"
            output["size"], output["md5"] = store(f"{url}/{urllib.parse.quote(output['blob'])}", sas, full)
        outputs.append(output)
    return outputs


def name_of(file: Values) -> bytes:
    return urllib.parse.unquote_to_bytes(file["name"])


def input_of(file: Values) -> Values:
    """What is another where the content is another."""
    return {"size": file["size"], "md5": file["md5"], **({"etag": file["etag"]} if file.get("etag") else {})}


def make_record(file: Values, began: datetime, seconds: float) -> Values:
    return {
        "name": file["name"],
        "input": input_of(file),
        "exit_code": 0,
        "node": os.environ.get("AZ_BATCH_NODE_ID", ""),
        "task": os.environ.get("AZ_BATCH_TASK_ID", ""),
        "began": began.isoformat(timespec="milliseconds"),
        "seconds": round(seconds, 3),
        "outputs": [],
        "stdout": 0,
        "stderr": 0,
    }
