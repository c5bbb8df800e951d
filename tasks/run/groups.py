"""Which input files one Batch task processes: one, or many small ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

GROUPS_PER_SLOT = 8  # so that all slots end at about the same time
_STARTS_COUNT = 8  # with more files than this in each group, half as many groups of up to
_FILES_OF_HALF = 40  # files: what one more group costs to start is more than what it evens out
MOST_FILES = 500
MOST_FILES_PER_TASK = 1000  # where a number is asked for
LARGEST_FILE = 1 << 20  # bytes; a larger one is alone
LARGEST_GROUP = 8 << 20  # bytes
SECONDS = 20.0  # of assumed work in a group
_SECONDS_PER_FILE, _BYTES_PER_SECOND = 0.04, 5e6  # assumed


class HasSize(Protocol):
    """What is known of an input file."""

    @property
    def name(self) -> str: ...

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

    @property
    def label(self) -> str:
        """Such as "a.txt and 311 more"."""
        return label(self.files)


def label(files: Sequence[HasSize]) -> str:
    """Names the files: one by its name, of more the first with the number of the others."""
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return f"{files[0].name}{more}"


def grouped(files: Iterable[F]) -> list[Group[F]]:
    """The groups of files that have the id of their group's Batch task and stand in their order."""
    return [Group(id=id, files=tuple(members)) for id, members in groupby(files, attrgetter("task_id"))]


def form(files: Sequence[F], *, slots: int, files_per_task: int | None = None) -> list[Group[F]]:
    """Group the files, in their order; the same files always give the same groups.

    slots: how many Batch tasks can run at once.

    files_per_task: the most in a group, whatever work they are assumed to be; None: chosen from sizes and slots.
    """
    small = sum(file.size <= LARGEST_FILE for file in files)
    most = files_per_task or min(MOST_FILES, _even(small, max(1, slots)))
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


def _even(files: int, slots: int) -> int:
    """How many of these small files a group has at most, so that all slots end at about the same time."""
    even = ceil(files / (GROUPS_PER_SLOT * slots))
    return even if even <= _STARTS_COUNT else max(even, min(_FILES_OF_HALF, 2 * even))


def as_ranges(indices: Iterable[int]) -> str:
    """Ascending indices as text, such as "0-4,7"."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)


def parse_ranges(text: str) -> frozenset[int]:
    """What `as_ranges` has written; nothing where it is something else."""
    if not re.fullmatch(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", text):
        return frozenset()
    ends = [(int(first), int(last or first)) for first, _, last in (each.partition("-") for each in text.split(","))]
    return frozenset(index for first, last in ends for index in range(first, last + 1))
