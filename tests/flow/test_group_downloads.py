"""Step 7 where files had a Batch task together: what counts of the lists of records that nodes write."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient, ContentSettings

from tasks.accounts.clients import Azure
from tasks.download import download_output
from tasks.run.downloads import Download
from tasks.run.group_records import for_each_group, read_group_records
from tasks.run.identity import Role, Run
from tasks.run.outcomes import AddedTask, Cause, Monitored, TaskOutcome, log_blob
from tasks.run.records import Output, Record, record_blob
from tasks.run.results import Results
from tasks.run.uploads import Bundle, UploadedFile, Uploads
from tasks.watching.file_results import of_files, proven, with_distinct_ids
from tests.support.downloads import (
    GROUP,
    container,
    failure,
    file,
    parse,
    put,
    quick,
    record_of,
    remembered,
    run,
    success,
)
from tests.support.fault_proxy import FaultProxies

__all__ = ["container", "quick", "run"]  # fixtures

MEMBERS = ("d/e.txt", "f.txt", "g.txt")
ALONE = "a.txt"  # has a Batch task of its own


def member(name: str) -> UploadedFile:
    return replace(file(name), task_id=GROUP)


BUNDLE = Bundle(blob=file("bundle"), digest="")
UPLOADS = Uploads(application=[], inputs=[file(ALONE), *map(member, MEMBERS)], bundles={GROUP: BUNDLE})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(folder=tmp_path / "results", parse=parse)


def outcome(name: str, succeeded: bool = True) -> TaskOutcome:
    id = GROUP if name in MEMBERS else file(name).task_id
    cause = None if succeeded else Cause.EXIT_CODE
    return TaskOutcome(id=id, file=name, state="completed", succeeded=succeeded, cause=cause)


def download(azure: Azure, run: Run, results: Results, failed: str = "") -> dict[str, TaskOutcome]:
    outcomes = [outcome(each.name, each.name != failed) for each in UPLOADS.inputs]
    return {each.file: each for each in download_output.fn(azure, run, UPLOADS, outcomes, results)}


def without_success(outcomes: dict[str, TaskOutcome]) -> list[str]:
    return [name for name, each in outcomes.items() if not each.succeeded]


def test_outputs_come_from_the_records_of_the_group(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    large = b"output of " + b"x" * 70_000
    container.upload_blob("outputs/g.txt/g_OUTPUT.txt", large)
    stored = Output(
        path="g_OUTPUT.txt", blob="outputs/g.txt/g_OUTPUT.txt", size=len(large), md5=hashlib.md5(large).digest()
    )
    put(container, 0, success("d/e.txt", "an earlier output"), failure("f.txt"))
    put(container, 1, success("d/e.txt"), success("f.txt"), record_of("g.txt", Record(outputs=[stored])))
    assert without_success(download(azure, run, results)) == []
    texts = {path.name: path.read_bytes() for path in results.folder.rglob("*_OUTPUT.txt")}
    assert texts == {
        "a_OUTPUT.txt": b"output of a.txt",
        "e_OUTPUT.txt": b"output of d/e.txt",
        "f_OUTPUT.txt": b"output of f.txt",
        "g_OUTPUT.txt": large,
    }
    assert remembered(results) == {ALONE, *MEMBERS}
    assert not list(results.folder.rglob("*.part"))
    assert (results.done()["f.txt"].record.node, results.done()["f.txt"].record.seconds) == ("n1", 0.5)


def test_a_group_costs_a_request_for_each_list_and_a_record_with_its_output_one(
    azure: Azure, azure_settings: dict[str, str], run: Run, container: ContainerClient, results: Results
) -> None:
    put(container, 0, *map(success, MEMBERS))
    container.upload_blob(record_blob(ALONE), json.dumps(success(ALONE)), overwrite=True)
    with FaultProxies() as proxies, proxies.passage(azure_settings, lambda call: None) as passage:
        through = Azure.from_environment(passage.settings)
        assert through
        assert without_success(download(through, run, results)) == []
        paths = [call.path.partition("output/")[2] for call in passage.calls]
    assert sorted(filter(None, paths)) == ["groups/task-0/00000.json", "records/a.txt.json"]


@pytest.mark.parametrize(
    ("text", "data", "cause", "detail"),
    [
        ("output of f.txt", "b3V0cHV0IG9mIGYudHh0", None, ""),
        ("output of f.txt", "T3V0cHV0IG9mIGYudHh0", Cause.DAMAGED, "its MD5 is "),
        ("output of f.txt", "b3V0", Cause.DAMAGED, "3 of 15 bytes"),
        ("output of f.txt", "?", Cause.DAMAGED, "0 of 15 bytes"),
        ("output of f.txt", None, Cause.DAMAGED, "it is neither in the record nor a blob"),
        ("<html>", "PGh0bWw+", Cause.UNREADABLE, "f_OUTPUT.txt is no output"),
    ],
)
def test_an_output_of_no_use_fails_its_file_alone_and_is_made_void(
    azure: Azure,
    run: Run,
    container: ContainerClient,
    results: Results,
    text: str,
    data: str | None,
    cause: Cause | None,
    detail: str,
) -> None:
    record = success("f.txt", text)
    record["outputs"][0] |= {"data": data}
    put(container, 0, success("d/e.txt"), record, success("g.txt"))
    found = download(azure, run, results)["f.txt"]
    assert (found.cause, found.succeeded, found.id) == (cause, cause is None, GROUP)
    assert detail in found.detail
    lasting = {ALONE, "d/e.txt", "g.txt"} | ({"f.txt"} if cause is None else set())
    assert remembered(results) == lasting
    # A retry takes it for done neither here nor there; a record that is written from now on counts.
    assert {*read_group_records(azure, run)[GROUP].files, ALONE} == lasting
    put(container, 1, success("f.txt"))
    assert set(read_group_records(azure, run)[GROUP].files) == set(MEMBERS)
    assert without_success(download(azure, run, results)) == []


def garbled(container: ContainerClient) -> None:
    container.upload_blob(f"groups/{GROUP}/00000.json", "[{", overwrite=True)


def damaged(container: ContainerClient) -> None:
    wrong = ContentSettings(content_md5=bytearray(hashlib.md5(b"other").digest()))
    container.get_blob_client(f"groups/{GROUP}/00000.json").set_http_headers(wrong)


def gone(container: ContainerClient) -> None:
    container.delete_blob(f"groups/{GROUP}/00000.json")


@pytest.mark.parametrize(
    ("change", "cause", "detail"),
    [
        (garbled, Cause.DAMAGED, "groups/task-0/00000.json: Expecting property name"),
        (damaged, Cause.DAMAGED, f"that of the blob is {hashlib.md5(b'other').hexdigest()}"),
        (gone, Cause.NO_OUTPUT, "no record of it in groups/task-0"),
    ],
)
def test_a_list_of_no_use_fails_only_the_files_whose_last_record_is_in_it(
    azure: Azure, run: Run, container: ContainerClient, results: Results, change: object, cause: Cause, detail: str
) -> None:
    put(container, 0, success("d/e.txt"), success("f.txt"))
    put(container, 1, success("g.txt"))
    assert callable(change)
    change(container)
    outcomes = download(azure, run, results)
    assert without_success(outcomes) == ["d/e.txt", "f.txt"]
    assert {outcomes[name].cause for name in ("d/e.txt", "f.txt")} == {cause}
    assert detail in outcomes["f.txt"].detail
    assert remembered(results) == {ALONE, "g.txt"}


def test_what_a_failed_file_wrote_comes_from_its_record(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    put(container, 0, success("d/e.txt"), failure("f.txt"), success("g.txt"))
    container.upload_blob(log_blob(GROUP, "stderr.txt"), "of all files")
    assert without_success(download(azure, run, results, failed="f.txt")) == ["f.txt"]
    logs = {str(path.relative_to(results.folder)): path.read_text() for path in results.folder.rglob("std*.txt")}
    assert logs == {"logs/f.txt/stdout.txt": "so far", "logs/f.txt/stderr.txt": "PUT ?sig=***&x"}


def test_what_other_files_wrote_comes_from_their_records_also_when_the_step_is_tried_again(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    first = success("d/e.txt", stdout_end="--- g.txt\n", stderr_end="sig=abc")
    put(container, 0, first, success("f.txt"), success("g.txt", stdout_end="one"))
    container.upload_blob(log_blob(GROUP, "stdout.txt"), "--- g.txt\nof a later try of the Batch task")
    for _ in range(2):
        assert without_success(download(azure, run, results)) == []
        logs = {str(path.relative_to(results.folder)): path.read_text() for path in results.folder.rglob("std*.txt")}
        assert logs == {
            "logs/d/e.txt/stdout.txt": "--- g.txt\n",
            "logs/d/e.txt/stderr.txt": "sig=***",
            "logs/g.txt/stdout.txt": "one",
        }


def test_outputs_of_another_group_of_a_previous_attempt_are_found(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    put(container, 0, success("f.txt"))
    put(container, 0, success("d/e.txt"), success("x.txt"), group="task-9")
    container.delete_blob(record_blob(ALONE))
    put(container, 1, success(ALONE), group="task-9")
    container.upload_blob(record_blob("g.txt"), json.dumps(success("g.txt")))
    assert without_success(download(azure, run, results)) == []
    assert remembered(results) == {ALONE, *MEMBERS}


def test_kept_outputs_need_their_records_alone(
    azure: Azure, run: Run, container: ContainerClient, tmp_path: Path
) -> None:
    put(container, 0, *map(success, MEMBERS))
    kept = Results(folder=tmp_path / "results", kept="https://a.blob.core.windows.net/c")
    assert without_success(download(azure, run, kept)) == []
    assert sorted(path.name for path in kept.folder.iterdir()) == [".done.json"]


def test_files_of_one_failed_group_are_counted_one_by_one(azure: Azure, run: Run, container: ContainerClient) -> None:
    put(container, 0, success("d/e.txt"), failure("f.txt"))
    task = AddedTask(id=GROUP, file="d/e.txt and 2 more", members=MEMBERS)
    earlier = AddedTask(id=GROUP, file=ALONE, earlier=True)
    watched = with_distinct_ids([earlier, task])
    assert [each.id for each in watched] == [f"{GROUP}-0", GROUP]
    ended = replace(outcome("f.txt", False), file=task.file, exit_code=3)
    monitored: Any = Monitored(outcomes=[TaskOutcome.of(watched[0], None), ended], pool=None)  # type: ignore[arg-type]
    found = of_files(azure, run, [earlier, task], monitored).outcomes
    assert [(each.id, each.file, each.succeeded, each.exit_code, each.cause) for each in found] == [
        (GROUP, ALONE, True, None, None),
        (GROUP, "d/e.txt", True, 0, None),
        (GROUP, "f.txt", False, 3, Cause.EXIT_CODE),
        (GROUP, "g.txt", False, None, Cause.NOT_RUN),
    ]
    assert found[2].stderr == "PUT ?sig=***&x"


def test_a_batch_task_that_is_gone_is_proven_by_all_its_records(
    azure: Azure, run: Run, container: ContainerClient
) -> None:
    put(container, 0, success("d/e.txt"), success("f.txt"))
    tasks = [
        AddedTask(id=file(ALONE).task_id, file=ALONE),
        AddedTask(id=GROUP, file="d/e.txt and 1 more", members=("d/e.txt", "f.txt")),
    ]
    there = proven(azure, run, tasks)
    assert [record_blob(task.file) in there for task in tasks] == [True, True]
    assert record_blob(tasks[1].file) not in proven(azure, run, [replace(tasks[1], members=MEMBERS)])


def test_records_are_read_group_by_group(azure: Azure, run: Run, container: ContainerClient) -> None:
    put(container, 0, success("d/e.txt"))
    put(container, 0, success("x.txt"), group="other")
    assert for_each_group(azure, run, {GROUP}, lambda id, records: list(records.files)) == {GROUP: ["d/e.txt"]}
    assert set(read_group_records(azure, run)) == {GROUP, "other"}


def test_of_a_container_that_is_gone_there_are_no_records(azure: Azure, run: Run) -> None:
    with azure.blobs() as blobs, pytest.raises(ResourceNotFoundError):
        blobs.get_container_client(run.container(Role.OUTPUT)).get_container_properties()
    assert read_group_records(azure, run) == {}


def test_a_download_that_is_stopped_begins_no_other_file(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    put(container, 0, *map(success, MEMBERS))
    stopped = Download(results=results)
    stopped.stop.set()
    stopped.fetch(azure, run, UPLOADS.inputs, UPLOADS.bundles)
    assert (stopped.stored, stopped.useless) == ({}, {})
