"""A whole run in a container image, by the engine of this machine where it runs containers, else by a stand-in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.run_script import run_script
from local_azure.embedded import embedded_azure
from tasks.accounts.clients import Azure
from tasks.errors import InputError
from tasks.run.settings import PoolSettings
from tests.support.accounts import accounts_of, left_over
from tests.support.containers import IMAGE, why_no_containers, write_stand_in

SCRIPT = '#!/bin/sh\ncat "$1" "$1" > "$OUTPUT_DIR/twice"\necho "$TASKS_PER_NODE of $IMAGE"\n'
POOL = PoolSettings(dedicated_nodes=1, container_image=IMAGE)  # whose default image runs containers


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "twice.sh"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.txt").write_text(name)
    return str(path)


@pytest.fixture
def azure_with_engine(no_azure: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    if why_no_containers():
        write_stand_in(tmp_path / "programs")
        monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    with embedded_azure() as settings:
        yield accounts_of(settings, monkeypatch)


def test_a_run_in_a_container_image(
    prefect_server: None, azure_with_engine: Azure, script: str, tmp_path: Path
) -> None:
    results = run_script(
        script, [str(tmp_path / "in" / "**" / "*.txt")], pool=POOL, output_folder=str(tmp_path / "out")
    )
    assert list(results.outcomes["file"]) == ["a/x.txt", "b/x.txt"]
    assert [(results.folder / name / "x.txt" / "twice").read_text() for name in "ab"] == ["aa", "bb"]
    assert (results.folder / "logs" / "a" / "x.txt" / "stdout.txt").read_text().startswith("1 of ")
    assert left_over(azure_with_engine) == []


def test_an_image_without_containers_creates_nothing(
    prefect_server: None, azure: Azure, script: str, tmp_path: Path
) -> None:
    before = left_over(azure)
    pool = PoolSettings(container_image=IMAGE, image="canonical:ubuntu-24_04-lts:server")
    with pytest.raises(InputError) as error:
        run_script(script, [script], output_folder=str(tmp_path), pool=pool)
    able = "microsoft-dsvm:ubuntu-hpc:2204, microsoft-dsvm:ubuntu-hpc:2404"
    assert str(error.value).endswith(f"; use another image: {able}")
    assert left_over(azure) == before
