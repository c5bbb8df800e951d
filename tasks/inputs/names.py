"""Names of input files as blob names and as folder names on this machine.

Both are the name itself, with what Azure or a file system would refuse, change or mix up percent-encoded. A name that
is too long has a digest form: its beginning, `%_` and a SHA-256; whoever needs the true name must keep it elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from urllib.parse import unquote_to_bytes

# What may stand in a blob's name by Azure's rules: ASCII but control characters, and what RFC 3987 allows in a path.
# Not so control characters, private use, U+FFFD and what is no character. Azurite takes them all; Azure answers 400.
_ALLOWED = (
    "[ -~\xa0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef"
    + "".join(f"{chr(plane << 16)}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 14))
    + "\U000e1000-\U000efffd]"
)
_UNSAFE = re.compile(
    rf"(?!{_ALLOWED})[\s\S]"
    r"|[%\\]"  # a backslash becomes a slash in some clients
    r"|[. ](?=/|\Z)"  # at the end of a segment; clients drop it, and resolve . and ..
    r"|(?<=/)/|\A/|/\Z"  # around an empty segment
)
_NOT_PLAIN = re.compile(r"[A-Z]|[^\x00-\x7f]")
_ESCAPE = re.compile(r"(%[0-9A-F]{2})")
_LONGEST = 700  # of the 1,024 characters of a blob's name; the rest is for what stands before and after the name
_LONGEST_SEGMENT = 255  # characters in an account with folders, bytes in a file system
_MOST_SEGMENTS = 50  # of 254, and of 63 in an account with folders
_DIGEST = "%_"  # what no encoded name contains


def blob_name(name: str) -> str:
    """The name of a blob that stands for the input file of that name, of at most 700 characters.

    The name is a path with `/`, and not empty; bytes of it that are not UTF-8 are given as by os.fsdecode. Slashes are
    encoded beyond 50 segments. Where the name or a segment of it is too long, that part is in its digest form.
    """
    text = _UNSAFE.sub(_escaped, name)
    if text.count("/") >= _MOST_SEGMENTS:
        *first, rest = text.split("/", _MOST_SEGMENTS - 1)
        text = "/".join([*first, rest.replace("/", "%2F")])
    if len(text) <= _LONGEST_SEGMENT and text.isascii():  # nearly all
        return text
    segments = text.split("/")
    if any(_units(segment) > _LONGEST_SEGMENT for segment in segments):
        text = "/".join(_digest(each) if _units(each) > _LONGEST_SEGMENT else each for each in segments)
    return text if _units(text) <= _LONGEST else _digest(text)


def original(blob_name: str) -> str:
    """The name that `blob_name` has encoded, and `local_paths` likewise. Raises ValueError for a digest form."""
    if _DIGEST in blob_name:
        raise ValueError(f"{blob_name!r} is the digest of a name, which cannot be had back from it")
    return os.fsdecode(unquote_to_bytes(blob_name))


def local_paths(names: Sequence[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """The relative path of each input's folder in a results folder: its blob name where nothing speaks against that.

    None is another's or lies in another's, also where the file system ignores case and Unicode normalisation; and the
    first segment of none begins with a dot or is one of `reserved`. It does not depend on the order of the names.
    """
    encoded = {name: blob_name(name) for name in names}
    keys = Counter(map(_key, encoded.values()))
    taken = {_key(name) for name in reserved}
    return {name: _local(text, keys, taken) for name, text in encoded.items()}


def _local(text: str, keys: Counter[str], reserved: Collection[str]) -> str:
    parts = text.split("/")
    shown = [_plain(part) for part in parts] if keys[_key(text)] > 1 else parts
    path = shown[0]
    for at, part in enumerate(shown[1:], start=1):
        # Another input's folder would hold this one, and its outputs might have the same name.
        path += ("%2F" if _key("/".join(parts[:at])) in keys else "/") + part
    first = path.partition("/")[0]
    if first.startswith(".") or _key(first) in reserved:
        path = _percent(path[0]) + path[1:]
    segments = path.split("/")
    return "/".join(each if len(each.encode()) <= _LONGEST_SEGMENT else _digest(each) for each in segments)


def _key(text: str) -> str:
    """What is equal for names that a file system may take for one."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


def _plain(text: str) -> str:
    """The text in lower-case ASCII and escapes."""
    parts = _ESCAPE.split(text)
    return "".join(part if at % 2 else _NOT_PLAIN.sub(_escaped, part) for at, part in enumerate(parts))


def _escaped(match: re.Match[str]) -> str:
    return _percent(match[0])


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))


def _digest(text: str) -> str:
    begin = text.encode()[:160].decode(errors="ignore")
    return (
        re.sub("%[0-9A-F]?$", "", begin).replace("/", "%2F") + _DIGEST + hashlib.sha256(text.encode()).hexdigest()[:40]
    )


def _units(text: str) -> int:
    """The length as Azure counts it: in units of UTF-16."""
    return len(text) + sum(character > "\uffff" for character in text)
