"""One run of a client in a process of its own, which has imported everything before its time is taken."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

from benchmarks.services import ROOT, environment, peak_kb

NUM_WORDS = 10


class Client(Enum):
    """The module of each client."""

    FLOW = "benchmarks.flow_client"
    TUTORIAL = "benchmarks.tutorial_client"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a client is to do."""

    inputs: Path  # a folder with nothing but input files
    results: Path
    nodes: int
    slots: int  # of each node
    keep_job: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """What a client has done, as far as it knows."""

    lists: int  # files with a list of words
    words: int  # the sum of all counts in these lists
    node_seconds: float = 0  # the sum of the Batch tasks' seconds, if the client knows it
    flow_run_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A run, seen from its own process."""

    seconds: float
    peak_kb: int
    done: Done


def take_turn(client: Callable[[Work], Done]) -> None:
    """Run the client once, when a line comes on stdin, and print the measurement as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--keep-job", action="store_true")
    work = Work(**vars(parser.parse_args()))
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    start = time.perf_counter()
    done = client(work)
    measured = Measured(seconds=time.perf_counter() - start, peak_kb=peak_kb(os.getpid()), done=done)
    print(json.dumps(dataclasses.asdict(measured)))


class Turn:
    """The process of a run, which waits until `run` is called."""

    def __init__(self, client: Client, work: Work, settings: Mapping[str, str]) -> None:
        self._log = work.results / "client.log"
        self._client = client
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", client.value, *_arguments(work)],
                cwd=ROOT,
                env=environment(**settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout
        self.pid = self._process.pid
        if self._process.stdout.readline() != "ready\n":
            self._fail()

    def run(self) -> Measured:
        """Exits if the client fails."""
        output, _ = self._process.communicate("go\n")
        if self._process.returncode:
            self._fail()
        found = json.loads(output.splitlines()[-1])
        return Measured(**{**found, "done": Done(**found["done"])})

    def _fail(self) -> None:
        self._process.kill()
        raise SystemExit(f"{self._client.value} failed:\n{self._log.read_text(errors='replace')[-5000:]}")


def _arguments(work: Work) -> Sequence[str]:
    keep = ["--keep-job"] if work.keep_job else []
    return [str(work.inputs), str(work.results), f"--nodes={work.nodes}", f"--slots={work.slots}", *keep]
