#!/usr/bin/env python3
"""Run a script over an input file, or each of a group, and store what it leaves: the work of one Azure Batch task.

    run_file.py SCRIPT [ARGUMENT]...

Runs on Python 3.8 and later with nothing but the standard library, so a node can run it as soon as it boots.

SCRIPT is any executable, or a Python or shell file. The placeholders {input}, {output_dir}, {name} and {stem} in its
arguments are filled in; without {input}, the input file comes last. It finds INPUT_FILE, INPUT_NAME and OUTPUT_DIR in
its environment, and what it leaves in OUTPUT_DIR is uploaded once it has ended with exit code 0: first the files, last
of all a record of them. So where there is a record, all outputs are there.

What this script is given comes in through the environment, because anybody on the node can read a command line:
INPUT_FILE (a path in the working directory), INPUT_NAME (percent-encoded), INPUT_SIZE, INPUT_MD5 (empty: not known),
INPUT_ETAG (of a blob that is read where it is), OUTPUT_URL, OUTPUT_PREFIX and OUTPUT_SAS_TOKEN (the container of the
outputs and their folder in it), RECORD_URL and RECORD_SAS_TOKEN (the blob of the record). Where OUTPUT_INLINE is set,
the record has outputs of up to that many bytes. Without tokens, NODE_IDENTITY names the managed identity of the pool
that reads and stores blobs.

A group comes as GROUP_FILE: a line of JSON that lists its files, then their contents. GROUP_MEMBERS says which of them
to process, such as 0-4,7. Each has a folder of its own, and all that holds of a single file holds of it; but its small
outputs are in its record alone, a file that fails has a record too, and the records are lists: RECORD_URL/00000.json,
RECORD_URL/00001.json, and so on. A Batch task that runs again reads them, from number RECORDS_FROM on, and leaves out
what is done. FILE_SECONDS is the time that one file may take. A Python script that has a function process_file, with
the one parameter arguments, is imported once, and called for each file; with ISOLATE in a fork of its process.
"""

from __future__ import annotations

import os
import sys

# All else is imported where it is needed: after the folder has its place in sys.path, and of it only what the work
# takes. So Python compiles no more than this file each time, and keeps the bytecode of the others.


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    # The script is in this folder too, and may have the name of a module of Python's: so the folder comes last.
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [*(path for path in sys.path if os.path.abspath(path) != folder), folder]
    if sys.argv[1] == "--worker":
        from kept_process import serve

        serve(sys.argv[2], sys.argv[3] == "1", int(sys.argv[4]), int(sys.argv[5]))
        return 0
    from blob_requests import Failure
    from user_script import Script, hide_environment

    hide_environment()
    try:
        script = Script(sys.argv[1], sys.argv[2:])
        if "GROUP_FILE" in os.environ:
            from run_group import process_group

            return process_group(script)
        from one_file import process_one

        return process_one(script)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
