"""The record that a Batch task leaves of its input file: each output with its length and MD5. It is written last."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from tasks.inputs.names import blob_name

RECORDS = "records"  # the virtual directories of the output container
GROUPS = "groups"
OUTPUTS = "outputs"  # unless they go to a container of the user's


def record_blob(name: str) -> str:
    """The blob of the output container that has the record of the input file of that name."""
    return f"{RECORDS}/{blob_name(name)}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A file that a script has left in its OUTPUT_DIR."""

    path: str  # in that folder
    blob: str  # its name in its container; empty where its content is in the record alone
    size: int  # bytes
    md5: bytes  # as text it would take twice the memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a Batch task did with one input file."""

    outputs: Sequence[Output]
    exit_code: int = 0
    node: str = ""
    task: str = ""
    seconds: float = 0.0  # that the script ran
    stdout: int = 0  # bytes that it wrote there
    stderr: int = 0

    @classmethod
    def parse(cls, data: bytes | str) -> Record:
        """Read what run_file.py, or `to_json`, has written. Raises ValueError where it is no record."""
        try:
            return cls.of(json.loads(data))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no record of a Batch task ({type(error).__name__}: {error})") from None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Record:
        outputs = [
            Output(
                path=os.fsdecode(unquote_to_bytes(each["path"])),
                blob=str(each["blob"]),
                size=int(each["size"]),
                md5=bytes.fromhex(each["md5"]),
            )
            for each in values["outputs"]
        ]
        return cls(
            outputs=tuple(outputs),
            exit_code=int(values["exit_code"]),
            node=sys.intern(str(values["node"])),  # the same in very many
            task=sys.intern(str(values["task"])),
            seconds=float(values["seconds"]),
            stdout=int(values["stdout"]),
            stderr=int(values["stderr"]),
        )

    def as_values(self) -> dict[str, Any]:
        """What `of` reads."""
        # Not by asdict, which takes ten times as long.
        return {
            "outputs": [
                {"path": quoted(each.path), "blob": each.blob, "size": each.size, "md5": each.md5.hex()}
                for each in self.outputs
            ],
            "exit_code": self.exit_code,
            "node": self.node,
            "task": self.task,
            "seconds": self.seconds,
            "stdout": self.stdout,
            "stderr": self.stderr,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """A record as run_file.py has written it, with what it says of the input and of a failure.

    contents: of outputs that are in the record, by their path, in base64; see `inline`.

    problem: why a file of a group failed, where that is no exit code of its script; else empty.

    stdout_end, stderr_end: the end of what was written for a file of a group; bytes that are no text as surrogates.

    void: the client has found earlier outputs to be of no use: those in lists with numbers below `below`, or without
    that in all that were written before.
    """

    name: str
    size: int = 0  # bytes of the input
    md5: str = ""  # of the input, as far as it was known
    etag: str = ""
    record: Record = field(default_factory=lambda: Record(outputs=()))
    began: datetime | None = None
    contents: Mapping[str, str] = field(default_factory=dict, repr=False)
    problem: str = ""
    stdout_end: str = field(default="", repr=False)
    stderr_end: str = field(default="", repr=False)
    void: bool = False
    below: int | None = None

    @property
    def succeeded(self) -> bool:
        return not (self.void or self.problem or self.record.exit_code)

    @property
    def content(self) -> str:
        """What is another where the content of the input is another, see UploadedFile."""
        return self.md5 or self.etag

    def inline(self, output: Output) -> bytes | None:
        """The content of the output where the record has it; what is no base64 is empty, and so not that output's."""
        if (data := self.contents.get(output.path)) is None:
            return None
        try:
            return base64.b64decode(data, validate=True)
        except ValueError:
            return b""

    @classmethod
    def of(cls, values: dict[str, Any], *, contents: bool = True) -> FileRecord:
        """Raises ValueError where it is no record. With `contents`, it has those too, and what successes wrote."""
        try:
            name = os.fsdecode(unquote_to_bytes(values["name"]))
            if values.get("void"):
                return cls(name=name, void=True, below=values.get("below"))
            given, began = values["input"], values.get("began")
            record, problem = Record.of(values), str(values.get("problem", ""))
            with_ends = contents or problem or record.exit_code
            return cls(
                name=name,
                size=int(given["size"]),
                md5=str(given["md5"]),
                etag=str(given.get("etag", "")),
                record=record,
                began=datetime.fromisoformat(began) if began else None,
                contents=_contents(values["outputs"]) if contents else {},
                problem=problem,
                stdout_end=str(values.get("stdout_end", "")) if with_ends else "",
                stderr_end=str(values.get("stderr_end", "")) if with_ends else "",
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no record of a Batch task ({type(error).__name__}: {error})") from None

    @classmethod
    def parse(cls, data: bytes) -> FileRecord:
        """The record of a Batch task with one file. Raises ValueError where it is none."""
        return cls.of(json.loads(data))

    @classmethod
    def parse_list(cls, data: bytes, *, contents: bool = True) -> list[FileRecord]:
        """The records of files of a group. Raises ValueError where these are none."""
        found = json.loads(data)
        if not isinstance(found, list):
            raise ValueError("it is no list of records")
        found.reverse()
        records = []
        while found:  # of very many, what has been read is not kept
            records.append(cls.of(found.pop(), contents=contents))
        return records


def _contents(outputs: Sequence[dict[str, Any]]) -> dict[str, str]:
    found = ((each["path"], each.get("data")) for each in outputs)
    return {os.fsdecode(unquote_to_bytes(path)): str(data) for path, data in found if data is not None}


def quoted(name: str) -> str:
    """The name in ASCII, percent-encoded, whatever bytes it has."""
    return quote(os.fsencode(name))
