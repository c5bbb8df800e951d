"""The worked example: the same steps with another node script and another summary."""

from __future__ import annotations

import codecs
import csv
import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.settings import get_current_settings

import examples.log_levels.flow as example
from examples.log_levels.count_levels import NOT_TEXT, UPLOAD_FAILED, NotText, count
from node_scripts import top_words
from tasks.accounts.clients import Azure
from tasks.errors import InputError, TasksFailed
from tasks.run.settings import RunSettings
from tests.support.polling import LIMIT

ROOT = Path(example.__file__).resolve().parents[2]
LOGS = example.NODE_SCRIPT.with_name("logs")
TABLE = [
    ["file", "ERROR", "WARNING", "INFO", "DEBUG", "other"],
    ["worker.log", "3", "1", "3", "0", "0"],
    ["api.log", "2", "1", "6", "1", "4"],
    ["scheduler.log", "0", "1", "3", "1", "0"],
]


def left_over(azure: Azure) -> list[str]:
    with azure.batch() as batch, azure.blobs() as blobs:
        pools = [f"pool {pool.id}" for pool in batch.list_pools() if pool.state != "deleting"]
        jobs = [f"job {job.id}" for job in batch.list_jobs() if job.state != "deleting"]
        return (
            pools
            + jobs
            + [f"container {container.name}" for container in blobs.list_containers(name_starts_with="log-levels-")]
        )


def artifact_keys(flow_run_id: object) -> set[str]:
    with get_client(sync_client=True) as client:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))  # type: ignore[list-item]
        return {str(artifact.key) for artifact in client.read_artifacts(artifact_filter=only)}


def test_one_command_runs_the_example_on_the_embedded_local_azure(
    prefect_server: None, no_azure: None, tmp_path: Path
) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "examples.log_levels.flow"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[: len(TABLE)]] == TABLE
    (file,) = tmp_path.glob("results/*/log-levels.csv")
    assert list(csv.reader(file.open())) == TABLE


@pytest.mark.usefixtures("prefect_server")
def test_a_file_that_fails_is_named_and_may_be_allowed_and_nothing_is_left(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = tmp_path / "picky.py"
    picky.write_text(f'import os\nif "api" in os.environ["INPUT_FILE"]: raise SystemExit("I refuse")\n{script()}')
    monkeypatch.setattr(example, "NODE_SCRIPT", picky)
    settings = RunSettings(output_folder=str(tmp_path), allow_failures=1)

    state = example.log_levels([str(LOGS)], settings=settings, return_state=True)
    assert list(state.result()["file"]) == ["worker.log", "scheduler.log"]
    keys = artifact_keys(state.state_details.flow_run_id)
    assert keys == {"sas-links", "batch-task-states", "batch-task-progress", "log-levels", "run-report"}
    assert left_over(azure) == []

    with pytest.raises(TasksFailed, match=r"1 of 3 Batch tasks failed; the summary in .* lacks api\.log"):
        example.log_levels([str(LOGS)], settings=settings.model_copy(update={"allow_failures": 0}))
    assert left_over(azure) == []
    assert len(list(tmp_path.glob("log-levels-*/logs/topNtask0/stderr.txt"))) == 2


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("levels", "message"),
    [((), r"levels holds \[\]; name"), (("ERROR", "a b"), r"levels holds \['a b'\]; name")],
)
def test_levels_that_no_line_can_hold_are_refused(azure: Azure, levels: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        example.log_levels([str(LOGS)], levels=levels)
    assert left_over(azure) == []


def test_a_line_counts_for_the_first_level_that_it_holds_as_a_word(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"INFO then ERROR\nERRORS\n\xff\xfe ERROR\n\nDEBUG")
    assert count(str(log), ["ERROR", "INFO"]) == {"ERROR": 1, "INFO": 1, "other": 3}


def test_log_lines_in_utf_16_and_32_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    text = "\ufeffINFO naïve\nWARNING: ERROR\r\nnothing\n"
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"):
        log.write_bytes(text.encode(encoding))
        assert count(str(log), ["ERROR", "WARNING", "INFO"]) == {"ERROR": 0, "WARNING": 1, "INFO": 1, "other": 1}


def test_a_binary_log_is_refused_naming_it(tmp_path: Path) -> None:
    assert NOT_TEXT == top_words.NOT_TEXT == 65
    log = tmp_path / "a.log"
    for data in (gzip.compress(b"ERROR"), b"ERROR\0\0", "ERROR\n".encode("utf-16-le")):
        log.write_bytes(data)
        with pytest.raises(NotText):
            count(str(log), ["ERROR"])
    log.write_bytes(codecs.BOM_UTF16_LE)
    assert count(str(log), ["ERROR"]) == {"ERROR": 0, "other": 0}


def test_the_node_script_ends_a_failed_upload_as_the_flow_expects_and_shows_no_token(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("ERROR")
    options = ["--filepath=a.log", "--storageaccount=http://127.0.0.1:1", "--storagecontainer=c", "ERROR"]
    environment = {"OUTPUT_SAS_TOKEN": "sig=secret"}
    command = [sys.executable, str(example.NODE_SCRIPT), *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == UPLOAD_FAILED == top_words.UPLOAD_FAILED
    assert done.stderr.startswith("Upload of a_OUTPUT.log to http://127.0.0.1:1/c failed: ")
    assert "secret" not in done.stdout + done.stderr


def script() -> str:
    """The node script's text, without the line that must be the first of a file."""
    return (
        (ROOT / "examples" / "log_levels" / "count_levels.py")
        .read_text()
        .replace("from __future__ import annotations\n", "")
    )
