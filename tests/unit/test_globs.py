"""Globs over the names of blobs."""

from __future__ import annotations

import pytest

from tasks.inputs.globs import Glob

NAMES = [
    "a.txt",
    "b.log",
    "x/a.txt",
    "x/y/a.txt",
    "x/y/b.log",
    "x/y/z/c.txt",
    "x//e.txt",
    "a*c",
    "abc",
    "[1]",
    "^",
    "-",
]


@pytest.mark.parametrize(
    ("glob", "matches"),
    [
        ("*.txt", ["a.txt"]),
        ("?.txt", ["a.txt"]),
        ("x/*", ["x/a.txt"]),
        ("x/*/a.txt", ["x/y/a.txt"]),
        ("**", NAMES),
        ("**/*.txt", ["a.txt", "x/a.txt", "x/y/a.txt", "x/y/z/c.txt", "x//e.txt"]),
        ("x/**", ["x/a.txt", "x/y/a.txt", "x/y/b.log", "x/y/z/c.txt", "x//e.txt"]),
        ("x/**/a.txt", ["x/a.txt", "x/y/a.txt"]),
        ("x/**/z/*", ["x/y/z/c.txt"]),
        ("x**.txt", []),  # as * within a segment
        ("[ab].*", ["a.txt", "b.log"]),
        ("[!a].*", ["b.log"]),
        ("[a-b].txt", ["a.txt"]),
        ("[b-a].txt", []),
        ("x[/]a.txt", []),
        ("x[!a]a.txt", []),
        ("a[*]c", ["a*c"]),
        ("a?c", ["a*c", "abc"]),
        ("[[]1]", ["[1]"]),
        ("[^]", ["^"]),
        ("[!^a-z[]", ["-"]),
        ("[", []),
        ("A.txt", []),
        ("a.tx", []),
        ("", []),
    ],
)
def test_a_glob_matches_whole_names(glob: str, matches: list[str]) -> None:
    assert [name for name in NAMES if Glob(glob).matches(name)] == matches


@pytest.mark.parametrize(
    ("glob", "prefix", "folder", "plain"),
    [
        ("", "", "", True),
        ("logs", "logs", "", True),
        ("logs/", "logs/", "logs/", True),
        ("logs/2026*/x", "logs/2026", "logs/", False),
        ("logs/**/*.txt", "logs/", "logs/", False),
        ("**", "", "", False),
        ("a/[*]b", "a/*b", "a/", True),
        ("a/[*]b/?", "a/*b/", "a/*b/", False),
        ("a/[ab]", "a/", "a/", False),
        ("a/[", "a/[", "a/", True),
    ],
)
def test_what_comes_before_the_first_wildcard_is_listed(glob: str, prefix: str, folder: str, plain: bool) -> None:
    found = Glob(glob)
    assert (found.prefix, found.folder, found.is_plain) == (prefix, folder, plain)
