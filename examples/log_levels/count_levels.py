#!/usr/bin/env python3
"""Count the lines of one log file by level: count_levels.py LEVEL... FILE

Writes levels.csv to OUTPUT_DIR: a header with the levels, and one row with their counts. A line counts for the first
level that it holds as a word, or as "other".
"""

from __future__ import annotations

import codecs
import collections
import csv
import os
import re
import sys

NOT_TEXT = 65  # the exit code by which the flow recognises a file that is not text
OTHER = "other"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class NotText(Exception):
    """The file is binary."""


def encoding_of(path: str) -> str:
    """By its byte-order mark; else Latin-1, which has a character for each byte: the levels are ASCII.

    Raises NotText where NUL bytes, or the start of a compressed file, show that it is binary.
    """
    with open(path, "rb") as file:
        start = file.read(64 << 10)
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), "")
    if not marked and b"\0" in start:
        raise NotText("it holds NUL bytes, and no byte-order mark of UTF-16 or UTF-32")
    if start.startswith((b"\x1f\x8b", b"BZh", b"PK\x03\x04")):
        raise NotText("it is compressed")
    return marked or "latin-1"


def count(path: str, levels: list[str]) -> dict[str, int]:
    """The number of lines whose first level is each of these, and of those without any."""
    level = re.compile(rf"\b({'|'.join(map(re.escape, levels))})\b", re.ASCII)
    counts = collections.Counter(dict.fromkeys([*levels, OTHER], 0))
    with open(path, encoding=encoding_of(path), errors="replace", newline="\n") as file:
        for line in file:
            found = level.search(line)
            counts[found.group() if found else OTHER] += 1
    return dict(counts)


def main() -> None:
    *levels, path = sys.argv[1:]
    if not levels:
        sys.exit("count_levels: name one or more levels, such as ERROR")
    try:
        counts = count(path, levels)
    except NotText as error:
        print(f"{path!r} is not text: {error}", file=sys.stderr)
        sys.exit(NOT_TEXT)
    with open(os.path.join(os.environ["OUTPUT_DIR"], "levels.csv"), "w", newline="") as file:
        csv.writer(file).writerows([counts.keys(), counts.values()])


if __name__ == "__main__":
    main()
