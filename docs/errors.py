"""Writes errors.md, the page of service codes, from the table of codes.

python docs/errors.py           rewrites the page
python docs/errors.py --check   fails if it is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"

sys.path.insert(0, str(ROOT))

from tasks.errors.advice import filled  # noqa: E402
from tasks.errors.code_table import KNOWN  # noqa: E402
from tasks.errors.codes import Known, Where  # noqa: E402

_INTRODUCTION = """# Errors of Azure: code, meaning, command

Made by `python docs/errors.py` from `tasks/errors/code_table.py`. An error of a run names the service's code: search
this page for it. Texts such as `<account>` stand for your own names; in the error those that are known are filled in.
A code that is not listed is shown as Azure sends it, with its message. One code can have several meanings: the
message of Azure shows which.

Step 0 of each run asks both accounts for what the run will need, and creates nothing: a refusal there names the
account, the identity, and the command that helps.
"""
_HEADINGS = {
    Where.REQUEST: "Requests that a service refuses",
    Where.SIGN_IN: "Sign-in with Microsoft Entra ID",
    Where.RESIZE: "A pool gets no nodes",
    Where.NODE: "A node cannot run Batch tasks",
    Where.TASK: "A Batch task fails",
    Where.JOB: "A job ends",
}


def page() -> str:
    parts = [_INTRODUCTION]
    for where, heading in _HEADINGS.items():
        rows = [_row(each) for each in KNOWN if each.where is where]
        parts.append(f"## {heading}\n\n| Code | Meaning | What helps | The run | Source |\n|---|---|---|---|---|\n")
        parts[-1] += "\n".join(rows) + "\n"
    return "\n".join(parts)


def _row(known: Known) -> str:
    command = f"`{filled(known.command, {})}`" if known.command else ""
    helps = ": ".join(part for part in (filled(known.advice, {}), command) if part)
    cells = (f"`{known.code}` ({known.service.value})", known.meaning, helps, known.reaction.value, known.source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif page() != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{PAGE.name} is not up to date: run python docs/errors.py")
