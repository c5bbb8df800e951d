"""Outputs that stay in Blob Storage: where they can be, and the manifest beside them."""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from azure.storage.blob import ContainerClient, ContentSettings
from prefect.logging import disable_run_logger
from pydantic import SecretStr

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.errors import InputError
from tasks.inputs.content import new_md5
from tasks.kept import check_destination, save_manifest
from tasks.run.destination import Destination
from tasks.run.kept_outputs import made_in_blobs
from tasks.run.outcomes import TaskOutcome
from tasks.run.program import Done, Program
from tasks.run.records import Output, Record
from tasks.run.results import Results


@pytest.fixture(autouse=True)
def no_run() -> Iterator[None]:
    with disable_run_logger():
        yield


@pytest.fixture
def container(azure: Azure) -> Iterator[ContainerClient]:
    with azure.blobs() as blobs:
        container = blobs.create_container(f"ours-{secrets.token_hex(6)}")
        yield container
        container.delete_container()


@pytest.fixture
def destination(azure: Azure, container: ContainerClient) -> Destination:
    endpoint = azure.storage_account.endpoint
    return Destination(endpoint=endpoint, container=str(container.container_name), prefix="out/here", kept=True)


def results_of(folder: Path, made: Mapping[str, Done]) -> Results:
    results = Results(folder=folder, kept="az://account/ours/out/here")
    folder.mkdir()
    results.remember(made)
    return results


def done(name: str, size: int = 3) -> Done:
    output = Output(path="o", blob=f"out/here/{name}/o", size=size, md5=new_md5(b"abc").digest())
    return Done(content="c", program=Program(script="s", arguments="a"), record=Record(outputs=(output,)))


def content_md5(data: bytes) -> ContentSettings:
    return ContentSettings(content_md5=bytearray(new_md5(data).digest()))


def save(azure: Azure, destination: Destination, folder: Path, *names: str) -> None:
    outcomes = [TaskOutcome(id="t", file=name, state="completed", succeeded=True) for name in names]
    save_manifest(azure, outcomes, results_of(folder, {name: done(name) for name in names}), destination)


def test_runs_that_end_at_once_all_have_their_rows(
    azure: Azure, container: ContainerClient, destination: Destination, tmp_path: Path
) -> None:
    names = [f"{number}.txt" for number in range(8)]
    in_parallel(lambda name: save(azure, destination, tmp_path / f"run-{name}", name), names)
    table = pd.read_parquet(io.BytesIO(container.download_blob("out/here/manifest.parquet").readall()))
    rows = list(
        csv.DictReader(io.StringIO(container.download_blob("out/here/manifest.csv", encoding="utf-8").readall()))
    )
    assert sorted(table["file"]) == names
    assert [row["file"] for row in rows] == table["file"].tolist()


def test_outputs_are_gone_where_a_blob_is_deleted_or_another(
    azure: Azure, container: ContainerClient, destination: Destination, tmp_path: Path
) -> None:
    assert made_in_blobs(azure, destination) == ({}, set())
    save(azure, destination, tmp_path / "run", "a", "b", "c")
    for name, data in (("a", b"abc"), ("b", b"abd")):
        container.upload_blob(f"out/here/{name}/o", data, content_settings=content_md5(data))
    assert made_in_blobs(azure, destination) == ({name: done(name) for name in "abc"}, {"b", "c"})


def test_a_place_that_cannot_take_outputs_is_refused_with_the_fix(azure: Azure, destination: Destination) -> None:
    check_destination(azure, destination)
    with pytest.raises(InputError) as error:
        check_destination(azure, replace(destination, container="absent"))
    assert str(error.value) == (
        f"output {destination.endpoint}/absent/out/here: there is no container 'absent' in the account; create it, or "
        "correct its name: `az storage container create --account-name "
        f"{azure.storage_account.name} --name absent --auth-mode login`"
    )
    wrong = replace(azure.storage_account, key=SecretStr("bm90IHRoZSBrZXk="))
    with pytest.raises(InputError, match=r": the container cannot be used \(AuthorizationFailure\); give the identity"):
        check_destination(replace(azure, storage_account=wrong), destination)
