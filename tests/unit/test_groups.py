"""Which files are processed together, and how a Batch task's part of a group is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tasks.accounts.sources import SourceContainer
from tasks.errors import InputError
from tasks.inputs.addresses import SourceBlob
from tasks.inputs.files import InputFile, task_id
from tasks.resources.bundle import Entry, digest, pack
from tasks.run.groups import Group, as_ranges, form, label, parse_ranges
from tasks.run.parameters import refuse_bad_input

K, M = 1 << 10, 1 << 20


def files(sizes: Sequence[int]) -> list[InputFile]:
    return [
        InputFile(name=f"{at}.txt", size=size, source=f"{at}.txt", task_id=task_id(at)) for at, size in enumerate(sizes)
    ]


def lengths(groups: Sequence[Group[InputFile]]) -> list[int]:
    return [len(group.files) for group in groups]


def test_few_files_are_each_alone() -> None:
    assert lengths(form(files([2 * K] * 8), slots=1)) == [1] * 8
    assert lengths(form(files([2 * K] * 16), slots=2)) == [1] * 16
    assert lengths(form(files([2 * K] * 9), slots=1)) == [2, 2, 2, 2, 1]


def test_half_as_many_groups_are_made_of_up_to_40_files() -> None:
    assert lengths(form(files([2 * K] * 128), slots=2)) == [8] * 16
    assert lengths(form(files([2 * K] * 129), slots=2)) == [18] * 7 + [3]
    assert lengths(form(files([2 * K] * 300), slots=2)) == [38] * 7 + [34]
    assert lengths(form(files([2 * K] * 480), slots=2)) == [40] * 12
    assert lengths(form(files([2 * K] * 656), slots=2)) == [41] * 16


def test_many_files_make_many_more_groups_than_slots() -> None:
    assert lengths(form(files([2 * K] * 1000), slots=2)) == [63] * 15 + [55]
    assert lengths(form(files([2 * K] * 1000), slots=20)) == [7] * 142 + [6]


def test_a_group_has_at_most_about_20_seconds_of_work() -> None:
    assert lengths(form(files([2 * K] * 10_000), slots=1)) == [494] * 20 + [120]
    assert lengths(form(files([200] * 10_000), slots=1)) == [499] * 20 + [20]
    assert lengths(form(files([M] * 800), slots=1))[0] == 8  # 8 MiB


def test_groups_keep_the_order_and_are_named_by_their_first_file() -> None:
    groups = form(files([K] * 20), slots=1)
    assert [file.name for group in groups for file in group.files] == [f"{at}.txt" for at in range(20)]
    assert [group.id for group in groups] == [f"topNtask{at}" for at in (0, 3, 6, 9, 12, 15, 18)]
    assert (groups[0].size, groups[0].label, groups[6].label) == (3 * K, "0.txt and 2 more", "18.txt and 1 more")


def test_a_large_file_is_alone_also_where_a_number_is_asked_for() -> None:
    sizes = [K, K, M + 1, K, K, K]
    assert lengths(form(files(sizes), slots=1, files_per_task=3)) == [2, 1, 3]
    assert lengths(form(files([M] * 9), slots=1, files_per_task=100)) == [8, 1]


def test_a_number_that_is_asked_for_is_the_most() -> None:
    assert lengths(form(files([K] * 7), slots=100, files_per_task=3)) == [3, 3, 1]
    assert lengths(form(files([K] * 2000), slots=1, files_per_task=1000)) == [1000, 1000]
    assert lengths(form(files([K] * 100), slots=1, files_per_task=1)) == [1] * 100


@pytest.mark.parametrize(("number", "shown"), [(0, "0"), (-1, "-1"), (1001, "1,001")])
def test_a_number_that_no_batch_task_can_have_is_refused_before_all_else(number: int, shown: str) -> None:
    with pytest.raises(InputError) as error:
        refuse_bad_input(["no such file"], files_per_task=number)
    said = "give a Batch task 1 to 1,000 files, or leave it out to have it chosen"
    assert str(error.value) == f"files_per_task is {shown}; {said}"


def test_no_files_make_no_groups() -> None:
    assert form([], slots=1) == []


def test_a_single_file_is_named_by_itself() -> None:
    assert label(files([1])) == "0.txt"
    assert label(files([1] * 1001)) == "0.txt and 1,000 more"


@pytest.mark.parametrize(
    ("indices", "text"), [([], ""), ([0], "0"), ([0, 1, 2, 3, 4, 7], "0-4,7"), ([1, 3, 4, 999], "1,3-4,999")]
)
def test_members_are_written_as_ranges(indices: list[int], text: str) -> None:
    assert as_ranges(indices) == text
    assert parse_ranges(text) == frozenset(indices)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "1-2-3", "1 2", "1234567"])
def test_what_is_no_range_has_no_members(text: str) -> None:
    assert parse_ranges(text) == frozenset()


# The bundle.

CONTAINER = SourceContainer(endpoint="https://acc.blob.example", name="logs")
IN_PLACE = SourceBlob(
    container=CONTAINER, name="c.log", size=5, md5="", etag="0x8D", modified=datetime(2026, 1, 1, tzinfo=timezone.utc)
)


def test_a_bundle_is_a_line_that_lists_its_files_and_their_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"\0\n\xff")
    group = [
        InputFile(name="ä b.txt", size=3, source=str(tmp_path / "a")),
        InputFile(name="c.log", size=5, source=IN_PLACE),
        InputFile(name="b", size=3, source=str(tmp_path / "b")),
    ]
    packed = pack(group, lambda name: f"outputs/{name}", lambda blob: f"https://{blob.name}?sig=x")
    head, _, contents = packed.data.partition(b"\n")
    assert head.isascii()
    one, two = hashlib.md5(b"one").hexdigest(), hashlib.md5(b"\0\n\xff").hexdigest()
    in_place = {"name": "c.log", "size": 5, "md5": "", "etag": "0x8D", "url": "https://c.log?sig=x"}
    assert json.loads(head) == {
        "files": [
            {"name": "%C3%A4%20b.txt", "size": 3, "md5": one, "etag": "", "url": "", "prefix": "outputs/ä b.txt"},
            {**in_place, "prefix": "outputs/c.log"},
            {"name": "b", "size": 3, "md5": two, "etag": "", "url": "", "prefix": "outputs/b"},
        ]
    }
    assert contents == b"one\0\n\xff"
    assert packed.content.md5 == hashlib.md5(packed.data).digest()
    assert packed.digest == digest(packed.entries)


ENTRY = Entry(name="a", size=1, md5="00", etag="e", url="u", prefix="p")


@pytest.mark.parametrize("change", [{"name": "b"}, {"size": 2}, {"md5": "01"}, {"etag": "f"}, {"prefix": "q"}])
def test_the_digest_of_a_group_is_another_where_a_file_is(change: dict[str, object]) -> None:
    values = {"name": "a", "size": 1, "md5": "00", "etag": "e", "prefix": "p"}
    same = Entry(**values, url="another")  # type: ignore[arg-type]
    other = Entry(**{**values, **change})  # type: ignore[arg-type]
    assert digest([ENTRY, ENTRY]) == digest([same, same])
    assert digest([ENTRY, ENTRY]) not in (digest([ENTRY, other]), digest([ENTRY]), digest([ENTRY] * 3))


def test_a_file_that_grows_too_large_for_a_group_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * (M + 1))
    with pytest.raises(InputError, match=r"input '.*a\.log' grows while it is uploaded; run again when nothing"):
        pack([InputFile(name="a.log", size=3, source=str(path))], str, str)
