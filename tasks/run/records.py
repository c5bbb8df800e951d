"""The record that a Batch task leaves of its input file: each output with its length and MD5. It is written last."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from tasks.inputs.names import blob_name

RECORDS = "records"  # the virtual directories of the output container
OUTPUTS = "outputs"  # unless they go to a container of the user's


def record_blob(name: str) -> str:
    """The blob of the output container that has the record of the input file of that name."""
    return f"{RECORDS}/{blob_name(name)}.json"


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that a script has left in its OUTPUT_DIR."""

    path: str  # in that folder
    blob: str  # its name in its container
    size: int  # bytes
    md5: str  # hexadecimal


@dataclass(frozen=True, kw_only=True)
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
                md5=str(each["md5"]),
            )
            for each in values["outputs"]
        ]
        return cls(
            outputs=tuple(outputs),
            exit_code=int(values["exit_code"]),
            node=str(values["node"]),
            task=str(values["task"]),
            seconds=float(values["seconds"]),
            stdout=int(values["stdout"]),
            stderr=int(values["stderr"]),
        )

    def as_values(self) -> dict[str, Any]:
        """What `of` reads."""
        return {**asdict(self), "outputs": [{**asdict(each), "path": quoted(each.path)} for each in self.outputs]}


def quoted(name: str) -> str:
    """The name in ASCII, percent-encoded, whatever bytes it has."""
    return quote(os.fsencode(name))
