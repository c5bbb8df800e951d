"""Which inputs are new or have changed since their outputs were made, and why each of them is to be processed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from tasks.run.program import Done, Program


class Why(str, Enum):
    """Why an input is processed although only what is new was asked for."""

    NEW = "it has no outputs yet"
    CONTENT = "its content has changed"
    SCRIPT = "the script has changed"
    ARGUMENTS = "the arguments, packages or container image have changed"
    GONE = "its outputs are gone or have changed"


@dataclass(frozen=True, kw_only=True)
class ToRun:
    """What is done of a run's inputs, and why each of the others is processed, by name."""

    done: Mapping[str, Done]
    why: Mapping[str, Why]

    def __str__(self) -> str:
        counts = Counter(self.why.values())
        reasons = "; ".join(f"{counts[why]:,} because {why.value}" for why in Why if counts[why])
        return f"{len(self.done):,} skipped as done, {len(self.why):,} to process" + (f": {reasons}" if reasons else "")


def what_to_run(contents: Mapping[str, str], program: Program, made: Mapping[str, Done], gone: set[str]) -> ToRun:
    """Decide about each input.

    contents: that of each input as it is now, by name. made: the outputs that are kept, by the input's name. gone: the
    names of those of them that are not all there any more.
    """
    why = {
        name: reason
        for name, content in contents.items()
        if (reason := _why(content, program, made.get(name), name in gone))
    }
    return ToRun(done={name: made[name] for name in contents if name not in why}, why=why)


def _why(content: str, program: Program, made: Done | None, gone: bool) -> Why | None:
    if made is None:
        return Why.NEW
    if made.content != content:
        return Why.CONTENT
    if made.program.script != program.script:
        return Why.SCRIPT
    if made.program != program:
        return Why.ARGUMENTS
    return Why.GONE if gone else None
