from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from local_azure.batch.node.patterns import expand_variables, matches
from local_azure.batch.state.paths import PathEscapes, resolve_inside


@pytest.fixture
def working_directory(tmp_path: Path) -> Path:
    """The wd of a task, with files in it, beside it and outside of the task's directory."""
    wd = tmp_path / "job" / "task" / "wd"
    (wd / "deep" / "er").mkdir(parents=True)
    (wd / ".hidden").mkdir()
    for name in ("a.txt", "b.txt", "B.csv", ".c.txt", "a*.txt", "deep/d.txt", "deep/er/e.txt", ".hidden/f.txt"):
        (wd / name).write_text(name)
    (wd.parent / "stdout.txt").write_text("out")
    (wd.parent / "stderr.txt").write_text("err")
    (wd.parent.parent / "neighbour.txt").write_text("not yours")
    (tmp_path / "secret.txt").write_text("secret")
    (wd / "secret-link.txt").symlink_to(tmp_path / "secret.txt")
    (wd / "inner-link.txt").symlink_to(wd / "deep" / "d.txt")
    (wd / "way-out").symlink_to(tmp_path)
    (wd / "circle").symlink_to(wd)
    return wd


@pytest.mark.parametrize("relative", ["a.txt", "new/er/file", "with space", "a\nb", "ü/…", "..a", "a..", "a/./b"])
def test_path_below_the_directory_is_resolved(tmp_path: Path, relative: str) -> None:
    assert resolve_inside(tmp_path, relative) == tmp_path.resolve() / relative


@pytest.mark.parametrize(
    ("relative", "reason"),
    [
        ("", "not a path"),
        ("a\0b", "not a path"),
        ("/etc/passwd", "absolute"),
        ("..", r"contains '\.\.'"),
        ("a/../../b", r"contains '\.\.'"),
        ("deep/../a.txt", r"contains '\.\.'"),
        ("way-out/secret.txt", "symbolic link"),
        ("way-out/new.txt", "symbolic link"),
        ("secret-link.txt", "symbolic link"),
    ],
)
def test_path_that_leads_out_is_refused(working_directory: Path, relative: str, reason: str) -> None:
    with pytest.raises(PathEscapes, match=reason):
        resolve_inside(working_directory, relative)


def test_link_that_stays_inside_is_followed(working_directory: Path) -> None:
    assert resolve_inside(working_directory, "inner-link.txt") == working_directory.resolve() / "deep" / "d.txt"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.txt", ["a.txt"]),
        ("./deep//d.txt", ["d.txt"]),
        ("../stdout.txt", ["stdout.txt"]),
        ("../std*.txt", ["stderr.txt", "stdout.txt"]),
        ("*.txt", ["a*.txt", "a.txt", "b.txt", "inner-link.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("[!a].txt", ["b.txt"]),
        ("[A-C].csv", ["B.csv"]),
        ("a[*].txt", ["a*.txt"]),
        (".*.txt", [".c.txt"]),
        (".c.txt", [".c.txt"]),
        ("**/*.txt", ["a*.txt", "a.txt", "b.txt", "deep/d.txt", "deep/er/e.txt", "inner-link.txt"]),
        ("deep/**", ["d.txt", "er/e.txt"]),
        ("deep/*", ["d.txt"]),
        ("*/d.txt", ["deep/d.txt"]),
        ("../**/e.txt", ["wd/deep/er/e.txt"]),
        ("way-*/secret.txt", []),
        ("circle/*.csv", ["B.csv"]),
        ("*/*.csv", []),
        ("secret-*.txt", []),
        ("missing.txt", []),
        ("missing/*", []),
        ("deep", []),
        (".", []),
    ],
)
def test_pattern_picks_exactly(working_directory: Path, pattern: str, names: list[str]) -> None:
    assert [match.name for match in matches(pattern, working_directory)] == names


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a\0",
        "../../neighbour.txt",
        "../../*.txt",
        "/etc/passwd",
        "/etc/*",
        "secret-link.txt",
        "way-out/*",
        "**/../../neighbour.txt",
    ],
)
def test_pattern_that_leads_out_is_refused(working_directory: Path, pattern: str) -> None:
    with pytest.raises(PathEscapes):
        matches(pattern, working_directory)


def test_absolute_pattern_may_name_the_tasks_own_files(working_directory: Path) -> None:
    (match,) = matches(f"{working_directory}/deep/*.txt", working_directory)
    assert (match.name, match.path.read_text()) == ("d.txt", "deep/d.txt")


def test_picked_link_is_given_by_its_target(working_directory: Path) -> None:
    (match,) = matches("inner-link.txt", working_directory)
    assert match.path == working_directory.resolve() / "deep" / "d.txt"


def test_variables_of_the_task_are_expanded_and_others_left() -> None:
    environment = {"AZ_BATCH_TASK_ID": "t1", "X": "x*"}
    assert expand_variables("${X}/$AZ_BATCH_TASK_ID.txt $NOT_SET $", environment) == "x*/t1.txt $NOT_SET $"


def test_many_wildcards_read_each_directory_once(working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = working_directory.joinpath(*"abcdefghijklmnopqrst")
    deep.mkdir(parents=True)
    (deep / "x.end").touch()
    read, scan = [], os.scandir

    def scan_and_count(directory: Path) -> Any:
        read.append(directory)
        return scan(directory)

    monkeypatch.setattr(os, "scandir", scan_and_count)
    (match,) = matches("**/" * 30 + "*.end", working_directory)
    assert match.name == "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t/x.end"
    assert matches("**/" * 20 + "**/*.none", working_directory) == []
    assert len(read) == len(set(read)) * 2


def test_name_that_is_too_long_matches_no_file(working_directory: Path) -> None:
    assert matches("a" * 256, working_directory) == []
