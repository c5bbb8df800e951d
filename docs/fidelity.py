"""Writes fidelity.md: how far the local Batch service answers as recordings of Azure Batch do.

python docs/fidelity.py FOLDER    replays the recordings of the folder, and rewrites the page

The recordings are files of `make test-live RECORD=1`, or of the same form; they stay out of the repository.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "fidelity.md"
PATIENCE = 1.0  # seconds, which only exchanges that differ take

sys.path.insert(0, str(ROOT))

from local_azure.batch.http.routes import Router  # noqa: E402
from tests.support.batch_service import QUICK, RunningService  # noqa: E402
from tests.support.recording import Exchange, read  # noqa: E402
from tests.support.replay import Difference, replayed, sender  # noqa: E402

FOLLOWS = "follows from an earlier request that is not served"
# Why an exchange differs: the first reason whose text is in the recorded request or in a difference.
REASONS = (
    ("cloudServiceConfiguration", "pools of cloud services are not served: Azure has retired them"),
    ("MicrosoftWindowsServer", "no Windows: tasks run on Linux"),
    ("multiInstanceSettings", "multi-instance tasks are not served"),
    ("diskEncryptionConfiguration", "disk encryption is not served"),
    ("applicationPackageReferences", "application packages are not served"),
    (r"status 404, recorded 2.*NotFound\)", FOLLOWS),
    ("recorded 412", "the condition of the request was not recorded"),
    ("poolusagemetrics", "usage metrics are not served"),
    ("batchSupportEndOfLife", "no image here has an end of support"),
    ("18.04-LTS|18.04-lts", "the image is not among those of this service"),
    (r"without value\[\]|value\[\]\.state", "lists what an earlier request, not served here, has created"),
)


def results(folder: Path) -> Iterator[tuple[Exchange, list[Difference]]]:
    """The exchanges of all recordings, each recording with a service of its own."""
    for path in sorted(folder.glob("*.json")):
        with tempfile.TemporaryDirectory() as data:
            service = RunningService(Path(data), QUICK)
            service.start()
            try:
                yield from replayed(read(path), sender(service), patience=PATIENCE)
            finally:
                service.stop()


def reason(exchange: Exchange, differences: list[Difference]) -> str:
    text = f"{exchange.request} {' '.join(map(str, differences))}"
    return next((why for pattern, why in REASONS if re.search(pattern, text)), "not known")


def page(folder: Path) -> str:
    agreeing: dict[str, int] = defaultdict(int)
    differing: dict[str, list[str]] = defaultdict(list)
    for exchange, found in results(folder):
        name = Router().find(exchange.method, exchange.path)[0].name
        if found:
            differing[name].append(f"{found[0].what.replace('|', ' ')}: {reason(exchange, found)}")
        else:
            agreeing[name] += 1
    total = sum(agreeing.values()) + sum(map(len, differing.values()))
    following = sum(FOLLOWS in each for some in differing.values() for each in some)
    lines = [
        "# Recorded answers of Azure, and those of the local Batch service",
        "",
        "Written by `docs/fidelity.py`, which sends recorded requests to the local service and compares status, error",
        "code, properties, their types and states with what Azure Batch has answered.",
        "",
        f"{sum(agreeing.values())} of {total} exchanges agree. Of the others {following} follow from an earlier one of"
        " the same recording, which is not served here.",
        "",
        "| Operation | Agree | Differ | The first difference of each, and why |",
        "|---|---|---|---|",
    ]
    for name in sorted({*agreeing, *differing}):
        why = "<br>".join(dict.fromkeys(differing[name]))
        lines.append(f"| `{name}` | {agreeing[name]} | {len(differing[name])} | {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(Path(sys.argv[1])), encoding="utf-8")
