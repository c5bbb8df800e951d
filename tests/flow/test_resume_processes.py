"""A run whose process was killed is finished by `prefect flow-run retry`, as processes against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

from prefect.states import Crashed

from tasks.accounts.clients import Azure
from tasks.run.identity import Run
from tasks.watching.heartbeats import MESSAGE
from tests.support.deployed import Deployed
from tests.support.paths import DATA
from tests.support.polling import eventually

LIMIT = 60.0  # seconds
TEXTS = {"a.txt": "the cat and the dog the end", "b.txt": "a dog a day"}


def files(tmp_path: Path) -> Path:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in TEXTS.items():
        (texts / name).write_text(text)
    return texts


def retry(deployed: Deployed, azure_settings: Mapping[str, str], flow_run: UUID, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "flow-run", "retry", str(flow_run), *more],
        cwd=DATA.parent,
        env={**deployed.environment, **azure_settings},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def named(azure_settings: Mapping[str, str], flow_run: UUID, workload: str = "top-words") -> list[str]:
    """What there is of the flow run's name in the accounts."""
    azure = Azure.from_environment(dict(azure_settings))
    assert azure
    name = Run(
        workload=workload, flow_run_id=str(flow_run), started=datetime.now(timezone.utc), lifetime=timedelta()
    ).name
    with azure.batch() as batch, azure.blobs() as blobs:
        found = [pool.id for pool in batch.list_pools(select=["id"])] + [job.id for job in batch.list_jobs()]
        found += [container.name for container in blobs.list_containers()]
    return [each for each in found if each.startswith(name)]


def counts(results: Path) -> list[str]:
    (table,) = results.glob("*/summary.csv")
    return [",".join(line.split(",")[:4]) for line in table.read_text().splitlines()[1:]]


COUNTS = ["a.txt,1,the,3", "a.txt,2,cat,1", "b.txt,1,a,2", "b.txt,2,dog,1"]


def test_a_retry_of_its_flow_run_finishes_a_killed_command(
    deployed: Deployed, azure_settings: dict[str, str], tmp_path: Path
) -> None:
    texts, results = files(tmp_path), tmp_path / "results"
    command = [sys.executable, "-m", "flows.top_words", str(texts), "--top-n", "2", "--nodes", "1", "--delay", "4"]
    with subprocess.Popen(
        [*command, "--output", str(results)],
        cwd=DATA.parent,
        env={**deployed.environment, **azure_settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        run = eventually(
            "the flow run", lambda: [each for each in deployed.runs() if each.parameters.get("inputs") == [str(texts)]]
        )[0]
        deployed.wait_for_log(run.id, "1 running")
        process.kill()
    assert named(azure_settings, run.id)
    # For this server it is still running: nobody was left to say otherwise, and no heartbeat is missed as yet. The
    # sweep that this state triggers waits for a sign of life, which the retry is.
    deployed.client.set_flow_run_state(run.id, Crashed(message=MESSAGE.format(minutes=4)), force=True)
    said = retry(deployed, azure_settings, run.id, "--entrypoint", "flows/top_words.py:top_words")
    assert "completed successfully" in said
    assert deployed.run(run.id).run_count == 2
    assert counts(results) == COUNTS
    eventually("the accounts being empty", lambda: not named(azure_settings, run.id), 10)
    assert len([line for line in deployed.logs(run.id) if re.match(r"Pool \S+: created", line)]) == 1


# Notes each file that it processes, and waits at some until it may go on.
SCRIPT = """
import os, pathlib, sys, time
folder, file = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
with (folder / "processed").open("a") as processed:
    processed.write(file.name + "\\n")
while file.read_text() == "wait" and not (folder / "go-on").exists():
    time.sleep(0.05)
pathlib.Path(os.environ["OUTPUT_DIR"], "name").write_text(file.name)
"""
FILES = [f"{number:02}.txt" for number in range(24)]
WAITS = ("03.txt", "20.txt")  # each in a group with others, of which some are done before


def test_a_retry_of_a_deployed_run_that_was_killed_processes_only_the_rest(
    deployed: Deployed, azure_settings: dict[str, str], tmp_path: Path
) -> None:
    inputs, results, processed = tmp_path / "inputs", tmp_path / "results", tmp_path / "processed"
    inputs.mkdir()
    (tmp_path / "work.py").write_text(SCRIPT)
    for name in FILES:
        (inputs / name).write_text("wait" if name in WAITS else name)
    run = deployed.start(
        "run-script",
        script=str(tmp_path / "work.py"),
        arguments=[str(tmp_path), "{input}"],
        inputs=[str(inputs)],
        output_folder=str(results),
        pool={"dedicated_nodes": 1, "slots_per_node": 3},
        files_per_task=8,
    )
    eventually(
        "both groups waiting, the third done",
        lambda: processed.exists() and {*WAITS, *FILES[8:16]} <= set(processed.read_text().split()),
    )
    deployed.kill(run)
    deployed.wait(run, "Crashed")
    eventually("the hook's clean-up", lambda: not named(azure_settings, run, "run-script"))
    # When the process of a flow run was killed the worker says Crashed once more, some time after its hook. A retry
    # that has begun by then would end with that.
    deployed.kill_worker()
    first = processed.read_text().split()
    (tmp_path / "go-on").touch()
    deployed.start_worker()
    retry(deployed, azure_settings, run)
    deployed.wait(run, "Completed")
    assert deployed.run(run).run_count == 2
    again = processed.read_text().split()[len(first) :]
    assert sorted(again) == sorted({*FILES} - {*first} | {*WAITS})
    assert sorted(path.read_text() for path in results.rglob("name")) == FILES
    eventually("the accounts being empty", lambda: not named(azure_settings, run, "run-script"), 10)
