"""What was run over a file, as far as it decides the outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.inputs.content import Content, new_md5
from tasks.run.records import Record


@dataclass(frozen=True, kw_only=True)
class Program:
    """The digests of a script and of all that it is given besides its input file."""

    script: str = ""
    arguments: str = ""

    @classmethod
    def of(cls, script: Path, arguments: Sequence[str], *more: str) -> Program:
        """`more` are the digests of what else the script finds on a node."""
        given = json.dumps([list(arguments), *more]).encode()
        return cls(script=Content.of(script).md5.hex(), arguments=new_md5(given).hexdigest())

    def as_values(self) -> dict[str, str]:
        """The arguments of Program."""
        return {"script": self.script, "arguments": self.arguments}

    def in_container(self, image: str | None) -> Program:
        """The same in a container image, which decides the outputs too; None: in none."""
        if not image:
            return self
        return replace(self, arguments=new_md5(f"{self.arguments} {image}".encode()).hexdigest())


NO_PROGRAM = Program()


_program = lru_cache(maxsize=16)(Program)  # one object for very many files


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A file whose outputs are there, and what they were made of."""

    content: str  # of the input file, see UploadedFile.content
    program: Program = NO_PROGRAM
    record: Record

    @classmethod
    def of(cls, values: dict[str, Any]) -> Done:
        """Raises ValueError where `as_values` has not written that."""
        try:
            return cls(
                content=str(values["content"]),
                program=_program(**values["program"]),
                record=Record.of(values["record"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None

    def as_values(self) -> dict[str, Any]:
        return {
            "content": self.content,
            "program": self.program.as_values(),
            "record": self.record.as_values(),
        }
