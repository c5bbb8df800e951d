"""Which input files one Batch task processes: one, or many small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

GROUPS_PER_SLOT = 8  # at least, so that all slots end at about the same time
MOST_FILES = 500
LARGEST_FILE = 1 << 20  # bytes; a larger one is alone
LARGEST_GROUP = 8 << 20  # bytes
SECONDS = 20.0  # of assumed work in a group
_SECONDS_PER_FILE, _BYTES_PER_SECOND = 0.04, 5e6  # assumed


class HasSize(Protocol):
    """What is known of an input file."""

    @property
    def size(self) -> int: ...

    @property
    def task_id(self) -> str: ...


F = TypeVar("F", bound=HasSize)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group(Generic[F]):
    """The input files of one Batch task."""

    id: str  # of the Batch task
    files: tuple[F, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)


def form(files: Sequence[F], *, slots: int, files_per_task: int | None = None) -> list[Group[F]]:
    """Group the files, in their order; the same files always give the same groups.

    slots: how many Batch tasks can run at once.

    files_per_task: the most in a group, whatever work they are assumed to be; None: chosen from sizes and slots.
    """
    small = sum(file.size <= LARGEST_FILE for file in files)
    even = -(-small // (GROUPS_PER_SLOT * max(1, slots)))
    most = files_per_task or min(MOST_FILES, even)
    longest = float("inf") if files_per_task else SECONDS
    groups: list[Group[F]] = []
    members: list[F] = []
    size, seconds = 0, 0.0

    def close() -> None:
        nonlocal members, size, seconds
        if members:
            groups.append(Group(id=members[0].task_id, files=tuple(members)))
        members, size, seconds = [], 0, 0.0

    for file in files:
        alone = file.size > LARGEST_FILE
        needs = _SECONDS_PER_FILE + file.size / _BYTES_PER_SECOND
        if alone or len(members) >= most or size + file.size > LARGEST_GROUP or seconds + needs > longest:
            close()
        members.append(file)
        size, seconds = size + file.size, seconds + needs
        if alone:
            close()
    close()
    return groups
