"""Each Batch task without success is reported with its cause, and costs no other file its result."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch.models import (
    BatchTask,
    BatchTaskConstraints,
    BatchTaskCreateOptions,
    BatchTaskExecutionInfo,
    BatchTaskFailureInfo,
    EnvironmentSetting,
    NameValuePair,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State

from flows.top_words import top_words
from tasks.accounts.clients import Azure
from tasks.errors import TasksFailed
from tasks.reporting.events import BatchTaskFailed, CleanedUp, Payload, PoolReady, RunEvents
from tasks.run.outcomes import AddedTask, Cause, TaskOutcome
from tasks.run.settings import CleanUp, Disposal, PoolSettings, TimeLimits
from tasks.summary import Summary
from tests.support.accounts import accounts_of, clear
from tests.support.flow_runs import Change, _as_it_is, artifact, fates_of, logged, only_job, shell, write_texts
from tests.support.monitoring import monitor_at, pace
from tests.support.polling import wait_until

pytestmark = pytest.mark.usefixtures("prefect_server")


def _no_such_command(task: BatchTaskCreateOptions) -> None:
    task.command_line = "no-such-command"


def _a_second(task: BatchTaskCreateOptions) -> None:
    shell("echo just a moment >&2; sleep 600")(task)
    task.constraints = BatchTaskConstraints(max_wall_clock_time=timedelta(seconds=1), max_task_retry_count=2)


def _wrong_signature(task: BatchTaskCreateOptions) -> None:
    (file,) = task.resource_files or []
    file.http_url = re.sub("sig=.{8}", "sig=AAAAAAAA", file.http_url or "")


def _token_revoked(task: BatchTaskCreateOptions) -> None:
    settings = {setting.name: setting.value or "" for setting in task.environment_settings or []}
    settings["OUTPUT_SAS_TOKEN"] = re.sub("sig=.{8}", "sig=AAAAAAAA", settings["OUTPUT_SAS_TOKEN"])
    task.environment_settings = [EnvironmentSetting(name=name, value=value) for name, value in settings.items()]


def _logs_not_taken(task: BatchTaskCreateOptions) -> None:
    for file in task.output_files or []:
        assert file.destination.container
        url = file.destination.container.container_url
        file.destination.container.container_url = url.replace("-output?", "-nowhere?")


FATES: Mapping[str, Change] = {
    "barred": _wrong_signature,
    "empty": shell("exit 0"),
    "good": _as_it_is,
    "late": _a_second,
    "missing": _as_it_is,  # its blob is deleted once it is uploaded
    "nostart": _no_such_command,
    "replaced": _as_it_is,  # a page of a proxy takes the place of its blob
    "silenced": _logs_not_taken,
    "stopped": shell("echo so far so good >&2; sleep 600"),
    "unsent": _token_revoked,
    "wellbehaved": _as_it_is,
    "wrong": shell("echo first >&2; echo the kitchen is closed >&2; exit 3"),
}
GOOD = ["good", "wellbehaved"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """How a Batch task without success is reported."""

    cause: Cause
    code: str
    exit_code: int | None = None
    retries: int = 0
    stderr: str = ""
    ran: bool = True  # so that there is something to keep of its stdout and stderr

    @property
    def category(self) -> str:
        return "UserError" if self.code else ""  # of what the service calls a success


DENIED = "HTTP 403 AuthorizationFailure. The SAS token has expired, or does not permit create and write in this"
REPLACED = (
    "input/replaced.txt is not what was uploaded: expected 22 bytes with MD5 1fb465ae8f21811cbae68ce9971a579e, "
    "found 6 bytes with MD5 166248a6129a1e4370d20adc2d4c23f3"
)
EXPECTED = {
    "barred": Expected(cause=Cause.FETCH, code="BlobAccessDenied", ran=False),
    "late": Expected(cause=Cause.TIME_LIMIT, code="TaskEnded", exit_code=143, stderr="just a moment"),
    "missing": Expected(cause=Cause.FETCH, code="BlobNotFound", ran=False),
    "empty": Expected(cause=Cause.NO_OUTPUT, code="", exit_code=0),
    "nostart": Expected(cause=Cause.START, code="CommandProgramNotFound", ran=False),
    "replaced": Expected(cause=Cause.FETCH, code="FailureExitCode", exit_code=73, retries=1, stderr=REPLACED),
    "silenced": Expected(cause=Cause.UPLOAD, code="FileUploadAccessDenied", exit_code=0),
    "stopped": Expected(cause=Cause.TERMINATED, code="TaskEnded", exit_code=143, stderr="so far so good"),
    "unsent": Expected(cause=Cause.UPLOAD, code="FailureExitCode", exit_code=74, retries=1, stderr=DENIED),
    "wrong": Expected(
        cause=Cause.EXIT_CODE, code="FailureExitCode", exit_code=3, retries=1, stderr="first\nthe kitchen is closed"
    ),
}
EACH_FATE = pytest.mark.parametrize("fate", sorted(EXPECTED))


@dataclass(frozen=True, kw_only=True)
class Fates:
    """A run in which each file's Batch task met the fate that its file is named after."""

    name: str
    state: State[Any]
    error: TasksFailed
    outcomes: Mapping[str, TaskOutcome]
    log: Sequence[logging.LogRecord]
    table: Mapping[str, Mapping[str, Any]]
    blobs: Sequence[str]
    results: Path


def stop_once_it_has_spoken(batch: BatchClient, task: str) -> None:
    job = only_job(batch)
    if not job or batch.get_task(job, task).state != "running":
        return
    with suppress(HttpResponseError):  # the file may not be there yet
        if b"".join(batch.download_task_file(job, task, "stderr.txt")):
            batch.terminate_task(job, task)


def descriptions(state: State[Any]) -> str:
    assert state.state_details.flow_run_id
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return "\n".join(str(each.description) for each in client.read_artifacts(artifact_filter=only))


@pytest.fixture(scope="module")
def fates(
    troubled_settings: dict[str, str], prefect_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fates]:
    folder = tmp_path_factory.mktemp("fates")
    stopped = f"topNtask{sorted(FATES).index('stopped')}"
    with pytest.MonkeyPatch.context() as environment, logged() as log:
        azure = accounts_of(troubled_settings, environment)

        def lose_the_blob(task: BatchTaskCreateOptions) -> None:
            with azure.blobs() as blobs:
                blobs.get_blob_client(f"{only_job(batch)}-input", "missing.txt").delete_blob()

        def replace_the_blob(task: BatchTaskCreateOptions) -> None:
            with azure.blobs() as blobs:
                blob = blobs.get_blob_client(f"{only_job(batch)}-input", "replaced.txt")
                blob.upload_blob("<html>", overwrite=True)

        fates_of(environment, {**FATES, "missing": lose_the_blob, "replaced": replace_the_blob})
        with azure.batch() as batch:
            monitor_at(environment, pace(lambda: stop_once_it_has_spoken(batch, stopped)))
            state = top_words(
                inputs=write_texts(folder / "texts", sorted(FATES)),
                top_n=1,
                pool=PoolSettings(dedicated_nodes=1, vm_size=("standard_d4s_v3",), slots_per_node=len(FATES)),
                output_folder=str(folder / "results"),
                clean_up=CleanUp(containers=Disposal.KEEP),
                return_state=True,
            )
        error = state.result(raise_on_failure=False)
        assert isinstance(error, TasksFailed), error
        (results,) = (folder / "results").iterdir()
        with azure.blobs() as blobs:
            container = blobs.get_container_client(f"{results.name}-output")
            yield Fates(
                name=results.name,
                state=state,
                error=error,
                outcomes={Path(outcome.file).stem: outcome for outcome in error.outcomes},
                log=log,
                table={Path(row["file"]).stem: row for row in artifact(state, "batch-task-states")},
                blobs=[blob.name for blob in container.list_blobs()],
                results=results,
            )
        clear(azure, results.name)


@EACH_FATE
def test_the_outcome_has_cause_exit_code_node_and_stderr(fates: Fates, fate: str) -> None:
    outcome, expected = fates.outcomes[fate], EXPECTED[fate]
    category, code = (outcome.failure.category, outcome.failure.code) if outcome.failure else ("", "")
    assert (outcome.cause, category, code) == (expected.cause, expected.category, expected.code)
    assert (outcome.exit_code, outcome.retries, outcome.requeues) == (expected.exit_code, expected.retries, 0)
    assert (outcome.completed, outcome.succeeded) == (True, False)
    assert re.fullmatch(r"tvmps_[0-9a-f]{64}_d", outcome.node or "")
    assert expected.stderr in outcome.stderr
    assert bool(expected.stderr) == bool(outcome.stderr)


def line_of(fate: str, outcome: TaskOutcome) -> str:
    """What a person reads of it first."""
    expected = EXPECTED[fate]
    exit_code = "" if expected.exit_code is None else f", exit code {expected.exit_code}"
    retries = f", {expected.retries} retry" if expected.retries else ""
    detail = f" ({outcome.detail})" if outcome.detail else ""
    service = f": {expected.code} ({expected.category}): " if expected.code else ""
    return f"{expected.cause.value}{detail}{exit_code}, node {outcome.node}{retries}{service}"


@EACH_FATE
def test_the_log_has_it_with_the_end_of_stderr(fates: Fates, fate: str) -> None:
    outcome = fates.outcomes[fate]
    (message,) = [
        record.getMessage()
        for record in fates.log
        if record.levelno == logging.ERROR and record.getMessage().startswith(f"Batch task {outcome.id} ")
    ]
    assert message.startswith(f"Batch task {outcome.id} ({fate}.txt) {line_of(fate, outcome)}")
    lines = EXPECTED[fate].stderr.split("\n") if EXPECTED[fate].stderr else []
    assert message.count("\n  stderr: ") == len(lines)
    assert all(line in message.partition("\n  stderr: ")[2] for line in lines)


@EACH_FATE
def test_the_table_of_batch_tasks_has_it(fates: Fates, fate: str) -> None:
    row, expected = fates.table[fate], EXPECTED[fate]
    assert row["state"].startswith(f"failed: {expected.cause.value}")
    assert (row["exit code"], row["retries"], row["requeues"]) == (expected.exit_code, expected.retries, 0)
    assert (row["failure"] or "").startswith(f"{expected.code} ({expected.category}): " if expected.code else "")
    assert expected.stderr in (row["stderr"] or "")
    assert row["node"].startswith("tvmps_")


@EACH_FATE
def test_the_exception_has_it(fates: Fates, fate: str) -> None:
    outcome = fates.outcomes[fate]
    assert f"\n{fate}.txt: Batch task {outcome.id} {line_of(fate, outcome)}" in str(fates.error)
    assert EXPECTED[fate].stderr.replace("\n", "\n  stderr: ") in str(fates.error)


def test_good_files_are_summarised_and_the_others_named(fates: Fates) -> None:
    names = ", ".join(f"{fate}.txt" for fate in sorted(EXPECTED))
    summary = fates.error.summary
    assert summary
    assert str(fates.error).startswith(
        f"10 of 12 Batch tasks failed; the summary in {fates.results} lacks {names}\nbarred.txt: "
    )
    assert summary.missing == tuple(f"{fate}.txt" for fate in sorted(EXPECTED))
    assert summary.by_file[["file", "word", "count"]].values.tolist() == [[f"{n}.txt", n, 2] for n in GOOD]
    assert sorted(path.name for path in fates.results.glob("*/*_OUTPUT.txt")) == [f"{n}_OUTPUT.txt" for n in GOOD]
    assert (fates.results / "summary.csv").read_text().count("\n") == 1 + len(GOOD)
    assert f"Top words of each file, without {names}" in descriptions(fates.state)
    assert [fates.table[name]["state"] for name in GOOD] == ["completed"] * 2


def test_what_a_batch_task_wrote_is_kept_whatever_its_outcome(fates: Fates) -> None:
    kept = {name for name in fates.blobs if name.startswith("logs/")}
    # That of `silenced` was refused by its container, and a task that somebody terminates is not waited for.
    ended = [name for name, outcome in fates.outcomes.items() if name in GOOD or EXPECTED[name].ran]
    ids = [fates.outcomes[name].id for name in ended if name not in ("silenced", "stopped")]
    assert {f"logs/{id}/{stream}.txt" for id in ids for stream in ("stdout", "stderr")} <= kept


def test_what_failed_batch_tasks_wrote_is_downloaded(fates: Fates) -> None:
    written = {path.parent.name: path.read_text() for path in fates.results.glob("logs/*/stderr.txt")}
    assert written["wrong.txt"] == "first\nthe kitchen is closed\n"
    assert written["late.txt"] == "just a moment\n"
    assert DENIED in written["unsent.txt"]
    assert not set(written) & {f"{name}.txt" for name in GOOD}
    assert (fates.results / "logs" / "wrong.txt" / "stdout.txt").read_text() == ""


# With fewer files, and other ends.


WRONG = {"wrong": FATES["wrong"], "worse": shell("echo cold soup >&2; exit 4")}


def run_with_failures(folder: Path, *names: str, allow_failures: int = 0) -> State[Any]:
    return top_words(
        inputs=write_texts(folder / "texts", names),
        top_n=1,
        pool=PoolSettings(dedicated_nodes=1, slots_per_node=4),
        limits=TimeLimits(task_retries=0),
        output_folder=str(folder / "results"),
        allow_failures=allow_failures,
        return_state=True,
    )


def test_a_run_completes_with_as_many_failures_as_are_allowed(
    troubled: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fates_of(monkeypatch, WRONG)
    monitor_at(monkeypatch, pace())
    state = run_with_failures(tmp_path, "good", "wrong", allow_failures=1)
    summary = state.result()
    assert state.is_completed()
    assert isinstance(summary, Summary)
    assert (summary.missing, list(summary.by_file["file"])) == (("wrong.txt",), ["good.txt"])
    said = f"the summary in {summary.folder} lacks wrong.txt; allow_failures is 1"
    assert [record.levelname for record in caplog.records if record.getMessage() == said] == ["WARNING"]
    assert str(summary).endswith("\nWithout output: wrong.txt")
    assert (summary.folder / "logs" / "wrong.txt" / "stderr.txt").read_text().endswith("the kitchen is closed\n")


def test_more_failures_than_allowed_fail_with_their_stderr(
    troubled: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_the_pool_once_all_has_run() -> None:
        job = next(iter(batch.list_jobs()), None)
        if job and all(task.state == "completed" for task in batch.list_tasks(job.id)):
            with suppress(ResourceNotFoundError):
                batch.begin_delete_pool(job.id, polling_interval=0.05).wait()  # type: ignore[arg-type]

    fates_of(monkeypatch, WRONG)
    with troubled.batch() as batch:
        monitor_at(monkeypatch, pace(remove_the_pool_once_all_has_run))
        error = run_with_failures(tmp_path, "good", "worse", "wrong", allow_failures=1).result(raise_on_failure=False)
        wait_until(lambda: not list(batch.list_jobs()))
    assert isinstance(error, TasksFailed)
    assert str(error).startswith("2 of 3 Batch tasks failed; the summary in ")
    assert [outcome.stderr for outcome in error.outcomes] == ["", "cold soup", "first\nthe kitchen is closed"]
    (results,) = (tmp_path / "results").iterdir()
    assert (results / "logs" / "worse.txt" / "stderr.txt").read_text() == "cold soup\n"
    assert error.summary
    assert list(error.summary.by_file["word"]) == ["good"]


def test_a_signature_in_the_service_s_words_is_blanked() -> None:
    url = "https://a.blob.example/in/a.txt?sp=r&sig=c2VjcmV0&se=2026"
    failure = BatchTaskFailureInfo(
        category="UserError",
        code="BlobAccessDenied",
        message=f"Access to {url} is denied",
        details=[NameValuePair(name="BlobSource", value=url)],
    )
    task = BatchTask({"id": "t", "state": "completed"})
    task.execution_info = BatchTaskExecutionInfo(retry_count=0, requeue_count=0, failure_info=failure)
    outcome = TaskOutcome.of(AddedTask(id="t", file="a.txt"), task)
    assert "c2VjcmV0" not in f"{outcome.why()} {outcome!r}"
    assert outcome.why().count("sig=***&se=2026") == 2


# When it is expected.


def test_a_failure_is_reported_while_other_tasks_still_run(
    troubled: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Payload] = []
    monkeypatch.setattr(RunEvents, "emit", lambda self, payload: sent.append(payload))
    gate = tmp_path / "gate"
    held = shell(f"until test -e {gate}; do sleep 0.05; done")
    fates_of(monkeypatch, {"bad": shell("echo no soup >&2; exit 3"), "slow": held})

    def beat() -> None:
        in_log = any("(bad.txt) exited non-zero" in message for message in caplog.messages)
        if in_log and any(isinstance(payload, BatchTaskFailed) for payload in sent):
            gate.touch()

    monitor_at(monkeypatch, pace(beat))  # which gives up where nothing is reported
    state = top_words(
        inputs=write_texts(tmp_path / "texts", ["bad", "slow"]),
        pool=PoolSettings(dedicated_nodes=1, slots_per_node=2),
        limits=TimeLimits(task_retries=0),
        output_folder=str(tmp_path / "results"),
        return_state=True,
    )
    (results,) = (tmp_path / "results").iterdir()
    ready, failed, without, cleaned_up = sent
    assert state.is_failed()
    assert isinstance(without, BatchTaskFailed)
    assert (without.file, without.code, without.exit_code) == ("slow.txt", "", 0)
    assert without.message == "left no output (no blob records/slow.txt.json)"
    assert isinstance(failed, BatchTaskFailed)
    assert (failed.job_id, failed.task_id, failed.file) == (results.name, "topNtask0", "bad.txt")
    assert (failed.category, failed.code, failed.exit_code) == ("UserError", "FailureExitCode", 3)
    assert ready == PoolReady(pool_id=results.name, vm_size="Standard_D2ads_v5", dedicated_nodes=1, spot_nodes=0)
    assert cleaned_up == CleanedUp(job_id=results.name, deleted=("containers", "job", "pool"))
    reported = [message for message in caplog.messages if "(bad.txt) exited non-zero" in message]
    assert len(reported) == 1
    assert reported[0].endswith("\n  stderr: no soup")
