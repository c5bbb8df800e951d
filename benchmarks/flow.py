"""Measure the flow against the classic tutorial's client, and what a file costs it.

    python -m benchmarks.flow [--files 1000] [--bytes 2000] [--whole]
    python -m benchmarks.flow --flow-only --files 100000 --bytes 200

Both clients run on the same local Azure, with nodes and slots alike, as processes of their own that have imported
everything before; a Prefect server runs. They take turns, so that a busy machine disturbs them alike: what counts is
the ratio of two runs that follow each other. The sizes are 3, 300, 1,000 and 10,000 files up to --files. The classic
client is not run with more than 1,000 files, unless --whole is given: its time then follows from what one more file
took it up to there. That favours it, for its polls get slower the more Batch tasks there are. The exit code is 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
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


class Comparison:
    """Runs of both clients, by the number of files."""

    def __init__(self, bench: Bench, *, size: int, whole: bool) -> None:
        self._bench = bench
        self._bytes = size
        self._whole = whole
        self.flow: dict[int, list[Measured]] = {}
        self.tutorial: dict[int, list[float]] = {}  # seconds

    def run(self, count: int) -> None:
        """Take turns with that many files, more often the fewer they are."""
        inputs = self._bench.inputs(count, self._bytes)
        self.flow[count], self.tutorial[count] = [], []
        for number in range(max(1, min(4, 600 // count))):
            turns = [self._flow, self._tutorial]
            for turn in turns if number % 2 else reversed(turns):
                turn(count, inputs)

    def _flow(self, count: int, inputs: Path) -> None:
        self.flow[count].append(self._bench.run(Client.FLOW, inputs))

    def _tutorial(self, count: int, inputs: Path) -> None:
        if count <= MOST_OF_TUTORIAL or self._whole:
            self.tutorial[count].append(self._bench.run(Client.TUTORIAL, inputs).seconds)
        else:
            fewest, most = (statistics.median(self.tutorial[size]) for size in (FEWEST, MOST_OF_TUTORIAL))
            per_file = (most - fewest) / (MOST_OF_TUTORIAL - FEWEST)
            self.tutorial[count].append(most + (count - MOST_OF_TUTORIAL) * per_file)

    def row(self, count: int) -> tuple[str, bool]:
        """The row of that size, and whether its target is reached."""
        flow, tutorial = [run.seconds for run in self.flow[count]], self.tutorial[count]
        ratios = [slow / fast for slow, fast in zip(tutorial, flow, strict=True)]
        slower = [ours - theirs for ours, theirs in zip(flow, tutorial, strict=True)]
        reached, target = True, ""
        if count == FEWEST:
            reached = statistics.median(slower) <= MOST_SECONDS_SLOWER
            target = (
                f"{statistics.median(slower):+.1f} s ({_spread(slower)}), target at most +{MOST_SECONDS_SLOWER:g} s"
            )
        elif least := LEAST_RATIO.get(count):
            reached = statistics.median(ratios) >= least
            target = f"target at least {least:g}"
        scaled = count > MOST_OF_TUTORIAL and not self._whole
        return (
            f"{count:>7,}{statistics.median(flow):>10.1f}{statistics.median(tutorial):>12.1f}{'*' if scaled else ' '}"
            f"{statistics.median(ratios):>8.2f}  {_spread(ratios):<14}{target}{'' if reached else '  MISSED'}"
        ), reached


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else "one turn"


def compare(bench: Bench, sizes: list[int], *, size: int, whole: bool) -> bool:
    """Print a row per size, then what a file costs at the largest; returns whether all targets are reached."""
    comparison = Comparison(bench, size=size, whole=whole)
    print(f"{'files':>7}{'flow s':>10}{'tutorial s':>12} {'ratio':>8}  {'spread':<14}", flush=True)
    all_reached = True
    for count in sizes:
        comparison.run(count)
        row, reached = comparison.row(count)
        all_reached = all_reached and reached
        print(row, flush=True)
    if sizes[-1] > MOST_OF_TUTORIAL and not whole:
        print(f"* computed from its runs with {FEWEST} and {MOST_OF_TUTORIAL:,} files; --whole runs it")
    fewest, most = comparison.flow[sizes[0]], comparison.flow[sizes[-1]]
    profile = bench.profile(bench.inputs(sizes[-1], size))
    show(profile, sizes[-1], most[-1], fewest[-1], fewer=sizes[0])
    return all_reached


# --- what a file costs ------------------------------------------------------------------------------------


def show(profile: Profile, files: int, timed: Measured, base: Measured, *, fewer: int) -> None:
    """Print what a file costs in requests, time and memory; the base is a run with fewer files."""
    more = files - fewer
    nodes = profile.nodes_busy / files
    print(f"\nThe flow with {files:,} files, in {timed.seconds:.1f} s; per file:")
    _line("HTTP calls to Storage, of the flow", profile.by_flow / files)
    _line("HTTP calls to Storage, of the nodes", profile.by_nodes / files)
    _line("Batch tasks: their seconds / slots", 1000 * nodes, "ms")
    _line(f"all else, beyond {fewer:,} files", 1000 * ((timed.seconds - base.seconds) / more - nodes), "ms")
    for name, seconds in profile.steps.items():
        _line(f"step {name}", 1000 * seconds / files, f"ms {seconds:>9.1f} s in all")
    for name, grown, peak in (
        ("the flow", timed.peak_kb - base.peak_kb, timed.peak_kb),
        ("the local Batch service", profile.batch.grown, profile.batch.peak),
        ("Azurite", profile.azurite.grown, profile.azurite.peak),
    ):
        _line(f"memory of {name}", grown / more, f"kB {peak / 1000:>9.0f} MB at most")


def _line(what: str, value: float, unit: str = "") -> None:
    print(f"  {what:<40}{value:>9.2f} {unit}", flush=True)


def flow_only(bench: Bench, count: int, size: int) -> None:
    """Run the flow alone, after a small run, and print what a file costs."""
    fewer = min(WARM_UP, max(FEWEST, count // 10))
    base = bench.profile(bench.inputs(fewer, size))
    profile = bench.profile(bench.inputs(count, size))
    show(profile, count, profile.measured, base.measured, fewer=fewer)


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
    if options.files <= FEWEST:
        arguments().error(f"--files is {options.files}; give more than {FEWEST}, which all is compared with")
    with (
        tempfile.TemporaryDirectory(prefix="flow-") as folder,
        Bench.running(Path(folder), nodes=options.nodes, slots=options.slots) as bench,
    ):
        if options.flow_only:
            flow_only(bench, options.files, options.bytes)
            return 0
        sizes = [*(size for size in SIZES if size < options.files), options.files]
        return 0 if compare(bench, sizes, size=options.bytes, whole=options.whole) else 1


if __name__ == "__main__":
    sys.exit(main())
