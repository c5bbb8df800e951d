"""Writes the table of operations in local-batch-service.md from the routes themselves.

python docs/coverage.py           rewrites the table
python docs/coverage.py --check   fails if it is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "local-batch-service.md"
BEGIN, END = "<!-- operations: begin -->", "<!-- operations: end -->"

sys.path.insert(0, str(ROOT))

from local_azure.batch.http.routes import OPERATIONS  # noqa: E402


def table() -> str:
    """All operations of the API as a Markdown table, with those refused with 501 marked."""
    served = sum(operation.serve is not None for operation in OPERATIONS)
    lines = [f"{served} of {len(OPERATIONS)} operations are implemented; the others return 501 with their name.", ""]
    lines += ["| Operation | Request | Served |", "|---|---|---|"]
    for operation in OPERATIONS:
        path = "/" + "/".join(operation.path)
        answer = "yes" if operation.serve else "501"
        lines.append(f"| `{operation.name}` | `{operation.method} {path}` | {answer} |")
    return "\n".join(lines)


def page() -> str:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif page() != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{PAGE.name} is not up to date: run python docs/coverage.py")
