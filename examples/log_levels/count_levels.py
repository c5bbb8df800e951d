#!/usr/bin/env python3
"""Count the lines of one log file by level and store the counts as a blob: the work of one Azure Batch task.

Runs on Python 3.8 and later with nothing but the standard library, so a node can run it as soon as it boots.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

UPLOAD_FAILED = 74  # the exit code by which the flow tells a failed upload from a failed count
OTHER = "other"


def count(path: str, levels: list[str]) -> dict[str, int]:
    """The number of lines whose first level is each of these, and of those without any."""
    level = re.compile(rb"\b(" + b"|".join(re.escape(name.encode()) for name in levels) + rb")\b")
    counts = collections.Counter(dict.fromkeys([*levels, OTHER], 0))
    with open(path, "rb") as file:
        for line in file:
            found = level.search(line)
            counts[found.group().decode() if found else OTHER] += 1
    return dict(counts)


def output_name(path: str) -> str:
    """<stem>_OUTPUT<ext>: the name under which the flow looks for the output of a file."""
    stem, extension = os.path.splitext(path)
    return f"{stem}_OUTPUT{extension}"


def upload(endpoint: str, container: str, name: str, data: bytes) -> None:
    """Put the blob, with the token that the flow hands to each task. No retries here: Batch runs the task again."""
    url = f"{endpoint}/{container}/{urllib.parse.quote(name, safe='')}?{os.environ['OUTPUT_SAS_TOKEN']}"
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/json"}
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
    counts = count(options.filepath, options.levels)
    data = json.dumps({"levels": counts, "node": os.environ.get("AZ_BATCH_NODE_ID", "")}).encode()
    upload(options.storageaccount, options.storagecontainer, os.path.basename(output_name(options.filepath)), data)


if __name__ == "__main__":
    main()
