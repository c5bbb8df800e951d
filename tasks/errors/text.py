"""Text of unknown origin, such as words and file names, as people are shown it: in terminal, log and artifacts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Escape sequences and control characters, which terminals obey; what turns text round, which can make a program look
# like a text; what separates lines unseen; and what neither UTF-8 nor XML can carry.
_UNSEEN = re.compile(
    "\x1b\\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_LINE_BREAK = re.compile("\r\n|[\n\r\u2028\u2029]")

_MOST_NAMED = 20  # files in a line


def visible(text: str) -> str:
    """The text with control characters and invisible characters replaced; line breaks and tabs stay."""
    return _UNSEEN.sub("\ufffd", text.replace("\r\n", "\n"))


def as_unicode(text: str) -> str:
    """The text with lone surrogates, as in file names that are not UTF-8, as backslash escapes such as \\udcff.

    Distinct names stay distinct, and UTF-8, pandas and Parquet take them.
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def cut(text: str, columns: int) -> str:
    """The text on one line within that many columns, ending in … where it was cut; control characters made visible."""
    text = visible(_LINE_BREAK.sub("⏎", text).replace("\t", "⇥"))
    kept, used, marks = [], 0, 0
    for char in text:
        marks = marks + 1 if columns_of(char) == 0 else 0
        if marks > 2:  # a heap of combining marks would grow into the rows above and below
            continue
        used += columns_of(char)
        if used > columns:
            break
        kept.append(char)
    else:
        return "".join(kept)
    while columns_of("".join(kept)) > columns - 1:
        kept.pop()
    return "".join(kept) + "…"


def columns_of(text: str) -> int:
    """Columns of a terminal that the text takes: an East Asian letter and an emoji take two, a combining mark none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me", "Cf") for char in text)


def listed(files: Sequence[str]) -> str:
    """The names of the files, of many the first."""
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    return ", ".join(files[:_MOST_NAMED]) + more


def numbered(problems: Sequence[str]) -> str:
    """One as it is; several numbered, each on lines of its own."""
    if len(problems) == 1:
        return problems[0]
    return "\n".join(f"{number}. {problem}" for number, problem in enumerate(problems, 1))
