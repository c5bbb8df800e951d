"""Which records of files in groups count."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tasks.run.group_records import RecordList, combine, last_records
from tasks.run.records import FileRecord, Output, Record
from tests.support.downloads import record_of

NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)


def of_list(number: int, seconds: int = 0, group: str = "g") -> RecordList:
    return RecordList(group=group, number=number, blob=f"{number}", written=NOON + timedelta(seconds=seconds))


def record(name: str, exit_code: int = 0) -> FileRecord:
    return FileRecord(name=name, record=Record(outputs=(), exit_code=exit_code))


def void(name: str, below: int | None = None) -> FileRecord:
    return FileRecord(name=name, void=True, below=below)


def counted(*lists: tuple[RecordList, list[FileRecord]]) -> dict[str, tuple[int, int]]:
    """The exit code and the tries of each file, which both ways to read find."""
    found = combine(lists)["g"]
    contents = {each.blob: records for each, records in lists}
    last = {each.name: each for each in last_records([each for each, _ in lists], lambda each: contents[each.blob])}
    assert last == {name: written.record for name, written in found.files.items()}
    return {name: (written.record.record.exit_code, written.tries) for name, written in found.files.items()}


def test_the_last_record_of_a_file_counts() -> None:
    first = of_list(0), [record("a", 3), record("b")]
    second = of_list(1), [record("a", 4), record("a")]
    assert counted(second, first) == {"a": (0, 3), "b": (0, 1)}
    assert combine([second, first])["g"].next_list == 2


@pytest.mark.parametrize(("below", "left"), [(1, {"a": (0, 1), "b": (0, 1)}), (2, {"b": (0, 1)})])
def test_what_is_void_below_a_number_counts_from_there_on(below: int, left: object) -> None:
    lists = [
        (of_list(-1), [void("a", below)]),
        (of_list(0), [record("a", 3), record("b")]),
        (of_list(1), [record("a")]),
    ]
    assert counted(*lists) == left


def test_what_is_void_without_number_is_so_by_time() -> None:
    lists = [(of_list(0, 0), [record("a")]), (of_list(-1, 1), [void("a")]), (of_list(1, 2), [record("a", 4)])]
    assert counted(*lists[:2]) == {}
    assert counted(*lists) == {"a": (4, 1)}


def test_groups_are_kept_apart() -> None:
    found = combine([(of_list(0), [record("a")]), (of_list(4, group="h"), [record("a", 3)])])
    assert {group: (list(each.files), each.next_list) for group, each in found.items()} == {
        "g": (["a"], 1),
        "h": (["a"], 5),
    }


def values(data: str | None = None, **more: Any) -> dict[str, object]:
    made = Record(outputs=[Output(path="x", blob="", size=2, md5=b"m")], exit_code=0, node="n", task="t", seconds=1.5)
    return record_of("a b", made, {} if data is None else {"x": data}, **more)


def test_a_record_is_read_with_what_it_says_of_a_failure() -> None:
    found = FileRecord.parse(json.dumps(values(problem="timed out", stderr_end="é")).encode())
    assert (found.name, found.problem, found.stderr_end, found.succeeded) == ("a b", "timed out", "é", False)
    assert found.began == datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(("problem", "end"), [("", ""), ("timed out", "so far")])
def test_without_contents_only_failures_have_what_they_wrote(problem: str, end: str) -> None:
    data = json.dumps([values(problem=problem, stderr_end="so far")]).encode()
    assert [each.stderr_end for each in FileRecord.parse_list(data, contents=False)] == [end]
    assert [each.stderr_end for each in FileRecord.parse_list(data)] == ["so far"]


@pytest.mark.parametrize(("data", "content"), [(None, None), ("aGk=", b"hi"), ("", b""), ("a", b""), ("é", b"")])
def test_an_output_in_a_record_is_decoded(data: str | None, content: bytes | None) -> None:
    (found,) = FileRecord.parse_list(json.dumps([values(data)]).encode())
    assert found.inline(found.record.outputs[0]) == content
    (without,) = FileRecord.parse_list(json.dumps([values(data)]).encode(), contents=False)
    assert without.contents == {}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "a"}]', "null"])
def test_what_is_no_list_of_records_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it is no |Expecting)"):
        FileRecord.parse_list(text.encode())
