"""Text as the Prefect UI shows it: cells of markdown tables, shortened ids, spans of time."""

from __future__ import annotations

import re
from datetime import timedelta

from tasks.errors.text import visible

# An underscore within a word is plain text.
_MARKDOWN = re.compile(r"[|\[\]<>`\\*~&]|(?<!\w)_+|_+(?!\w)")


def escape_markdown(text: str) -> str:
    """The text as it should look in a cell of a markdown table, whatever characters it holds.

    As entities and only where needed, because the older of Prefect's two UIs shows any escape in a link as it is.
    """
    shown = visible(text.replace("\n", "⏎").replace("\t", "⇥"))
    return _MARKDOWN.sub(lambda found: "".join(f"&#{ord(char)};" for char in found[0]), shown)


def short_node(node: str | None) -> str | None:
    """A node's id, 71 characters long on Azure, cut to the few that differ between nodes."""
    return f"{node[:12]}…{node[-6:]}" if node and len(node) > 24 else node


def span(seconds: float) -> str:
    """Such as "0.3 s", "4 min 12 s" or "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def rough_span(time: timedelta) -> str:
    """In one or two units, for what is known roughly: such as "15 s", "2 min", "3 h 10 min" or "3 d 4 h"."""
    seconds = max(1, round(time.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{number:,} {unit}" for number, unit in units[: 2 if days else 3] if number)


def count(number: int, noun: str) -> str:
    """Such as "1 file" or "1,234 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
