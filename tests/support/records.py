"""Records of input files, as tests compare them."""

from __future__ import annotations

from tasks.run.records import FileRecord


def contents(found: FileRecord) -> dict[str, bytes]:
    """The outputs that are in the record, by their path."""
    inline = {output.path: found.inline(output) for output in found.record.outputs}
    return {path: data for path, data in inline.items() if data is not None}
