#!/usr/bin/env python3
"""Count the lines of one log file by level and store the counts as a blob: the work of one Azure Batch task.

Runs on Python 3.8 and later with nothing but the standard library, so a node can run it as soon as it boots.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import collections
import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

UPLOAD_FAILED = 74  # the exit code by which the flow recognises a failed upload
NOT_TEXT = 65  # the exit code by which the flow recognises a binary file
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


def output_name(path: str) -> str:
    """<stem>_OUTPUT<ext>: the name under which the flow looks for the output of a file."""
    stem, extension = os.path.splitext(path)
    return f"{stem}_OUTPUT{extension}"


def upload(endpoint: str, container: str, name: str, data: bytes) -> None:
    """Put the blob, with the token that the flow hands to each task. No retries here: Batch runs the task again."""
    url = f"{endpoint}/{container}/{urllib.parse.quote(name, safe='')}?{os.environ['OUTPUT_SAS_TOKEN']}"
    headers = {
        "x-ms-blob-type": "BlockBlob",
        "Content-Type": "application/json",
        "Content-MD5": base64.b64encode(hashlib.md5(data).digest()).decode(),  # a damaged output is refused
    }
    request = urllib.request.Request(url, data=data, headers=headers, method="PUT")
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        reason = f"HTTP {error.code} {error.headers.get('x-ms-error-code', '')}"
    except OSError as error:
        reason = str(getattr(error, "reason", "")) or type(error).__name__
    else:
        return
    print(f"Upload of {name} to {endpoint}/{container} failed: {reason}", file=sys.stderr)  # and never the token
    raise SystemExit(UPLOAD_FAILED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--filepath", required=True, help="the log file")
    parser.add_argument("--storageaccount", required=True, metavar="URL", help="blob endpoint of the storage account")
    parser.add_argument("--storagecontainer", required=True, metavar="NAME", help="container that receives the counts")
    parser.add_argument("--slots", type=int, help="Batch tasks that share the node; of no use to one that takes a core")
    parser.add_argument("levels", nargs="+", help="what to look for, such as ERROR")
    options = parser.parse_args()
    try:
        counts = count(options.filepath, options.levels)
    except NotText as error:
        print(f"{options.filepath!r} is not text: {error}", file=sys.stderr)
        raise SystemExit(NOT_TEXT) from None
    data = json.dumps({"levels": counts, "node": os.environ.get("AZ_BATCH_NODE_ID", "")}).encode()
    upload(options.storageaccount, options.storagecontainer, os.path.basename(output_name(options.filepath)), data)


if __name__ == "__main__":
    main()
