"""What became of the files of a group: a journal on the node, lists in the output container."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress

from blob_requests import EXISTS, digest, put_json, send
from one_file import LARGEST_LIST, input_of
from user_script import OURS, Script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from one_file import Values

STORED_EVERY = 5.0  # seconds, of a group's records: what a Batch task that is killed has done since is done again


def journal_path(script: Script) -> str:
    """The journal of a Batch task that is given just this, where it is found by a retry in a new working directory."""
    given = [os.environ.get(name, "") for name in (*OURS, "AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_ID")]
    with suppress(OSError):
        given.append(digest(script.path))
    id = hashlib.sha256(os.fsencode("\n".join([*given, *script.arguments]))).hexdigest()[:32]
    shared = os.environ.get("AZ_BATCH_NODE_SHARED_DIR", "")
    return os.path.join(shared if os.access(shared, os.W_OK) else "", f"journal-{id}")


class Records:
    """What became of the files of a group: in a journal on the node, and in lists in the output container.

    A Batch task that dies leaves in the journal the records that it had not stored, and at which file it was.
    """

    def __init__(self, url: str, sas: str, journal: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._sas = url, sas
        self._clock = clock
        self._stored = clock()
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._last: dict[str, Values] = {}  # of each file, without its outputs
        self._deaths: dict[str, int] = {}
        self._path = journal
        self._next = 0

    def restore(self, first: int) -> None:
        """Read the lists, from the first of this Batch task on, and the journal."""
        self._next = first
        known = set()
        while True:
            status, data = send("GET", f"{self._url}/{self._next:05}.json", self._sas, expected=(404,))
            if status == 404:
                break
            self._next += 1
            with suppress(ValueError):
                for record in json.loads(data):
                    self._note(record)
                    known.add((record["name"], record["began"]))
        self._journal = open(self._path, "ab+", buffering=0)  # noqa: SIM115  # as long as this process
        self._journal.seek(0)
        for line in self._journal:
            with suppress(ValueError):  # a line of which only the beginning was written
                for event, value in json.loads(line).items():
                    name = value["name"] if event == "ended" else value
                    self._deaths[name] = self._deaths.get(name, 0) + 1 if event == "began" else 0
                    if event == "ended" and (name, value["began"]) not in known:
                        self._add(value, json.dumps(value).encode())

    def _note(self, record: Values) -> None:
        self._last[record["name"]] = {name: record.get(name) for name in ("input", "exit_code", "problem")}

    def is_done(self, file: Values) -> bool:
        last = self._last.get(file["name"], {"exit_code": 1})
        return not last["exit_code"] and not last["problem"] and last["input"] == input_of(file)

    def exit_code_of(self, file: Values) -> int:
        return 0 if self.is_done(file) else self._last.get(file["name"], {}).get("exit_code") or 1

    def deaths(self, file: Values) -> int:
        """How often the Batch task has begun the file and not come to its end."""
        return self._deaths.get(file["name"], 0)

    def begin(self, file: Values) -> None:
        self._write(b'{"began": %s}' % json.dumps(file["name"]).encode())

    def stop(self, file: Values) -> None:
        """The file was begun and is to be begun again, through no fault of its own."""
        self._write(b'{"stopped": %s}' % json.dumps(file["name"]).encode())

    def end(self, record: Values) -> None:
        data = json.dumps(record).encode()
        self._write(b'{"ended": %s}' % data)
        self._add(record, data)
        if self._clock() - self._stored >= STORED_EVERY or self._bytes >= LARGEST_LIST:
            self.store()

    def _add(self, record: Values, data: bytes) -> None:
        self._note(record)
        self._waiting.append(data)
        self._bytes += len(data)

    def close(self) -> None:
        self._journal.close()

    def forget(self) -> None:
        """Delete the journal: all that it says is stored."""
        with suppress(OSError):
            os.unlink(self._path)

    def _write(self, entry: bytes) -> None:
        self._journal.write(b"\n" + entry)  # the line before may have no end

    def store(self) -> None:
        """Store what waits as the next list. Raises Failure."""
        if not self._waiting:
            return
        data = b"[" + b",\n".join(self._waiting) + b"]"
        # Another node that has been given this Batch task may have stored a list of this number.
        while put_json(url := f"{self._url}/{self._next:05}.json", self._sas, data, **{"If-None-Match": "*"}) in EXISTS:
            if send("GET", url, self._sas)[1] == data:  # the answer to an earlier attempt was lost
                break
            self._next += 1
        self._next += 1
        self._stored = self._clock()
        self._waiting.clear()
        self._bytes = 0
