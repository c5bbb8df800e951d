"""Step 7 on a real Blob Storage: what counts as downloaded, what has failed, and what keeps the output container."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient, ContentSettings

from tasks.accounts.clients import Azure
from tasks.download import download_output
from tasks.errors import NotDownloaded
from tasks.errors.service import ServiceError
from tasks.run.identity import Role, Run
from tasks.run.outcomes import Cause, TaskOutcome
from tasks.run.records import record_blob
from tasks.run.results import Results
from tests.support.downloads import (
    NAMES,
    UPLOADS,
    container,
    file,
    output_blob,
    output_name,
    parse,
    quick,
    remembered,
    run,
    store,
)

__all__ = ["container", "quick", "run"]  # fixtures
from tests.support.fault_proxy import Call, FaultProxies, Mode, Service


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(folder=tmp_path / "results", parse=parse)


def succeeded(name: str) -> TaskOutcome:
    of = file(name)
    return TaskOutcome(id=of.task_id, file=name, state="completed", exit_code=0, succeeded=True)


def download(azure: Azure, run: Run, results: Results) -> dict[str, TaskOutcome]:
    outcomes = download_output.fn(azure, run, UPLOADS, [succeeded(name) for name in NAMES], results)
    return {outcome.file: outcome for outcome in outcomes}


def delete(container: ContainerClient) -> None:
    container.delete_blob(output_blob("b.txt"))


def damage(container: ContainerClient) -> None:
    container.upload_blob(output_blob("b.txt"), "Output of b.txt", overwrite=True)  # as long


def cut(container: ContainerClient) -> None:
    container.upload_blob(output_blob("b.txt"), "output", overwrite=True)


def garble(container: ContainerClient) -> None:
    store(container, "b.txt", "<html>")


def delete_record(container: ContainerClient) -> None:
    container.delete_blob(record_blob("b.txt"))


def garble_record(container: ContainerClient) -> None:
    container.upload_blob(record_blob("b.txt"), "<html>", overwrite=True)


def damage_record(container: ContainerClient) -> None:
    wrong = ContentSettings(content_md5=bytearray(hashlib.md5(b"other").digest()))
    container.get_blob_client(record_blob("b.txt")).set_http_headers(wrong)


@pytest.mark.parametrize(
    ("change", "cause", "detail"),
    [
        (delete, Cause.NO_OUTPUT, "no blob outputs/b.txt/b_OUTPUT.txt"),
        (delete_record, Cause.NO_OUTPUT, "no blob records/b.txt.json"),
        (damage, Cause.DAMAGED, f"its MD5 is {hashlib.md5(b'Output of b.txt').hexdigest()}"),
        (cut, Cause.DAMAGED, "6 of 15 bytes"),
        (damage_record, Cause.DAMAGED, f"that of the blob is {hashlib.md5(b'other').hexdigest()}"),
        (garble_record, Cause.DAMAGED, "records/b.txt.json: "),
        (garble, Cause.UNREADABLE, "b_OUTPUT.txt is no output"),
    ],
)
def test_a_file_whose_output_is_of_no_use_has_failed_alone(
    azure: Azure, run: Run, container: ContainerClient, results: Results, change: object, cause: Cause, detail: str
) -> None:
    assert callable(change)
    change(container)
    outcomes = download(azure, run, results)
    assert {name: outcome.succeeded for name, outcome in outcomes.items()} == {
        "a.txt": True,
        "b.txt": False,
        "c.txt": True,
    }
    assert outcomes["b.txt"].cause is cause
    assert detail in outcomes["b.txt"].why()
    assert remembered(results) == {"a.txt", "c.txt"}
    # A retry takes it for done neither here nor there.
    records = [blob.name for blob in container.list_blobs(name_starts_with="records/")]
    assert sorted(records) == ["records/a.txt.json", "records/c.txt.json"]


def test_a_parser_that_raises_anything_fails_only_its_file(
    azure: Azure, run: Run, container: ContainerClient, tmp_path: Path
) -> None:
    def strict(file: str, folder: Path) -> None:
        if file == "b.txt":
            raise KeyError("levels")

    outcomes = download(azure, run, Results(folder=tmp_path, parse=strict))
    assert [outcome.file for outcome in outcomes.values() if not outcome.succeeded] == ["b.txt"]
    assert "KeyError: 'levels'" in outcomes["b.txt"].why()


def test_a_path_that_cannot_be_written_keeps_the_outputs(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    in_the_way = results.folder / "b.txt"
    results.folder.mkdir()
    in_the_way.touch()
    with pytest.raises(NotDownloaded) as error:
        download(azure, run, results)
    text = str(error.value)
    assert f"could not be downloaded from container {run.container(Role.OUTPUT)} to {results.folder}\n" in text
    assert "b.txt: File exists\n" in text
    assert f"The container keeps them until {run.expires_text}. Free some space there or make it writable" in text
    assert f"retry flow run {run.flow_run_id}" in text
    assert "b.txt" not in remembered(results)
    in_the_way.unlink()
    assert all(outcome.succeeded for outcome in download(azure, run, results).values())
    assert remembered(results) == set(NAMES)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_a_full_disk_is_named_with_the_path(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    results.folder.mkdir()
    (results.folder / ".done.json.part").symlink_to("/dev/full")
    with pytest.raises(NotDownloaded, match=r"reason: .*/\.done\.json\.part: No space left on device\n"):
        download(azure, run, results)


def test_a_folder_that_cannot_be_made_keeps_the_outputs(
    azure: Azure, run: Run, container: ContainerClient, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotDownloaded, match="Not a directory"):
        download(azure, run, Results(folder=tmp_path / "file" / "results"))


def test_storage_that_refuses_downloads_keeps_the_outputs(
    azure: Azure, azure_settings: dict[str, str], run: Run, container: ContainerClient, results: Results
) -> None:
    def refuse(call: Call) -> Mode | None:
        wanted = call.service is Service.BLOBS and call.method == "GET" and call.path.endswith(output_blob("c.txt"))
        return Mode.REFUSED if wanted else None

    with FaultProxies() as proxies, proxies.passage(azure_settings, refuse) as passage:
        through = Azure.from_environment(passage.settings)
        assert through
        with pytest.raises(NotDownloaded, match="reason: Blob Storage answered 503 ServerBusy") as error:
            download(through, run, results)
    assert "Wait until Blob Storage can be read, then retry flow run" in str(error.value)
    assert "c.txt" not in remembered(results)
    assert all(outcome.succeeded for outcome in download(azure, run, results).values())


def test_an_answer_that_breaks_off_is_asked_for_again(
    azure: Azure, azure_settings: dict[str, str], run: Run, container: ContainerClient, results: Results
) -> None:
    def break_off(call: Call) -> Mode | None:
        wanted = call.service is Service.BLOBS and call.method == "GET" and call.path.endswith((".json", "OUTPUT.txt"))
        return Mode.CUT if wanted and call.occurrence == 1 else None

    with FaultProxies() as proxies, proxies.passage(azure_settings, break_off) as passage:
        through = Azure.from_environment(passage.settings)
        assert through
        assert all(outcome.succeeded for outcome in download(through, run, results).values())
        assert len(passage.faulted) == 2 * len(NAMES)
    assert remembered(results) == set(NAMES)


def test_a_container_that_is_gone_is_not_said_to_keep_anything(azure: Azure, run: Run, results: Results) -> None:
    with pytest.raises(ServiceError) as error:
        download(azure, run, results)
    assert error.value.code == "ContainerNotFound"


def test_what_one_try_of_the_step_has_downloaded_the_next_leaves_alone(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    download(azure, run, results)
    before = (results.folder / "a.txt" / "a_OUTPUT.txt").stat().st_mtime_ns
    (results.folder / "c.txt" / "c_OUTPUT.txt").unlink()
    assert all(outcome.succeeded for outcome in download(azure, run, results).values())
    assert (results.folder / "a.txt" / "a_OUTPUT.txt").stat().st_mtime_ns == before
    assert (results.folder / "c.txt" / "c_OUTPUT.txt").read_text() == "output of c.txt"


def test_all_files_of_a_run_have_the_mode_of_the_umask(
    azure: Azure, run: Run, container: ContainerClient, results: Results
) -> None:
    before = os.umask(0o027)
    try:
        download(azure, run, results)
    finally:
        os.umask(before)
    modes = {str(path.relative_to(results.folder)): path.stat().st_mode & 0o777 for path in results.folder.rglob("*")}
    folders = dict.fromkeys(NAMES, 488)
    outputs = {f"{name}/{output_name(name)}": 0o640 for name in NAMES}
    assert modes == {".done.json": 0o640, **folders, **outputs}
