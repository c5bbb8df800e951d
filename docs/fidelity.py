"""Writes fidelity.md: how far the local Batch service answers as Azure Batch does, and as its specification has it.

python docs/fidelity.py RECORDINGS SPECIFICATION...    sends their requests, compares the answers, rewrites the page

RECORDINGS is a folder of files of `make test-live RECORD=1`, or of the same form. Each SPECIFICATION is the folder of a
version in Azure/azure-rest-api-specs, with its BatchService.json and the examples. Both stay out of the repository.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "fidelity.md"
PATIENCE = 3.0  # seconds, which only what differs takes

sys.path.insert(0, str(ROOT))

from local_azure.batch.http.routes import Router  # noqa: E402
from local_azure.batch.http.server import Timings  # noqa: E402
from tests.support import examples, recording  # noqa: E402
from tests.support.batch_service import RunningService  # noqa: E402
from tests.support.example_seeds import Refused, Seeds  # noqa: E402
from tests.support.raw_requests import Raw  # noqa: E402
from tests.support.replay import replayed, sender  # noqa: E402

# Resizes take so long that the following request finds the pool as it was in Azure, such as one that stops them.
OF_RECORDINGS = Timings(allocation=1, boot=0.01, removal=0.01, termination=1)
OF_EXAMPLES = Timings(allocation=0.4, boot=0.01, removal=0.01, termination=0.01)
# Why an answer differs: the first reason whose text is in the request or in a difference.
REASONS = (
    ("recorded 412", "the condition of the request was not recorded"),
    ("without currentNodeCommunicationMode", "the pool has no nodes: this machine cannot have them"),
    (r"containerConfiguration\)", "the image cannot run containers"),
    (r"imageReference\)", "Azure has no such image"),
    (r"without value\[\].*poolusagemetrics", "no pool has been used in the last interval"),
    (r"without value\[\].*subtasksinfo", "the task has one instance"),
    ("applicationPackageReferences|/applications", "the account has no applications"),
    ("containerHostBatchBindMounts", "containers with chosen directories of the node are not served"),
    ("extensions", "nodes have no extensions"),
    ("certificates", "Azure has retired certificates"),
    ("/rdp", "Azure has retired remote desktops of nodes"),
    ("uploadbatchservicelogs", "nodes have no logs of an agent"),
    ("the example has no", "it cannot be sent"),
    ("lifetime", "statistics are not measured"),
    ("contentLength is text", "newer versions of the specification have it as text, as here"),
    ("OperationInvalidForCurrentState|resizeErrors", "the resize has ended while the answer before was awaited"),
    ("nextRunTime", "the example does not show the recurrence from which it follows"),
    (r"status 404, recorded 2.*NotFound\)", "follows from an earlier request that is not served"),
)


FOCAL = {"publisher": "canonical", "offer": "0001-com-ubuntu-server-focal", "sku": "20_04-lts"}
# What is asked for instead, by SKU: for images that Azure has retired since then or that no recorded answer has, and
# for Ubuntu 24.04, to which examples give the node agent of another one.
OF_TODAY: Mapping[str, tuple[Mapping[str, str], str]] = {
    **dict.fromkeys(("16.04.0-lts", "18.04-lts", "18_04-lts-gen2"), (FOCAL, "batch.node.ubuntu 20.04")),
    "2025-datacenter-smalldisk": ({"sku": "2022-datacenter-smalldisk"}, "batch.node.windows amd64"),
    "server": ({}, "batch.node.ubuntu 24.04"),
}


class Verdict(Enum):
    """What became of a comparison."""

    AGREES = "agree"
    DIFFERS = "differ"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A recorded exchange or an example, and what became of it."""

    operation: str
    verdict: Verdict
    why: str = ""  # unless it agrees


@contextmanager
def service(timings: Timings) -> Iterator[RunningService]:
    with tempfile.TemporaryDirectory() as data:
        running = RunningService(Path(data), timings)
        running.start()
        try:
            yield running
        finally:
            running.stop()


def with_images_of_today(value: Any) -> Any:
    """The JSON with another image for one that Azure does not have, and the node agent of its image."""
    if isinstance(value, list):
        return [with_images_of_today(each) for each in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("imageReference", {})
    if of_today := OF_TODAY.get(reference.get("sku", "").lower()):
        image, agent = of_today
        value = {**value, "imageReference": {**reference, **image}}
        if "nodeAgentSKUId" in value:
            value["nodeAgentSKUId"] = agent
    return {name: with_images_of_today(each) for name, each in value.items()}


def reason(*about: object) -> str:
    text = " ".join(map(str, about))
    return next((why for pattern, why in REASONS if re.search(pattern, text)), "not known")


def of_recordings(folder: Path) -> Iterator[Compared]:
    """Each recording is sent to a service of its own."""
    for path in sorted(folder.glob("*.json")):
        with service(OF_RECORDINGS) as running:
            exchanges = [replace(each, request=with_images_of_today(each.request)) for each in recording.read(path)]
            for exchange, found in replayed(exchanges, sender(running), patience=PATIENCE):
                operation = Router().find(exchange.method, exchange.path)[0].name
                if not found:
                    yield Compared(operation=operation, verdict=Verdict.AGREES)
                    continue
                verdict = Verdict.NOT_COMPARABLE if exchange.status == 412 else Verdict.DIFFERS
                why = f"{found[0].what}: {reason(exchange.request, *found)}"
                yield Compared(operation=operation, verdict=verdict, why=why)


def of_examples(folder: Path) -> Iterator[Compared]:
    """Each example is sent to a service of its own, which has what it presupposes."""
    for example in examples.read(folder):
        body, response = map(with_images_of_today, (example.body, example.response))
        example = replace(example, body=body, response=response)
        with service(OF_EXAMPLES) as running:
            seeds = Seeds(Raw(running), example)
            about = f"{example.template} {json.dumps(example.body)} {json.dumps(example.response)}"
            try:
                seeds.plant()
            except Refused as refused:
                why = f"{refused}: {reason(refused, about)}"
                yield Compared(operation=example.operation, verdict=Verdict.NOT_COMPARABLE, why=why)
                continue
            found = _differences(example, seeds, running)
        if found:
            why = f"{found[0]}: {reason(*found, about)}"
            yield Compared(operation=example.operation, verdict=Verdict.DIFFERS, why=why)
        else:
            yield Compared(operation=example.operation, verdict=Verdict.AGREES)


def _differences(example: examples.Example, seeds: Seeds, running: RunningService) -> list[str]:
    """What differs; reads are repeated while they do, since the service may still be at work."""
    exchange, send = example.exchange(seeds.ids, seeds.body), sender(running)
    end = time.monotonic() + PATIENCE
    while (found := examples.differences(example, send(exchange))) and example.method == "GET":
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return found


def page(recordings: Path, specifications: list[Path]) -> str:
    recorded = list(of_recordings(recordings))
    of_versions = {folder.name: list(of_examples(folder)) for folder in specifications}
    shown = [each for examples_of_one in of_versions.values() for each in examples_of_one]
    lines = [
        "# Answers of Azure, and those of the local Batch service",
        "",
        "Written by `docs/fidelity.py`, which compares answers of the local service with",
        "",
        "- what Azure Batch has answered: the status, the error code, properties, their types and states;",
        "- all examples of the specification of some versions: the status, and that no property is missing or has",
        "  another type. What an example presupposes is created by the API before. Times that have passed are replaced",
        "  by later ones, and the backslashes in paths of files, as nodes run Linux.",
        "",
        "In both, an image that Azure has retired since then, or that none of its recorded answers has, is replaced by",
        "one that it has, and a node agent that is not that of its image by the one that is. An exchange cannot be",
        "compared where the condition of its request was not recorded, an example where what it presupposes cannot be",
        "created.",
        "",
        "    .venv/bin/python docs/fidelity.py RECORDINGS SPECIFICATION...",
        "",
        "| Compared | Number | Agree | Differ | Not comparable |",
        "|---|---|---|---|---|",
        _sum("Recorded exchanges", recorded),
        *(_sum(f"Examples of {version}", compared) for version, compared in of_versions.items()),
        "",
        "| Operation | Recorded: agree | differ | not comparable | Examples: agree | differ | not comparable | Why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted({each.operation for each in (*recorded, *shown)}):
        mine = [[each for each in every if each.operation == name] for every in (recorded, shown)]
        whys = dict.fromkeys(each.why.replace("|", " ") for each in (*mine[0], *mine[1]) if each.why)
        lines.append(f"| `{name}` | {_counts(mine[0])} | {_counts(mine[1])} | {'<br>'.join(whys)} |")
    return "\n".join(lines) + "\n"


def _sum(what: str, compared: list[Compared]) -> str:
    return f"| {what} | {len(compared)} | {_counts(compared)} |"


def _counts(compared: list[Compared]) -> str:
    counts = Counter(each.verdict for each in compared)
    return " | ".join(str(counts[verdict]) for verdict in Verdict)


if __name__ == "__main__":
    PAGE.write_text(page(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]]), encoding="utf-8")
