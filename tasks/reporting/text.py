"""Text as the Prefect UI shows it: cells of markdown tables, and shortened ids."""

from __future__ import annotations

import re

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
