"""Blanks SAS signatures, account keys, authorization headers, tokens and the users of URLs in texts."""

from __future__ import annotations

import re

# A SAS signature also where its URL was quoted: in another URL, once or more often, or as JSON.
_EQUALS = r"(?:=|%(?:25)*3D|\\u003d|[\"']\s*:\s*[\"'])"
_SIGNATURE = re.compile(
    # After a letter it is part of a word, unless that letter ends an escape: of ?, or of a terminal's colour.
    rf"((?:(?<![A-Za-z])|(?<=%3F)|(?<=\dm))sig{_EQUALS}|AccountKey{_EQUALS}|SharedKey [^:\s]+:)"
    r"(?:(?!\\u0026|%(?:25)*26)[^&;\s'\"])+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"(?:(?<=Bearer )[\w.~+/-]{16,}=*)|\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?")  # of Entra ID
_USER = re.compile(r"(?<=://)[^/\s@?#'\"]+(?=@)")  # of a URL, with the password: that of a package index, say


def without_secrets(text: str) -> str:
    """The text with SAS signatures, account keys, authorization headers, tokens and the users of URLs blanked."""
    return _TOKEN.sub("***", _USER.sub("***", _SIGNATURE.sub(r"\1***", text)))
