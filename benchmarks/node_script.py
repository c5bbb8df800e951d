"""Measure the node script against the classic tutorial's rule: speed, peak memory, and the same answer.

    python -m benchmarks.node_script [--size-mb 60] [--rounds 3]

The tutorial's rule reads the whole file, splits it, strips each word and counts. Both run as processes of
their own, taking turns, so that a busy machine disturbs them alike; the ratio of the medians is what counts. After
two rounds in which each program took the same time, within 4 %, there are no more. The exit code is 1 if a bound is
missed. Needs Linux, two cores, 2 GB of memory for the tutorial's rule, and temporary disk of 500 MB. The texts: prose,
prose with punctuation at 30 % of its words in many forms, nearly distinct words, and one token of 200 MB.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "node_scripts" / "top_words.py"
RULE = Path(__file__).with_name("tutorial_task.py")
WORDS = 10
VOCABULARY = 50_000
MEMORY_BOUND_MB = 200
TOKEN_MB = 200
POLL = 0.05  # seconds between looks at the memory
SAME = 1.04  # of two times, the longer divided by the shorter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    seconds: float
    peak_mb: float  # 0 where nobody looked
    answer: str  # its hash


# --- texts ------------------------------------------------------------------------------------------------


PROSE = ["%s"] * 26 + ["%s,"] * 2 + ["%s.", "%s.\n", '"%s"', "(%s)"]
MARKED = [
    *(["%s,"] * 4 + ["%s."] * 3 + ["%s;", "%s:", "%s!", "%s?", '"%s"', '"%s', '%s"', "(%s)", "[%s]", "'%s'"]),
    *("%s...", '%s,"', "%s.)", "--%s", "*%s*", "<%s>", "_%s_"),
]
PUNCTUATED = MARKED * 3 + ["%s"] * 7 * len(MARKED)


def zipf_text(rng: random.Random, forms: list[str]) -> Iterator[bytes]:
    """Paragraphs without end: word frequency falls with the rank, beyond the 8,000th with its square."""
    letters, often = "etaoinshrdlucmfwypvbgkjqxz", [*range(26, 0, -1)]
    vocabulary: dict[str, None] = {}
    while len(vocabulary) < VOCABULARY:  # frequent words are short, as in any language
        length = max(1, round(rng.gauss(1 + len(vocabulary) ** 0.2, 1.5)))
        vocabulary["".join(rng.choices(letters, often, k=length))] = None
    ranks = range(1, VOCABULARY + 1)
    weights = [*itertools.accumulate(1 / (rank + 2.7) / max(1.0, rank / 8000) for rank in ranks)]
    words = [*vocabulary]
    while True:
        chosen = rng.choices(words, cum_weights=weights, k=1000)
        yield (" ".join(rng.choices(forms, k=1000)) % tuple(chosen) + "\n\n").encode()


def distinct_text(rng: random.Random) -> Iterator[bytes]:
    """Eight hexadecimal digits a word: of 2**32 words, nearly every one is new."""
    while True:
        yield rng.randbytes(400_000).hex(" ", 4).encode() + b"\n"


def one_token() -> Iterator[bytes]:
    while True:
        yield b"0123456789" * 100_000


def write_text(path: Path, pieces: Iterator[bytes], size: int) -> None:
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(next(pieces))


# --- measuring --------------------------------------------------------------------------------------------


def process_tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from process_tree(int(child))


def resident_mb(pid: int) -> float:
    """Proportional set size of a process tree: a page shared by two of its processes counts once."""
    total = 0
    try:
        for process in process_tree(pid):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    except OSError:
        return 0.0  # a process ended between two looks; the next look counts again
    return total / 1024


def measure(
    command: list[str], cores: int, folder: Path, *, answer: Path | None = None, watch: bool = False
) -> Measurement:
    """Run the command on so many cores; watching its memory slows it, the larger it is the more."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    started = time.perf_counter()
    output = folder / "stdout.txt"  # a pipe would fill up while the memory is watched: a token can be its whole text
    with (
        output.open("wb") as stdout,
        subprocess.Popen(
            command, cwd=folder, stdout=stdout, preexec_fn=lambda: os.sched_setaffinity(0, allowed)
        ) as process,
    ):
        peak = 0.0
        while watch and process.poll() is None:
            peak = max(peak, resident_mb(process.pid))
            time.sleep(POLL)
        process.wait()
        seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{command} ended with exit code {process.returncode}")
    return Measurement(seconds=seconds, peak_mb=peak, answer=digest(answer or output))


def digest(answer: Path) -> str:
    """A hash of the lines with words."""
    found = hashlib.sha256()
    with answer.open("rb") as file:
        for line in file:
            if b":\t" in line:
                found.update(line)
    return found.hexdigest()


def compare(text: Path, rounds: int) -> dict[str, list[Measurement]]:
    """Runs of the tutorial's rule and of the script on one core and on two, taking turns.

    The first round is watched; its times count only if it is the only one.
    """
    arguments = ["--filepath", str(text), "--numwords", str(WORDS)]
    tutorial = [sys.executable, "-I", "-S", str(RULE), *arguments]
    script = [sys.executable, "-I", "-S", str(SCRIPT), *arguments]
    answer = text.with_name(f"{text.stem}_OUTPUT{text.suffix}")
    runs: dict[str, list[Measurement]] = {"tutorial": [], "script, 1": [], "script, 2": []}
    for number in range(rounds + 1):
        watch = number == 0
        runs["tutorial"].append(measure(tutorial, 1, text.parent, watch=watch))
        for cores in (1, 2):
            runs[f"script, {cores}"].append(measure(script, cores, text.parent, answer=answer, watch=watch))
        if number > 1 and all(is_steady(each) for each in runs.values()):
            break
    return runs


def is_steady(runs: list[Measurement]) -> bool:
    seconds = [run.seconds for run in runs[1:]]
    return max(seconds) <= SAME * min(seconds)


def typical_seconds(runs: list[Measurement]) -> float:
    return statistics.median(run.seconds for run in runs[1:] or runs)


def judge(name: str, size_mb: float, runs: dict[str, list[Measurement]], bounds: dict[int, float]) -> list[str]:
    """Print one row per program; return what was missed."""
    missed = []
    baseline = typical_seconds(runs["tutorial"])
    for program, measurements in runs.items():
        seconds = typical_seconds(measurements)
        peak = max(run.peak_mb for run in measurements)
        row = f"{name}, {program} core{'s' if program.endswith('2') else ''}"
        row = row if program != "tutorial" else f"{name}, tutorial"
        print(f"{row:<28}{size_mb / seconds:>8.1f}{baseline / seconds:>8.2f}{peak:>10.0f}", flush=True)
        if any(run.answer != runs["tutorial"][0].answer for run in measurements):
            missed.append(f"{row}: not the tutorial's answer")
        if program == "tutorial":
            continue
        bound = bounds.get(int(program[-1]), 0)
        if baseline / seconds < bound:
            missed.append(f"{row}: {baseline / seconds:.2f} times the tutorial's speed, not {bound}")
        if peak >= MEMORY_BOUND_MB:
            missed.append(f"{row}: {peak:.0f} MB, not under {MEMORY_BOUND_MB}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description="Node script against the tutorial's rule.")
    parser.add_argument("--size-mb", type=int, default=60, help="size of each text but the last (default: 60)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each program, at most (default: 3)")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("This benchmark needs two cores.")
    missed = []
    print(f"{'text, program':<28}{'MB/s':>8}{'ratio':>8}{'peak MB':>10}")
    with tempfile.TemporaryDirectory(prefix="node_script-") as folder:
        text = Path(folder, "text.txt")
        for name, pieces, size, bounds in (
            ("prose", zipf_text(random.Random(1), PROSE), options.size_mb, {1: 1.6, 2: 3.0}),
            ("punctuated", zipf_text(random.Random(3), PUNCTUATED), options.size_mb, {1: 1.5, 2: 2.5}),
            ("distinct", distinct_text(random.Random(2)), options.size_mb, {1: 0.8, 2: 1.5}),
            ("one token", one_token(), TOKEN_MB, {1: 0.5, 2: 0.5}),
        ):
            write_text(text, pieces, size * 10**6)
            missed += judge(name, text.stat().st_size / 1e6, compare(text, options.rounds), bounds)
    if missed:
        sys.exit("Missed:\n" + "\n".join(missed))


if __name__ == "__main__":
    main()
