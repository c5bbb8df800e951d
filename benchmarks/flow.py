"""Measure the flow against the classic tutorial's client, and what a file costs it.

    python -m benchmarks.flow [--files 1000] [--bytes 2000] [--whole]
    python -m benchmarks.flow --flow-only --files 100000 --bytes 200

Both clients run on the same local Azure, with nodes and slots alike, as processes of their own that have imported
everything before; a Prefect server runs. They take turns, so that a busy machine disturbs them alike: what counts is
the ratio of two runs that follow each other. The sizes are 3, 300, 1,000 and 10,000 files up to --files; the largest
runs once. Beyond 1,000 files the classic client runs with 1,000, unless --whole is given; what one more file took it up
to there is what each file beyond is taken to cost. That favours it, for its polls get slower the more Batch tasks there
are. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench, Profile
from benchmarks.turn import Client, Measured

SIZES = (3, 300, 1000, 10_000)
FEWEST = SIZES[0]
MOST_OF_TUTORIAL = 1000
WARM_UP = 300  # files; after them the services have what memory they need whatever the number of files
MOST_SECONDS_SLOWER = 3.0  # with the fewest files
LEAST_RATIO = {300: 3.0, 1000: 5.0, 10_000: 8.0}


# --- the comparison ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Runs of both clients with that number of files; the runs of a pair follow each other."""

    files: int
    flow: Sequence[Measured]
    tutorial: Sequence[float]  # seconds
    computed: bool = False  # whether the tutorial's seconds were, from a run with fewer files

    def __str__(self) -> str:
        flow, mark = statistics.median(run.seconds for run in self.flow), "*" if self.computed else " "
        return (
            f"{self.files:>7,}{flow:>10.1f}{statistics.median(self.tutorial):>12.1f}{mark}  "
            f"{_typical(self._ratios(), '.2f'):<24}{self._target()}{'' if self.reached() else ': MISSED'}"
        )

    def reached(self) -> bool:
        """Whether the target of this number of files is reached, if it has one."""
        if self.files == FEWEST:
            return statistics.median(self._slower()) <= MOST_SECONDS_SLOWER
        return statistics.median(self._ratios()) >= LEAST_RATIO.get(self.files, 0)

    def _target(self) -> str:
        if self.files == FEWEST:
            return f"at most {MOST_SECONDS_SLOWER:g} s slower, is {_typical(self._slower(), '.1f')}"
        return f"at least {LEAST_RATIO[self.files]:g}" if self.files in LEAST_RATIO else ""

    def _ratios(self) -> list[float]:
        return [theirs / ours.seconds for ours, theirs in zip(self.flow, self.tutorial, strict=True)]

    def _slower(self) -> list[float]:
        return [ours.seconds - theirs for ours, theirs in zip(self.flow, self.tutorial, strict=True)]


def _typical(values: Sequence[float], form: str) -> str:
    """The median, with the least and the most."""
    spread = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
    return f"{statistics.median(values):{form}}{spread}"


def compare(bench: Bench, sizes: Sequence[int], size: int, *, whole: bool) -> bool:
    """Print a row for each number of files, then what a file costs; returns whether all targets are reached."""
    print(f"{'files':>7}{'flow s':>10}{'tutorial s':>12}   {'tutorial / flow':<24}target", flush=True)
    rows = []
    for files in sizes[:-1]:
        rows.append(_take_turns(bench, files, size))
        print(rows[-1], flush=True)
    most = sizes[-1]
    computed = most > MOST_OF_TUTORIAL and not whole
    run = MOST_OF_TUTORIAL if computed else most
    tutorial = bench.run(Client.TUTORIAL, bench.inputs(run, size))
    per_file = (tutorial.seconds - statistics.median(rows[0].tutorial)) / (run - FEWEST)
    profile = bench.profile(bench.inputs(most, size), count_requests=False)
    seconds = tutorial.seconds + (most - run) * per_file
    rows.append(Turns(files=most, flow=[profile.measured], tutorial=[seconds], computed=computed))
    print(rows[-1], flush=True)
    if computed:
        print(f"* computed from its runs with {FEWEST} and {run:,} files")
    show(profile, most, rows[0].flow[-1], FEWEST)
    _line("the tutorial's Batch tasks, likewise", 1000 * tutorial.done.node_seconds / bench.slots / run, "ms")
    print("In one more run, through a proxy that counts:")
    show_requests(bench.profile(bench.inputs(most, size), count_requests=True), most)
    return all(row.reached() for row in rows)


def _take_turns(bench: Bench, files: int, size: int) -> Turns:
    """Run both clients, the more often the fewer files there are."""
    inputs = bench.inputs(files, size)
    flow, tutorial = [], []
    for _ in range(max(1, min(4, 600 // files))):
        tutorial.append(bench.run(Client.TUTORIAL, inputs).seconds)
        flow.append(bench.run(Client.FLOW, inputs))
    return Turns(files=files, flow=flow, tutorial=tutorial)


# --- what a file costs ------------------------------------------------------------------------------------


def show(profile: Profile, files: int, base: Measured, fewer: int) -> None:
    """Print what a file costs in time and memory; the base is a run with fewer files."""
    run, more, nodes = profile.measured, files - fewer, profile.nodes_busy / files
    print(f"\nThe flow with {files:,} files, in {run.seconds:.1f} s; per file:")
    _line("Batch tasks: their seconds / slots", 1000 * nodes, "ms")
    _line(f"all else, beyond {fewer:,} files", 1000 * ((run.seconds - base.seconds) / more - nodes), "ms")
    for name, seconds in profile.steps.items():
        _line(f"step {name}", 1000 * seconds / files, f"ms {seconds:>9.1f} s in all")
    for name, grown, peak in (
        ("the flow", run.peak_kb - base.peak_kb, run.peak_kb),
        ("the local Batch service", profile.batch.grown, profile.batch.peak),
        ("Azurite", profile.azurite.grown, profile.azurite.peak),
    ):
        _line(f"memory of {name}", grown / more, f"kB {peak / 1000:>9.0f} MB at most")


def show_requests(profile: Profile, files: int) -> None:
    _line("HTTP calls to Storage, of the flow", profile.by_flow / files)
    _line("HTTP calls to Storage, of the nodes", profile.by_nodes / files)


def _line(what: str, value: float, unit: str = "") -> None:
    print(f"  {what:<40}{value:>9.2f} {unit}", flush=True)


def flow_only(bench: Bench, files: int, size: int) -> None:
    """Run the flow alone, after a small run, and print what a file costs."""
    fewer = min(WARM_UP, files // 10)
    base = bench.profile(bench.inputs(fewer, size), count_requests=True)
    profile = bench.profile(bench.inputs(files, size), count_requests=True)
    show(profile, files, base.measured, fewer)
    show_requests(profile, files)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="the largest number of files (default: 1000)")
    parser.add_argument("--bytes", type=int, default=2000, help="size of each (default: 2000)")
    parser.add_argument("--nodes", type=int, default=2, help="of the pool (default: 2, as of the flow)")
    parser.add_argument("--slots", type=int, default=1, help="of each node (default: 1, as of the flow)")
    parser.add_argument("--whole", action="store_true", help="run the classic client with more than 1,000 files too")
    parser.add_argument("--flow-only", action="store_true", help="run the flow alone")
    return parser


def main() -> int:
    options = arguments().parse_args()
    if options.files < 10:
        arguments().error(f"--files is {options.files}; give 10 or more, of which each can be compared with {FEWEST}")
    with (
        tempfile.TemporaryDirectory(prefix="flow-") as folder,
        Bench.running(Path(folder), nodes=options.nodes, slots=options.slots) as bench,
    ):
        if options.flow_only:
            flow_only(bench, options.files, options.bytes)
            return 0
        sizes = [*(size for size in SIZES if size < options.files), options.files]
        return 0 if compare(bench, sizes, options.bytes, whole=options.whole) else 1


if __name__ == "__main__":
    sys.exit(main())
