"""How fast the local Batch service is, beside what this machine can do without it.

    python -m benchmarks.batch_service [--tasks 100000] [--runs 2000]

Requests are sent by the unmodified SDK. A figure stands beside the same requests to a server that only ever gives one
ready-made answer, or the same commands without Batch, measured in turn; the ratio of the two depends least on what else
the machine does. Ends with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.rest import HttpRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.services import LocalAzure, local_azure, process_tree

SLOTS = 8
COMPARED = 10_000  # tasks that are added to both servers
SLICE = 1000  # of them, in turn
FAILING = 100  # one task in that many fails
ASKED = 20  # times that a request is repeated
IDLE_FOR = 5.0  # seconds
API = "api-version=2025-06-01"
MACHINE = m.VirtualMachineConfiguration(
    image_reference=m.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server"),
    node_agent_sku_id="batch.node.ubuntu 24.04",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement, what the machine does by itself, and the target: of the value, or of the ratio of the two."""

    what: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    machine: float | None = None
    most_times: float | None = None

    @property
    def ratio(self) -> float:
        return self.value / self.machine if self.machine else 0.0

    @property
    def reached(self) -> bool:
        return (
            (self.most is None or self.value < self.most)
            and (self.least is None or self.value >= self.least)
            and (self.most_times is None or self.ratio <= self.most_times)
        )

    @property
    def target(self) -> str:
        limits = {"< {:g}": self.most, ">= {:g}": self.least, "<= {:g} times": self.most_times}
        return ", ".join(text.format(limit) for text, limit in limits.items() if limit is not None)

    def __str__(self) -> str:
        beside = f"{self.machine:10.2f} {self.ratio:6.1f}" if self.machine else f"{'':17}"
        missed = "" if self.reached else "MISSED"
        return f"{self.what:48} {self.value:9.2f} {beside} {self.unit:8} {self.target:>12} {missed}".rstrip()


class Service:
    """The local Batch service, in a process of its own."""

    def __init__(self, azure: LocalAzure) -> None:
        self._pid = azure.batch
        settings = azure.settings
        credential = AzureNamedKeyCredential(settings["AZURE_BATCH_ACCOUNT"], settings["AZURE_BATCH_ACCESS_KEY"])
        self.client = BatchClient(settings["AZURE_BATCH_ENDPOINT"], credential)

    def _processes(self) -> Iterator[Path]:
        """The process and its supervisors, without Azurite and commands, in /proc."""
        for process in map("/proc/{}".format, process_tree(self._pid)):
            with contextlib.suppress(OSError):  # a command that has just ended
                if Path(process, "exe").readlink().name.startswith("python"):
                    yield Path(process)

    def memory(self) -> float:
        """Memory in MB; what processes share counts once."""
        total = 0
        for process in self._processes():
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += int(next(line.split()[1] for line in lines if line.startswith("Pss:")))
        return total / 1000

    def cpu(self) -> float:
        """Seconds of processor time so far, with that of ended commands."""
        total = 0
        for process in self._processes():
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
            total += sum(map(int, fields[11:13] if int(process.name) == self._pid else fields[11:15]))
        return total / os.sysconf("SC_CLK_TCK")


@contextmanager
def ready_made() -> Iterator[BatchClient]:
    """A server that answers without doing anything: what the SDK, HTTP and this machine cost by themselves."""
    # The SDK takes time to read all that Azure answers.
    added = {"status": "Success", "eTag": "0x8DE2EABC1234567", "lastModified": "2026-11-28T00:00:00.0000000Z"}
    counts = {"active": 0, "running": 0, "completed": 0, "succeeded": 0, "failed": 0}

    async def add(request: Request) -> Response:
        job = str(request.url).partition("/addtaskcollection")[0]
        ids = [task["id"] for task in (await request.json())["value"]]
        return JSONResponse({"value": [{**added, "taskId": each, "location": f"{job}/tasks/{each}"} for each in ids]})

    async def count(request: Request) -> Response:
        return JSONResponse({"taskCounts": counts, "taskSlotCounts": counts})

    async def one(request: Request) -> Response:
        return JSONResponse({"id": "task", "state": "active"})

    page = json.dumps({"value": [{"id": f"task{n}", "state": "active"} for n in range(1000)]}).encode()

    async def tasks(request: Request) -> Response:
        return Response(page, media_type="application/json")

    routes = [
        Route("/jobs/{job}/addtaskcollection", add, methods=["POST"]),
        Route("/jobs/{job}/taskcounts", count),
        Route("/jobs/{job}/tasks", tasks),
        Route("/jobs/{job}/tasks/{task}", one),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield BatchClient(f"http://127.0.0.1:{port}", AzureNamedKeyCredential("none", "bm9uZQ=="))
    server.should_exit = True
    thread.join()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def tasks(start: int, count: int) -> list[m.BatchTaskCreateOptions]:
    return [
        m.BatchTaskCreateOptions(id=f"task{number}", command_line="/bin/true" if number % FAILING else "/bin/false")
        for number in range(start, start + count)
    ]


def adding(service: Service, bare: BatchClient, count: int) -> Iterator[Row]:
    """Fill the job `many`, whose pool does not exist yet."""
    client = service.client
    client.create_job(m.BatchJobCreateOptions(id="many", pool_info=m.BatchPoolInfo(pool_id="later")))
    memory, own, machine = service.memory(), 0.0, 0.0
    compared = min(COMPARED, count)
    for start in range(0, compared, SLICE):
        own += seconds(partial(client.create_tasks, "many", tasks(start, SLICE)))
        machine += seconds(partial(bare.create_tasks, "many", tasks(start, SLICE)))
    yield Row(what=f"add {compared:,} tasks", value=own, unit="s", machine=machine, most_times=2)
    if count > compared:
        client.create_tasks("many", tasks(compared, count - compared))
    grown = 1000 * (service.memory() - memory) / count
    yield Row(what=f"memory per task, after {count:,} tasks", value=grown, unit="KB", most=1)


def asking(service: Service, bare: BatchClient, count: int) -> Iterator[Row]:
    """Milliseconds of a request, which for a list is one page, the median of many."""
    listing = f"/jobs/many/tasks?{API}"
    some = f"/jobs/many/tasks/task{count // 2}?{API}"
    requests = {
        "count the tasks": f"/jobs/many/taskcounts?{API}",
        "get a task": some,
        "list all": listing,
        "list all: id and state": f"{listing}&$select=id,state",
        "list state eq 'completed'": f"{listing}&$filter=state%20eq%20'completed'",
        "list state eq 'running'": f"{listing}&$filter=state%20eq%20'running'",
        "list executionInfo/result eq 'failure'": f"{listing}&$filter=executionInfo/result%20eq%20'failure'",
        "list executionInfo/exitCode eq 5 (no index)": f"{listing}&$filter=executionInfo/exitCode%20eq%205",
    }
    for what, path in requests.items():
        own = [ask(service.client, each) for each in itertools.islice(pages(service.client, path), ASKED)]
        machine = [ask(bare, path) for _ in own]
        times = [1000 * statistics.median(each) for each in (own, machine)]
        yield Row(what=f"{what}, of {count:,}", value=times[0], unit="ms", most=50, machine=times[1])
    with listed_all_the_time(service.client, listing):
        busy = 1000 * statistics.median(ask(service.client, some) for _ in range(5 * ASKED))
    yield Row(what="get a task, while another client lists all", value=busy, unit="ms", most=50)


def send(client: BatchClient, path: str) -> Any:
    response = client.send_request(HttpRequest("GET", path))
    response.raise_for_status()
    return response


def ask(client: BatchClient, path: str) -> float:
    return seconds(lambda: send(client, path))


def pages(client: BatchClient, path: str) -> Iterator[str]:
    """The addresses of the pages of a list, again and again; of anything else, its own."""
    while True:
        yield path
        following = send(client, path).json().get("odata.nextLink")
        while following:
            yield following
            following = send(client, following).json().get("odata.nextLink")


@contextmanager
def listed_all_the_time(client: BatchClient, path: str) -> Iterator[None]:
    stop = threading.Event()

    def listing() -> None:
        for _ in itertools.takewhile(lambda _: not stop.is_set(), pages(client, path)):
            pass

    thread = threading.Thread(target=listing)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def running(service: Service, runs: int, count: int) -> Iterator[Row]:
    """Tasks per second on one node, in a job of their own, and at the beginning of the job `many`."""
    client = service.client
    with ThreadPoolExecutor(SLOTS) as slots:
        alone = runs / seconds(
            lambda: list(slots.map(lambda _: subprocess.run(["/bin/true"], check=True), range(runs)))
        )
    client.create_job(m.BatchJobCreateOptions(id="few", pool_info=m.BatchPoolInfo(pool_id="now")))
    client.create_tasks("few", tasks(0, runs))
    cpu, rate = completing(service, "now", "few", runs)
    what = f"run /bin/true, {SLOTS} at a time"
    yield Row(what=what, value=rate, unit="tasks/s", machine=alone, least=400)
    yield Row(what="processor time per task, /bin/true included", value=cpu, unit="ms", most=1000 * 2 / 400)
    cpu_of_many, _ = completing(service, "later", "many", runs)
    what = f"the same in a job of {count:,} tasks"
    yield Row(what=what, value=cpu_of_many, unit="ms", machine=cpu, most_times=1.25)


def completing(service: Service, pool: str, job: str, runs: int) -> tuple[float, float]:
    """Create the pool of a job; returns milliseconds of processor time per task, and tasks per second."""
    client = service.client
    client.create_pool(
        m.BatchPoolCreateOptions(
            id=pool,
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=MACHINE,
            target_dedicated_nodes=1,
            task_slots_per_node=SLOTS,
        )
    )
    while not (done := client.get_job_task_counts(job).task_counts.completed):
        time.sleep(0.005)
    cpu, start = service.cpu(), time.perf_counter()
    while (now := client.get_job_task_counts(job).task_counts.completed) < runs:
        time.sleep(0.05)
    elapsed, cpu = time.perf_counter() - start, service.cpu() - cpu
    return 1000 * cpu / (now - done), (now - done) / elapsed


def upkeep(service: Service, count: int) -> Iterator[Row]:
    yield Row(what=f"memory with {count:,} tasks and {SLOTS} supervisors", value=service.memory(), unit="MB", most=100)
    before = service.cpu()
    time.sleep(IDLE_FOR)
    idle = 100 * (service.cpu() - before) / IDLE_FOR
    yield Row(what="processor time when idle", value=idle, unit="%", most=1)


def measure(service: Service, count: int, runs: int) -> Iterator[Row]:
    with ready_made() as bare:
        yield from adding(service, bare, count)
        yield from running(service, runs, count)
        disabling = m.BatchJobDisableOptions(disable_tasks="requeue")
        service.client.begin_disable_job("many", disabling, polling_interval=1).result()
        yield from asking(service, bare, count)
        yield from upkeep(service, count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000, help="in the job that is listed")
    parser.add_argument("--runs", type=int, default=2000, help="tasks that are run")
    options = parser.parse_args()
    print(f"{'':48} {'service':>9} {'machine':>10} {'ratio':>6} {'unit':8} {'target':>12}", flush=True)
    reached = True
    with tempfile.TemporaryDirectory() as temporary, local_azure(Path(temporary)) as azure:
        for row in measure(Service(azure), options.tasks, options.runs):
            print(row, flush=True)
            reached = reached and row.reached
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
