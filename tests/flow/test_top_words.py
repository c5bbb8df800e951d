"""The flow end to end: real Azurite, the local Batch service, a real Prefect server."""

from __future__ import annotations

import gzip
import logging
import math
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pandas as pd
import pytest
from azure.batch.models import (
    BatchStartTask,
)
from prefect.client.base import PrefectHttpxSyncClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from typer.testing import CliRunner

import flows.top_words as flow_module
import tasks.resources.pool
from flows.cli import app
from flows.top_words import top_words
from tasks.accounts.clients import Azure
from tasks.errors import InputError, TasksFailed
from tasks.run.settings import CleanUp, Disposal, PoolSettings
from tasks.summary import Summary
from tests.support.accounts import add_pool, left_over
from tests.support.flow_runs import artifact
from tests.support.paths import DATA
from tests.support.polling import eventually

pytestmark = pytest.mark.usefixtures("prefect_server", "azure")

SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/ours/subnets/nodes"
KEEP = CleanUp(containers=Disposal.KEEP, job=Disposal.KEEP, pool=Disposal.KEEP)

# For each file:
#   LC_ALL=C tr -s '[:space:]' '\n' < FILE | LC_ALL=C sed -E 's/^[[:punct:]]+//; s/[[:punct:]]+$//' | grep -v '^$' |
#   awk '{if (!n[$0]++) first[$0]=NR} END {for (w in n) print n[w], first[w], w}' | sort -k1,1nr -k2,2n | head -5
GOLDEN = {
    "clouds.txt": [("the", 16), ("a", 10), ("is", 8), ("that", 7), ("you", 7)],
    "harbour.txt": [("the", 35), ("and", 10), ("on", 5), ("is", 5), ("with", 4)],
    "kitchen.txt": [("the", 13), ("is", 4), ("ten", 4), ("minutes", 4), ("and", 4)],
}


def words(summary: Summary, file: str) -> list[tuple[str, int]]:
    rows = summary.by_file[summary.by_file["file"] == file]
    return list(zip(rows["word"], rows["count"], strict=True))


@pytest.fixture(autouse=True)
def clean_accounts(azure: Azure) -> Iterator[None]:
    """Whatever a test keeps is deleted after it."""
    yield
    with azure.batch() as batch, azure.blobs() as blobs:
        for job in batch.list_jobs():
            batch.begin_delete_job(job.id, polling_interval=0.05).wait()  # type: ignore[arg-type]
        for pool in batch.list_pools():
            batch.begin_delete_pool(pool.id, polling_interval=0.05).wait()  # type: ignore[arg-type]
        for container in blobs.list_containers():
            blobs.delete_container(container.name)


def test_the_sample_texts_have_the_words_that_other_tools_count(tmp_path: Path) -> None:
    summary = top_words(inputs=[str(DATA)], top_n=5, output_folder=str(tmp_path))
    assert {file: words(summary, file) for file in GOLDEN} == GOLDEN
    assert summary.missing == ()


def test_a_single_path_will_do(tmp_path: Path) -> None:
    summary = top_words(inputs=DATA / "clouds.txt", top_n=1, output_folder=str(tmp_path))  # type: ignore[call-overload]
    assert words(summary, "clouds.txt") == [("the", 16)]


def test_the_results_are_left_in_a_folder_of_the_run(tmp_path: Path) -> None:
    summary = top_words(inputs=[str(DATA / "clouds.txt")], top_n=2, output_folder=str(tmp_path))
    assert summary.folder.parent == tmp_path
    assert sorted(path.name for path in summary.folder.iterdir()) == [
        ".done.json",
        ".run.json",
        "clouds.txt",
        "manifest.csv",
        "manifest.parquet",
        "summary.csv",
        "summary.parquet",
        "summary_overall.csv",
        "summary_overall.parquet",
    ]
    (task,) = set(summary.by_file["task"])
    (node,) = set(summary.by_file["node"])
    assert task == "topNtask0"
    assert (summary.folder / "summary.csv").read_text() == (
        f"file,rank,word,count,task,node\nclouds.txt,1,the,16,topNtask0,{node}\nclouds.txt,2,a,10,topNtask0,{node}\n"
    )
    assert (summary.folder / "clouds.txt" / "clouds_OUTPUT.txt").read_text() == (
        f"Word\tCount\n{'-' * 30}\nthe:\t16\na:\t10\n{'-' * 30}\n"
        f"Node: {node}\nTask: topNtask0\nJob:  {summary.folder.name}\nPool: {summary.folder.name}\n"
    )


def test_totals_over_all_files_have_both_bounds(tmp_path: Path) -> None:
    summary = top_words(inputs=[str(DATA)], top_n=2, output_folder=str(tmp_path))
    assert summary.overall.values.tolist() == [
        [1, "the", 16 + 35 + 13, 16 + 35 + 13, 3],
        [2, "a", 10, 10 + 10 + 4, 1],
        [3, "and", 10, 10 + 10 + 4, 1],
        [4, "is", 4, 4 + 10 + 10, 1],
    ]


def test_exact_totals_are_those_of_all_texts_together(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_bytes("one one, below below é\ufeff \xff".encode("latin-1", "replace"))
    (texts / "b.txt").write_bytes("two two, below below été".encode("cp1252"))
    (texts / "none.txt").write_text("-- ...")
    (texts / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    options = [str(texts), "--exact", "--top-n", "1", "--allow-failures", "1", "--encoding", "cp1252"]
    result = CliRunner().invoke(app, [*options, "--output", str(tmp_path / "out")])
    assert (result.exit_code, result.exception) == (0, None), result.output
    (folder,) = (tmp_path / "out").iterdir()
    overall = pd.read_parquet(folder / "summary_overall.parquet")
    assert overall.values.tolist() == [[1, "below", 4, 4, 2], [2, "one", 2, 2, 1], [3, "two", 2, 2, 1]]
    assert "Without output: picture.png" in result.stdout
    with gzip.open(folder / "b.txt" / "all_words.tsv.gz", "rt", encoding="utf-8") as table:
        assert table.read() == "two\t2\nbelow\t2\nété\t1\n"


def test_a_run_leaves_nothing_behind(azure: Azure, tmp_path: Path) -> None:
    top_words(inputs=[str(DATA)], output_folder=str(tmp_path))
    assert left_over(azure) == []


def test_a_lost_answer_of_prefect_to_the_run_s_end_does_not_lose_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = PrefectHttpxSyncClient.send

    def send_twice(client: PrefectHttpxSyncClient, request: httpx.Request, *args: Any, **kwargs: Any) -> Any:
        if request.url.path.endswith("/set_state"):
            send(client, request, *args, **kwargs)  # as if its answer had never come: the client asks again
        return send(client, request, *args, **kwargs)

    monkeypatch.setattr(PrefectHttpxSyncClient, "send", send_twice)
    result = CliRunner().invoke(app, [str(DATA / "clouds.txt"), "--top-n", "1", "--output", str(tmp_path)])
    assert (result.exit_code, result.exception) == (0, None), result.output
    assert re.search(r"^ *clouds\.txt +1 +the +16 +topNtask0", result.stdout, re.MULTILINE)


def test_what_is_to_be_kept_is_kept(azure: Azure, tmp_path: Path) -> None:
    name = top_words(inputs=[str(DATA)], output_folder=str(tmp_path), clean_up=KEEP).folder.name
    assert left_over(azure) == [
        f"pool {name}",
        f"job {name}",
        *(f"container {name}-{role}" for role in ("application", "input", "output")),
    ]


def test_the_nine_steps_say_in_the_log_what_each_did(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prefect"):
        summary = top_words(inputs=[str(DATA)], output_folder=str(tmp_path))
    name, log = summary.folder.name, caplog.text
    for said in (
        f"Container {name}-application: created",
        "10 of 10 files",
        f"uploaded to {name}-application",
        f"Pool {name}: created; 2 dedicated nodes",
        f"Job {name}: created; pool {name}",
        f"Job {name}: 3 Batch tasks added",
        "3 of 3 Batch tasks completed (3 succeeded, 0 failed)",
        "Outputs of 3 of 3 files: downloaded to",
        f"Container {name}-output: deleted",
        f"Job {name}: deleted",
        f"Pool {name}: deleted",
    ):
        assert said in log
    *_, last, ended = (message for message in caplog.messages if "temporary server" not in message)
    assert re.fullmatch(r"Report: http://127\.0\.0\.1:\d+/(v2/)?artifacts/artifact/[0-9a-f-]{36}", last)
    assert ended == "Finished in state Completed()"
    assert edges_of(UUID(summary.flow_run_id)) == CHAIN


CHAIN = {
    "0 check input": [],
    "0 check accounts": ["0 check input"],
    "1 create containers": ["0 check accounts"],
    "2 upload files": ["1 create containers"],
    "3 create pool": ["2 upload files"],
    "4 create job": ["3 create pool"],
    "5 add tasks": ["4 create job"],
    "6 monitor tasks": ["5 add tasks"],
    "7 download output": ["6 monitor tasks"],
    "summarise": ["7 download output"],
    "8 delete containers": ["summarise"],
    "9 delete job": ["summarise"],
    "9 delete pool": ["summarise"],
}


def edges_of(flow_run_id: UUID) -> dict[str, list[str]]:
    """The steps as they are joined in the run's graph: each with those before it."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))

    def recorded() -> list[TaskRun]:
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=only)
        return runs if len(runs) == len(CHAIN) else []

    runs = eventually("the records of all steps", recorded)
    names = {run.id: run.name for run in runs}
    return {
        run.name: [
            names[each.id] for each in chain.from_iterable(run.task_inputs.values()) if each.input_type == "task_run"
        ]
        for run in runs
    }


AWKWARD = [
    "with spaces.txt",
    'it\'s "quoted".txt',
    "$(touch pwned);`id`;$HOME.txt",
    "--sastoken=x.txt",
    "-n.txt",
    "naïve 日本語 🎉.txt",
    "100%25 #1?&x=+y.txt",
    " leading and trailing .txt ",
    "no extension",
    "top_words.py",
    "input",
]


def test_awkward_file_names_survive_from_upload_to_download(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index, name in enumerate(AWKWARD):
        (folder / name).write_text(f"word{index} " * 2 + "once")
    summary = top_words(inputs=[str(folder)], top_n=1, output_folder=str(tmp_path / "out"))
    assert {file: words(summary, file) for file in AWKWARD} == {
        name: [(f"word{index}", 2)] for index, name in enumerate(AWKWARD)
    }
    assert not list(tmp_path.rglob("pwned"))


def test_any_encoding_is_counted_what_is_no_text_is_told_and_long_words_are_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    text = "Съешь ещё, ещё булок. NA 007"
    long = "x" * 5_000_000
    (folder / "cp1251.txt").write_bytes(text.encode("cp1251") + b" \x98")
    (folder / "long.txt").write_text(f"\x1b[31m{long} {long}")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n and words")
    (folder / "utf16.txt").write_bytes(text.encode("utf-16"))
    state = top_words(
        inputs=[str(folder)],
        output_folder=str(tmp_path / "out"),
        allow_failures=1,
        encoding="windows-1251",
        return_state=True,
    )
    summary = state.result()
    found = [("ещё", 2), ("Съешь", 1), ("булок", 1), ("NA", 1), ("007", 1)]
    assert words(summary, "cp1251.txt") == [*found, ("\ufffd", 1)]
    assert words(summary, "utf16.txt") == found
    assert (summary.missing, summary.replaced) == (("picture.png",), (("cp1251.txt", 1),))
    by_file = pd.read_parquet(summary.folder / "summary.parquet")
    overall = pd.read_parquet(summary.folder / "summary_overall.parquet")
    assert by_file.to_dict("list") == summary.by_file.to_dict("list")
    assert overall.to_dict("list") == summary.overall.to_dict("list")
    assert set(by_file["word"]) == {word for word, _ in found} | {"\ufffd", f"\x1b[31m{long}", long}
    for key in ("top-words-by-file", "top-words-overall"):
        shown = {row["word"] for row in artifact(state, key)}
        assert shown == {word for word, _ in found} | {"\ufffd", "\ufffd" + "x" * 198 + "…", "x" * 199 + "…"}
    assert "| cp1251.txt | 1 |" in artifact(state, "run-report")
    assert "cp1251.txt: 1 bytes are not in its encoding" in caplog.text
    assert "picture.png is not text: it starts as a PNG file does" in caplog.text
    logs = {str(path.relative_to(summary.folder)) for path in summary.folder.glob("logs/*/*") if path.stat().st_size}
    assert logs == {"logs/cp1251.txt/stderr.txt", "logs/picture.png/stderr.txt"}


def test_the_sas_links_open_while_the_containers_are_there_and_permit_reading_only(tmp_path: Path) -> None:
    state = top_words(inputs=[str(DATA / "clouds.txt")], output_folder=str(tmp_path), clean_up=KEEP, return_state=True)
    links = re.findall(r"\]\((http\S+)\)", artifact(state, "sas-links"))
    assert len(links) == 11  # what runs on the nodes, and the input file
    with urllib.request.urlopen(links[-1]) as response:
        assert response.read() == (DATA / "clouds.txt").read_bytes()
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    overwrite = urllib.request.Request(links[-1], b"x", {"x-ms-blob-type": "BlockBlob"}, method="PUT")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(overwrite)
    assert refused.value.code == 403


def test_the_artifacts_show_task_states_progress_and_the_summary(tmp_path: Path) -> None:
    state = top_words(inputs=[str(DATA)], top_n=1, output_folder=str(tmp_path), return_state=True)
    table = artifact(state, "batch-task-states")
    assert [(row["task"], row["file"], row["state"], row["exit code"]) for row in table] == [
        ("topNtask0", "clouds.txt", "completed", 0),
        ("topNtask1", "harbour.txt", "completed", 0),
        ("topNtask2", "kitchen.txt", "completed", 0),
    ]
    assert all(row["seconds"] >= 0 and row["node"].startswith("tvmps_") for row in table)
    assert artifact(state, "batch-task-progress") == 100.0
    assert [(row["word"], row["count"]) for row in artifact(state, "top-words-by-file")] == [
        ("the", 16),
        ("the", 35),
        ("the", 13),
    ]
    assert artifact(state, "top-words-overall")[0] == {
        "rank": 1, "word": "the", "count": 64, "at_most": 64, "files": 3,
    }  # fmt: skip


def test_an_existing_pool_is_used_and_stays(azure: Azure, tmp_path: Path) -> None:
    add_pool(azure, "team-pool", target_dedicated_nodes=1)
    pool = PoolSettings(existing_pool_id="team-pool")
    summary = top_words(inputs=[str(DATA)], top_n=5, pool=pool, output_folder=str(tmp_path))
    assert {file: words(summary, file) for file in GOLDEN} == GOLDEN
    assert left_over(azure) == ["pool team-pool"]


@pytest.fixture
def script_that_fails_on_kitchens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = flow_module.NODE_SCRIPT.read_text()
    guard = (
        "import sys\n"
        "if __name__ == '__main__' and any('kitchen' in argument for argument in sys.argv):\n"
        "    sys.exit('the kitchen is closed')\n"
    )
    script = tmp_path / "top_words.py"
    script.write_text(
        real.replace("from __future__ import annotations\n", f"from __future__ import annotations\n{guard}")
    )
    monkeypatch.setattr(flow_module, "NODE_SCRIPT", script)


def test_a_batch_task_that_exits_with_1_fails_the_run_but_not_the_other_files(
    script_that_fails_on_kitchens: None, azure: Azure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = top_words(inputs=[str(DATA)], top_n=1, output_folder=str(tmp_path), return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, TasksFailed)
    first, what, stderr = str(error).splitlines()
    assert re.fullmatch(r"1 of 3 Batch tasks failed; the summary in \S+ lacks kitchen\.txt", first)
    assert re.match(r"kitchen\.txt: Batch task topNtask2 exited non-zero, exit code 1, node tvmps_\w+, 1 retry: ", what)
    assert stderr == "  stderr: the kitchen is closed"
    assert "Batch task topNtask2 (kitchen.txt) exited non-zero, exit code 1" in caplog.text
    assert "FailureExitCode (UserError)" in caplog.text
    assert "stderr: the kitchen is closed" in caplog.text
    assert [row["state"] for row in artifact(state, "batch-task-states")] == [
        "failed: exited non-zero",
        "completed",
        "completed",
    ]
    (results,) = tmp_path.glob("top-words-*")
    assert (results / "summary.csv").read_text().count("\n") == 1 + 2
    assert left_over(azure) == []


def test_a_failed_start_task_ends_the_run_at_once_with_its_stderr(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = BatchStartTask(command_line="/bin/sh -c 'echo the disk is full >&2; exit 7'", wait_for_success=True)
    monkeypatch.setattr(tasks.resources.pool, "_start_task", lambda pool: failing)
    with pytest.raises(TasksFailed) as error:
        top_words(inputs=[str(DATA)], output_folder=str(tmp_path))
    said = (
        r"no node of pool top-words-\w+ can run tasks: all 2 are starttaskfailed; the start task ended with exit code 7"
    )
    assert re.match(said, str(error.value))
    assert "\n  stderr: the disk is full\n" in str(error.value)
    assert left_over(azure) == []


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"inputs": ["no/such/*.txt"]}, "input 'no/such/*.txt': no file matches"),
        ({"inputs": []}, "no input is given"),
        ({"top_n": 0}, "top_n is 0; ask for at least 1 word per file"),
        (
            {"delay_seconds": -1},
            "delay_seconds is -1; a delay is 0 or more seconds, and less than the 60 minutes (task_minutes)",
        ),
        ({"delay_seconds": math.nan}, "delay_seconds is nan; a delay is 0 or more seconds"),
        ({"inputs": [""]}, "an input is empty"),
        ({"encoding": "utf-61"}, "encoding 'utf-61' is no text encoding that Python knows"),
        ({"output_folder": "~nobody-here/x"}, "output folder '~nobody-here/x': "),
        ({"pool": {"existing_pool_id": "nobodys-pool"}}, "pool 'nobodys-pool' does not exist in this Batch account"),
        (
            {"pool": {"image": "a:b:c"}},
            "image 'a:b:c' is not supported by this Batch account; verified Linux images are",
        ),
        (
            {"pool": {"subnet_id": SUBNET}},
            "subnet_id is set, and Azure Batch takes that only from a client that has signed in with Microsoft ",
        ),
        (
            {"pool": {"image": "canonical:ubuntu-24_04-lts:server-arm64", "vm_size": "Standard_D2s_v3"}},
            "vm_size Standard_D2s_v3 has an x86-64 processor, and canonical:ubuntu-24_04-lts:server-arm64 is for an ",
        ),
        ({"output_folder": "/proc/results"}, "output folder '/proc/results': cannot be written"),
    ],
)
def test_bad_input_is_refused_before_anything_is_created(
    parameters: dict[str, Any], said: str, azure: Azure, tmp_path: Path
) -> None:
    parameters = {"inputs": [str(DATA)], "output_folder": str(tmp_path), **parameters}
    with pytest.raises(InputError) as error:
        top_words(**parameters)
    assert str(error.value).startswith(said)
    assert left_over(azure) == []


def test_a_wrong_key_is_refused_in_one_readable_message(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_BATCH_ACCESS_KEY", "d3Jvbmc=")
    state = top_words(inputs=[str(DATA)], output_folder=str(tmp_path), return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"the Batch account {azure.batch_account.name} refuses the account key: ")
    assert left_over(azure) == []


def test_a_service_that_does_not_answer_is_named_with_its_setting(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_BATCH_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError) as error:
        top_words(inputs=[str(DATA)], output_folder=str(tmp_path))
    said = "the Batch account at http://127.0.0.1:1 does not answer; check AZURE_BATCH_ENDPOINT and the network"
    assert str(error.value).startswith(said)


def test_half_a_credential_is_refused(azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT")
    with pytest.raises(InputError, match="AZURE_STORAGE_CONNECTION_STRING"):
        top_words(inputs=[str(DATA)], output_folder=str(tmp_path))


def test_the_parameters_render_as_a_form_with_descriptions_and_bounds() -> None:
    schema = top_words.parameters
    assert list(schema.properties) == [
        "inputs", "top_n", "pool", "limits", "output_folder", "clean_up", "allow_failures", "files_per_task",
        "isolate", "skip_done", "cost_limit", "accounts", "check", "delay_seconds", "encoding", "exact",
    ]  # fmt: skip
    assert all(schema.properties[name].get("description") for name in schema.properties)
    assert schema.properties["top_n"]["minimum"] == 1
    assert schema.definitions is not None
    assert set(schema.definitions["Disposal"]["enum"]) == {"delete", "keep", "ask"}
    for group in ("PoolSettings", "TimeLimits", "CleanUp"):
        assert all(field.get("description") for field in schema.definitions[group]["properties"].values()), group
