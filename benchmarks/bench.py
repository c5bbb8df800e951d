"""The services that the clients are measured on, and one run of a client on them."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential

from benchmarks.pass_through import Requests, passing_through
from benchmarks.services import LocalAzure, forget_peak, local_azure, peak_kb, prefect_server, resident_kb
from benchmarks.turn import Client, Measured, Turn, Work
from benchmarks.tutorial_client import task_seconds

LIMIT = 600.0  # seconds to wait for what ends by itself


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory of a service during a run, in kB."""

    grown: int
    peak: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A run of the flow, and what it used."""

    measured: Measured
    nodes_busy: float  # seconds: those of all Batch tasks, divided by the slots
    steps: Mapping[str, float]  # seconds
    batch: Memory
    azurite: Memory
    by_flow: int  # requests to Storage; not counted: 0
    by_nodes: int


class Bench:
    """A local Azure, a Prefect server, and a folder."""

    def __init__(self, folder: Path, azure: LocalAzure, prefect: Mapping[str, str], nodes: int, slots: int) -> None:
        self._folder = folder
        self._azure = azure
        self._prefect = prefect
        self._nodes = nodes
        self._slots_per_node = slots
        self.slots = nodes * slots
        self._words: dict[Path, int] = {}  # in the lists of all files of a folder
        key = AzureNamedKeyCredential(azure.settings["AZURE_BATCH_ACCOUNT"], azure.settings["AZURE_BATCH_ACCESS_KEY"])
        self._batch = BatchClient(azure.settings["AZURE_BATCH_ENDPOINT"], key)

    @classmethod
    @contextmanager
    def running(cls, folder: Path, *, nodes: int, slots: int) -> Iterator[Bench]:
        """Start both services, for as long as the context lasts."""
        for name in ("azure", "prefect"):
            (folder / name).mkdir()
        with local_azure(folder / "azure") as azure, prefect_server(folder / "prefect") as prefect:
            yield cls(folder, azure, prefect, nodes, slots)

    def inputs(self, count: int, size: int) -> Path:
        """A folder with that many text files of about that many bytes each."""
        folder = self._folder / f"inputs-{count}-{size}"
        if not folder.exists():
            _make_files(folder, count, size)
        return folder

    def run(self, client: Client, inputs: Path) -> Measured:
        """One run, on services that have nothing else to do. Exits if it fails."""
        with self._turn(client, inputs, self._azure.settings) as turn:
            return self._checked(turn.run(), inputs)

    def profile(self, inputs: Path, *, count_requests: bool) -> Profile:
        """One run of the flow, whose job stays to be read. Its requests are counted by a proxy, which takes time."""
        services = self._azure.batch, self._azure.azurite
        endpoint = self._azure.blob_endpoint
        with passing_through(endpoint) if count_requests else nullcontext(Requests(endpoint=endpoint)) as requests:
            with self._turn(Client.FLOW, inputs, self._azure.through(requests.endpoint), keep_job=True) as turn:
                before = [resident_kb(pid) for pid in services]
                for pid in services:
                    forget_peak(pid)
                requests.client = turn.pid
                measured = self._checked(turn.run(), inputs)
                peaks = [peak_kb(pid) for pid in services]
            by_flow, by_nodes = requests.counts()
        batch, azurite = (Memory(grown=peak - old, peak=peak) for peak, old in zip(peaks, before, strict=True))
        return Profile(
            measured=measured,
            nodes_busy=self._take_kept_job() / self.slots,
            steps=self._steps(measured.done.flow_run_id),
            batch=batch,
            azurite=azurite,
            by_flow=by_flow,
            by_nodes=by_nodes,
        )

    def _checked(self, measured: Measured, inputs: Path) -> Measured:
        """Exits unless there is a list for each file, with the same counts as in the first run of either client."""
        answer = measured.done.lists, measured.done.words
        expected = len(list(inputs.iterdir())), self._words.setdefault(inputs, measured.done.words)
        if answer != expected:
            raise SystemExit(
                f"{answer[0]} lists with {answer[1]} words in all; {expected[0]} with {expected[1]} expected"
            )
        return measured

    @contextmanager
    def _turn(
        self, client: Client, inputs: Path, settings: Mapping[str, str], *, keep_job: bool = False
    ) -> Iterator[Turn]:
        self._wait_until_quiet()
        results = self._folder / "results"
        results.mkdir()
        work = Work(inputs=inputs, results=results, nodes=self._nodes, slots=self._slots_per_node, keep_job=keep_job)
        try:
            yield Turn(client, work, {**settings, **self._prefect})
        finally:
            shutil.rmtree(results)

    def _wait_until_quiet(self) -> None:
        """Wait until nothing of the run before is left."""
        limit = time.monotonic() + LIMIT
        while next(iter(self._batch.list_pools()), None) or next(iter(self._batch.list_jobs()), None):
            if time.monotonic() > limit:
                raise SystemExit(f"a pool or job of the run before is still there after {LIMIT:g} s")
            time.sleep(0.1)

    def _take_kept_job(self) -> float:
        """Delete the only job; returns the sum of its tasks' seconds."""
        (job,) = self._batch.list_jobs()
        tasks = self._batch.list_tasks(str(job.id), select=["id", "executionInfo"])
        seconds = task_seconds(tasks)
        self._batch.begin_delete_job(str(job.id))
        return seconds

    def _steps(self, flow_run_id: str) -> dict[str, float]:
        """The seconds of each Prefect task of the run, in their order."""
        body = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
        limit = time.monotonic() + LIMIT
        with httpx.Client(trust_env=False, timeout=30) as client:
            while time.monotonic() < limit:
                url = f"{self._prefect['PREFECT_API_URL']}/task_runs/filter"
                runs = client.post(url, json=body).raise_for_status().json()
                if runs and all(run["end_time"] for run in runs):
                    return {run["name"]: _seconds_between(run["start_time"], run["end_time"]) for run in runs}
                time.sleep(0.5)  # the server writes what the run has sent
        raise SystemExit("the Prefect server does not know when the steps ended")


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _make_files(folder: Path, count: int, size: int) -> None:
    folder.mkdir()
    rng = random.Random(count)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(500)]
    for number in range(count):
        text = " ".join(rng.choices(words, k=size // 4))[: size - 1]
        (folder / f"text-{number:06}.txt").write_text(f"{text}\n", encoding="utf-8")
