"""Globs over the names of blobs: `*`, `?` and `[...]` within a segment, `**` across segments, `[*]` for a star."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_TOKENS = re.compile(r"(?:(?<=/)|\A)\*\*(?:/|\Z)|\*|\?|\[!?\]?[^\]/]*\]|[\s\S]")
_WILDCARD = re.compile(r"\*|\?|\[!?\]?[^\]/]*\]")


@dataclass(frozen=True)
class Glob:
    """A glob and what of it is plain text."""

    text: str

    @property
    def is_plain(self) -> bool:
        """Whether it names one blob or folder."""
        return len(self.prefix) == len(self._tokens)

    @cached_property
    def prefix(self) -> str:
        """All before the first wildcard: what the names of all blobs that match begin with."""
        plain = ""
        for token in self._tokens:
            if (text := _literal(token)) is None:
                break
            plain += text
        return plain

    @property
    def folder(self) -> str:
        """The folder of what matches: the prefix up to its last slash."""
        return self.prefix[: self.prefix.rfind("/") + 1]

    def matches(self, name: str) -> bool:
        return self._regex.fullmatch(name) is not None

    @cached_property
    def _tokens(self) -> list[str]:
        segments = self.text.split("/")
        return _TOKENS.findall("/".join(each if each == "**" else re.sub(r"\*+", "*", each) for each in segments))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        try:
            return re.compile("".join(map(_as_regex, self._tokens)))
        except re.error:  # a range such as [z-a], which nothing matches
            return re.compile(r"(?!)")


def _literal(token: str) -> str | None:
    """The character that stands for itself; None for a wildcard."""
    if len(token) == 3 and token[0] == "[" and token[1] != "!":
        return token[1]
    return None if _WILDCARD.match(token) else token


def _as_regex(token: str) -> str:
    if (text := _literal(token)) is not None:
        return re.escape(text)
    if token in ("**/", "**"):
        return r"(?:[\s\S]*/)?" if token == "**/" else r"[\s\S]+"
    if token[0] == "[":
        inner = token[1:-1]
        others = inner.startswith("!")
        escaped = re.sub(r"[\\\[\]^&~|]", r"\\\g<0>", inner[1:] if others else inner)
        return f"[^/{escaped}]" if others else f"[{escaped}]"
    return "[^/]" if token == "?" else "[^/]*"
