"""A group of files: each is processed, and recorded, as if it were alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import redirect_stderr, suppress
from datetime import datetime, timezone

from blob_requests import FETCH_FAILED, UPLOAD_FAILED, Failure, send
from group_records import Records, journal_path
from one_file import check_input, make_record, name_of, own_name, store_outputs, values_of
from script_runner import Interrupted, Limits, Runner
from user_script import CANNOT_START, Script, exit_code, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from one_file import Values

LONGEST_END = 64 << 10  # bytes of stdout and stderr in the record of a file of a group
TIMED_OUT = 124  # the exit code of a file of a group, as of timeout(1)
PROBLEMS = {FETCH_FAILED: "could not fetch", UPLOAD_FAILED: "could not upload", CANNOT_START: "could not start"}


def process_group(script: Script) -> int:
    """The exit code of the first file that is not done, or 0."""
    env = os.environ
    limits = Limits(float(env.get("FILE_SECONDS") or 0))
    runner = Runner(script, limits, isolate=env.get("ISOLATE") == "1")
    records = Records(env["RECORD_URL"], env.get("RECORD_SAS_TOKEN", ""), journal_path(script))
    with open(env["GROUP_FILE"], "rb") as bundle:
        files = members_of(bundle, env["GROUP_MEMBERS"])
        records.restore(int(env.get("RECORDS_FROM") or 0))
        try:
            with suppress(Interrupted):
                # Files at which the Batch task has died before come last, so that they take no other along.
                for file in sorted(files, key=records.deaths):
                    if not records.is_done(file):
                        process_member(file, bundle, runner, records)
            records.store()
        finally:
            runner.close()
            records.close()
    if limits.ending:
        return 128 + signal.SIGTERM
    records.forget()
    return next((code for code in map(records.exit_code_of, files) if code), 0)


def process_member(file: Values, bundle: BinaryIO, runner: Runner, records: Records) -> None:
    """Raises Interrupted where the Batch task is to end."""
    if runner.limits.ending:
        raise Interrupted
    begins = {name: size_of(stream) for name, stream in runner.streams.items()}
    deaths = records.deaths(file)
    if deaths:
        records.store()
    if deaths < 2:
        records.begin(file)
        with redirect_stderr(runner.notes):
            record = attempt(file, bundle, runner)
    else:
        print("the Batch task has ended twice while it was at this file", file=runner.notes)
        record = make_record(file, datetime.now(timezone.utc), 0.0)
        record.update(exit_code=exit_code(-signal.SIGKILL), problem=f"killed by signal {int(signal.SIGKILL)}")
    if record is None:
        records.stop(file)
        raise Interrupted
    for name, stream in runner.streams.items():
        record[name], last = show(stream, begins[name], getattr(sys, name).buffer, shown(os.fsdecode(name_of(file))))
        if last:
            record[f"{name}_end"] = last
    records.end(record)


def attempt(file: Values, bundle: BinaryIO, runner: Runner) -> Values | None:
    """The record of the file, also where it has failed; None where the Batch task is to end."""
    began, at, seconds = datetime.now(timezone.utc), time.monotonic(), None
    outputs: list[Values] = []
    try:
        inputs, folder, output = runner.folders()
        path = os.path.join(inputs, own_name(name_of(file)) or "input")
        fetch(file, bundle, path)
        at = time.monotonic()
        status = runner.run(values_of(path, output, name_of(file)), folder)
        seconds = time.monotonic() - at
        code, problem = exit_code(status), f"killed by signal {-status}" if status < 0 else ""
        if not code:
            inline = int(os.environ.get("OUTPUT_INLINE") or 0)
            outputs = store_outputs(output, file, inline=inline, apart=False)
    except Interrupted:
        if runner.limits.ending:
            return None
        code, problem = TIMED_OUT, "timed out"
    except Failure as failure:
        code, problem = failure.exit_code, PROBLEMS[failure.exit_code]
        print(failure, file=sys.stderr)
    except OSError as error:
        code = FETCH_FAILED if seconds is None else UPLOAD_FAILED
        problem = PROBLEMS[code]
        print(f"{shown(str(error.filename or file['name']))}: {error.strerror}", file=sys.stderr)
    record = make_record(file, began, time.monotonic() - at if seconds is None else seconds)
    record.update(exit_code=code, outputs=outputs, **({"problem": problem} if code else {}))
    return record


def members_of(bundle: BinaryIO, chosen: str) -> list[Values]:
    """The files that are to be processed, each with the place where it begins in the bundle."""
    try:
        files: list[Values] = json.loads(bundle.readline())["files"]
        at = bundle.tell()
        for file in files:
            file["at"] = at
            at += 0 if file.get("url") else file["size"]
        ranges = [part.partition("-") for part in chosen.split(",")]
        return [files[index] for low, _, high in ranges for index in range(int(low), int(high or low) + 1)]
    except (ValueError, LookupError, TypeError) as error:
        raise Failure(f"GROUP_FILE is no list of files ({type(error).__name__})", FETCH_FAILED) from None


def fetch(file: Values, bundle: BinaryIO, path: str) -> None:
    """Put the file there. Raises Failure."""
    if file.get("url"):
        match = {"If-Match": f'"{file["etag"]}"'} if file.get("etag") and not file["md5"] else {}
        url, _, sas = file["url"].partition("?")
        data = send("GET", url, sas, headers=match)[1]
    else:
        bundle.seek(file["at"])
        data = bundle.read(file["size"])
    with open(path, "wb") as target:
        target.write(data)
    check_input(path, str(file["size"]), file["md5"])


def size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def show(source: BinaryIO, begin: int, target: BinaryIO, name: str) -> tuple[int, str]:
    """Copy what was written for the file to the Batch task's own stream; its size, and its end as text."""
    import shutil

    size = size_of(source) - begin
    if size <= 0:
        return 0, ""
    source.seek(begin)
    target.write(f"--- {name}\n".encode())
    shutil.copyfileobj(source, target)
    source.seek(begin + max(0, size - LONGEST_END))
    last = source.read(LONGEST_END)
    target.write(b"" if last.endswith(b"\n") else b"\n")
    target.flush()
    if size > LONGEST_END:  # not the rest of a line: nobody could see of a part of a secret that it is one
        last = last.partition(b"\n")[2] or last
    return size, last.decode("utf-8", "surrogateescape")
