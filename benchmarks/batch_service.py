"""How fast the local Batch service is, beside what this machine can do without it.

    python benchmarks/batch_service.py [--tasks 10000] [--runs 1000]

Each figure is taken through the unmodified SDK, and stands beside the same requests to a server that only ever gives
one ready-made answer, or the same commands without Batch. Ends with 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
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
from pathlib import Path

import uvicorn
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ROOT = Path(__file__).resolve().parents[1]
SLOTS = 4
COUNTS_ASKED = 300
IDLE_FOR = 5.0  # seconds
MACHINE = m.VirtualMachineConfiguration(
    image_reference=m.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server"),
    node_agent_sku_id="batch.node.ubuntu 24.04",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement, what the machine does in the same time, and the bound."""

    what: str
    value: float
    unit: str
    machine: float | None
    bound: str
    kept: bool

    def __str__(self) -> str:
        ratio = f"{self.machine:10.2f} {self.value / self.machine:8.1f}" if self.machine else f"{'':10} {'':8}"
        return (
            f"{self.what:45} {self.value:10.2f} {ratio} {self.unit:8} {self.bound:>10} {'' if self.kept else 'MISSED'}"
        )


class Service:
    """The local Batch service in a process of its own, through python -m local_azure."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "local_azure", "--batch-port=0", "--blob-port=0", "--until-stdin-closes"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        settings = dict(self.process.stdout.readline().rstrip("\n").split("=", 1) for _ in range(5))
        credential = AzureNamedKeyCredential(settings["AZURE_BATCH_ACCOUNT"], settings["AZURE_BATCH_ACCESS_KEY"])
        self.client = BatchClient(settings["AZURE_BATCH_ENDPOINT"], credential)

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1000

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def ready_made() -> Iterator[BatchClient]:
    """A server that answers without doing anything: what the SDK, HTTP and this machine cost by themselves."""
    counts = {"active": 0, "running": 0, "completed": 0, "succeeded": 0, "failed": 0}

    async def add(request: Request) -> Response:
        ids = [task["id"] for task in (await request.json())["value"]]
        return JSONResponse({"value": [{"status": "success", "taskId": each} for each in ids]})

    async def count(request: Request) -> Response:
        return JSONResponse({"taskCounts": counts, "taskSlotCounts": counts})

    page = json.dumps({"value": [{"id": f"task{n}", "state": "active"} for n in range(1000)]}).encode()

    async def tasks(request: Request) -> Response:
        return Response(page, media_type="application/json")

    routes = [
        Route("/jobs/{job}/addtaskcollection", add, methods=["POST"]),
        Route("/jobs/{job}/taskcounts", count),
        Route("/jobs/{job}/tasks", tasks),
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


def tasks(count: int) -> list[m.BatchTaskCreateOptions]:
    return [m.BatchTaskCreateOptions(id=f"task{number}", command_line="/bin/true") for number in range(count)]


def counting(client: BatchClient) -> float:
    """Milliseconds of one request for task counts, the median of many."""
    return 1000 * statistics.median(seconds(lambda: client.get_job_task_counts("many")) for _ in range(COUNTS_ASKED))


def requests(service: Service, count: int) -> Iterator[Row]:
    client = service.client
    client.create_job(m.BatchJobCreateOptions(id="many", pool_info=m.BatchPoolInfo(pool_id="none")))
    with ready_made() as bare:
        added = seconds(lambda: client.create_tasks("many", tasks(count)))
        bound = 5 * count / 10_000
        machine = seconds(lambda: bare.create_tasks("many", tasks(count)))
        yield Row(
            what=f"add {count} tasks", value=added, unit="s", machine=machine, bound=f"< {bound:g}", kept=added < bound
        )
        counts = counting(client)
        yield Row(what="task counts", value=counts, unit="ms", machine=counting(bare), bound="< 2", kept=counts < 2)
        listed = seconds(lambda: list(client.list_tasks("many", filter="state eq 'active'", select=["id", "state"])))
        machine = seconds(lambda: [list(bare.list_tasks("many")) for _ in range(count // 1000)])
        what = f"list {count} tasks with a filter"
        yield Row(what=what, value=listed, unit="s", machine=machine, bound="< 1", kept=listed < 1)


def upkeep(service: Service, count: int) -> Iterator[Row]:
    memory = service.memory()
    what = f"memory with {count} tasks"
    yield Row(what=what, value=memory, unit="MB", machine=None, bound="< 200", kept=memory < 200)
    before = service.cpu()
    time.sleep(IDLE_FOR)
    idle = 100 * (service.cpu() - before) / IDLE_FOR
    yield Row(what="processor time when idle", value=idle, unit="%", machine=None, bound="< 1", kept=idle < 1)


def running(service: Service, count: int) -> Row:
    """Tasks per second on one node, from the first that is added to the last that has completed."""
    client = service.client
    pool = m.BatchPoolCreateOptions(
        id="one",
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=MACHINE,
        target_dedicated_nodes=1,
        task_slots_per_node=SLOTS,
    )
    client.create_pool(pool)
    while [node.state for node in client.list_nodes("one")] != ["idle"]:
        time.sleep(0.05)
    client.create_job(m.BatchJobCreateOptions(id="runs", pool_info=m.BatchPoolInfo(pool_id="one")))

    def run_all() -> None:
        client.create_tasks("runs", tasks(count))
        while client.get_job_task_counts("runs").task_counts.completed < count:
            time.sleep(0.05)

    rate = count / seconds(run_all)
    with ThreadPoolExecutor(SLOTS) as slots:
        plain = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            "import os; os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)",
        ]
        alone = count / seconds(lambda: list(slots.map(lambda _: subprocess.run(plain, check=True), range(count))))
    what = f"run /bin/true, {SLOTS} at a time"
    return Row(what=what, value=rate, unit="tasks/s", machine=alone, bound="> 100", kept=rate >= 100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000, help="in the job that is counted and listed")
    parser.add_argument("--runs", type=int, default=1000, help="tasks that are run")
    options = parser.parse_args()
    print(f"{'':45} {'service':>10} {'machine':>10} {'ratio':>8} {'unit':8} {'bound':>10}")
    kept = True
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TMPDIR"] = temporary
        service = Service()
        try:
            for row in [
                *requests(service, options.tasks),
                *upkeep(service, options.tasks),
                running(service, options.runs),
            ]:
                print(row, flush=True)
                kept = kept and row.kept
        finally:
            service.stop()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
